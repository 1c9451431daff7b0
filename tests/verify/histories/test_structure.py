"""Whether the graph of a cell is that of its description: written in many ways it is, and nearly is not enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thetabox as tb
from thetabox.errors import InputError
from thetabox.models import LSNN, LeakyCells, RecurrentModule
from thetabox.verify import arguments
from thetabox.verify.histories.description.check import check_description
from thetabox.verify.histories.description.runs import differs
from thetabox.verify.histories.description.structure import Mismatch, check_structure
from thetabox.verify.network import recurrent
from thetabox.verify.network.graph import Graph
from thetabox.verify.network.trace import trace as traced
from thetabox.verify.problem import Problem

UNITS, CLASSES, STEPS, DT = 4, 3, 6, 0.5


class Base(RecurrentModule):
    """Adaptive cells with recurrence and one silent step, as the description has them; parts are overridden below."""

    refractory = 2

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(2)

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=draw))

        self.W, self.R, self.O, self.o = (
            normal(UNITS, UNITS),
            normal(UNITS, UNITS),
            normal(UNITS, CLASSES),
            normal(CLASSES),
        )
        self.register_buffer("mask", 1 - torch.eye(UNITS))
        self.register_buffer("threshold", torch.full((UNITS,), 0.3))
        self.register_buffer("tau", torch.tensor([20.0, 20.0, 10.0, 20.0]))
        self.register_buffer("tau_adapt", torch.full((UNITS,), 98.0))
        self.register_buffer("beta", torch.full((UNITS,), 1.7))

    def initial_state(self, batch: int) -> Any:
        return tuple(self.W.new_zeros(batch, UNITS) for _ in range(4))

    def alpha(self) -> Tensor:
        return torch.exp(-DT / self.tau)

    def recurrent(self) -> Tensor:
        return self.R * self.mask

    def drive(self, x: Tensor, z: Tensor) -> Tensor:
        return x @ self.W + z @ self.recurrent()

    def adapted(self, b: Tensor, z: Tensor) -> Tensor:
        rho = torch.exp(-DT / self.tau_adapt)
        return rho * b + (1 - rho) * z

    def level(self, b: Tensor) -> Tensor:
        return self.threshold + self.beta * b

    def potential(self, v: Tensor, drive: Tensor, z: Tensor, level: Tensor) -> Tensor:
        alpha = self.alpha()
        return alpha * v + (1 - alpha) * drive - z * level * DT

    def free(self, r: Tensor) -> Tensor:
        return (r <= 0.1).to(r.dtype)

    def above(self, v: Tensor, level: Tensor) -> Tensor:
        return (v > level).to(v.dtype)

    def count(self, r: Tensor, z: Tensor) -> Tensor:
        return torch.clamp(r + self.refractory * z - 1, 0, self.refractory)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        v, b, z, r = state
        b = self.adapted(b, z)
        level = self.level(b)
        v = self.potential(v, self.drive(x_t, z), z, level)
        z = self.free(r) * self.above(v, level)
        return z, (v, b, z, self.count(r, z))

    def readout(self, outputs: Tensor) -> Tensor:
        return outputs.mean(1) @ self.O + self.o

    def leaky_cells(self) -> Any:
        return LeakyCells("W", "R", "O", "o", "threshold", "tau", "tau_adapt", "beta", DT, self.refractory)


class Plain(Base):
    """Without adaptation and silent steps, and without keeping z: the last spikes are found from v anew."""

    refractory = 0

    def initial_state(self, batch: int) -> Any:
        return self.W.new_zeros(batch, UNITS)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        z = self.above(state, self.threshold)
        v = self.potential(state, self.drive(x_t, z), z, self.threshold)
        return self.above(v, self.threshold), v

    def leaky_cells(self) -> Any:
        return replace(super().leaky_cells(), tau_adapt=None, beta=None)


class Two(RecurrentModule):
    """Two layers of ``Base``."""

    def __init__(self, lower: type[Base] = Base, upper: type[Base] = Base) -> None:
        super().__init__()
        self.lower, self.upper = lower(), upper()
        with torch.no_grad():
            self.upper.W.mul_(1.5)

    def initial_state(self, batch: int) -> Any:
        return self.lower.initial_state(batch), self.upper.initial_state(batch)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        below, lower = self.lower.step(x_t, state[0])
        z, upper = self.upper.step(self.between(x_t, below, state[0][2]), state[1])
        return z, (lower, upper)

    def between(self, x_t: Tensor, new: Tensor, old: Tensor) -> Tensor:
        return new

    def readout(self, outputs: Tensor) -> Tensor:
        return self.upper.readout(outputs)

    def leaky_cells(self) -> Any:
        def named(prefix: str, says: LeakyCells, **more: Any) -> LeakyCells:
            return replace(says, **{k: f"{prefix}.{v}" for k, v in vars(says).items() if isinstance(v, str)} | more)

        return [
            named("lower", self.lower.leaky_cells(), weight_out=None, bias_out=None),
            named("upper", self.upper.leaky_cells()),
        ]


def changed(base: type, **methods: Any) -> type:
    """A subclass with other methods."""
    return type("Changed", (base,), methods)


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that are those of ``Base`` are traced once for all: the time of these tests is that of tracing."""

    def trace(model: nn.Module, module: nn.Module, role: str, examples: Any, **how: Any) -> Graph:
        method = {"initial": "initial_state", "readout": "readout"}.get(role, "step")
        if not (isinstance(model, Base) and getattr(type(model), method) is getattr(Base, method)) or role == "step":
            return traced(model, module, role, examples, **how)
        if role not in _TRACED:
            _TRACED[role] = traced(model, module, role, examples, **how)
        return _TRACED[role]

    monkeypatch.setattr(recurrent, "trace", trace)


_TRACED: dict[str, Graph] = {}


def problem_of(model: nn.Module, x: Tensor, box: tb.Box | None = None) -> Problem:
    return Problem(model, arguments.settings("interval", box, "real", "float64", "cpu"), x)


def quiet() -> Tensor:
    """Inputs so small that no cell spikes in any run, so that runs see nothing."""
    return 1e-4 * torch.rand(6, STEPS, UNITS, generator=torch.Generator().manual_seed(1))


def prove(model: Any, box: tb.Box | None = None, x: Tensor | None = None) -> None:
    check_structure_of(problem_of(model, quiet() if x is None else x, box))


def check_structure_of(problem: Problem) -> None:
    said = problem.model.leaky_cells()
    check_structure(problem, (said,) if isinstance(said, LeakyCells) else said)


# ---- written in another way


class Stacked(Base):
    """All state in one tensor."""

    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, 4, UNITS)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        z, after = super().step(x_t, state.unbind(1))
        return z, torch.stack(after, 1)


class Joined(Base):
    """All state side by side, in another order."""

    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, 4 * UNITS)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        r, z, v, b = state.split(UNITS, 1)
        z, (v, b, _, r) = super().step(x_t, (v, b, z, r))
        return z, torch.cat([r, z, v, b], 1)


class Named(Base):
    def initial_state(self, batch: int) -> dict[str, Tensor]:
        return {name: torch.zeros(batch, UNITS) for name in ("spike", "mem", "counter", "trace")}

    def step(self, x_t: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        z, (v, b, _, r) = super().step(x_t, (state["mem"], state["trace"], state["spike"], state["counter"]))
        return z, {"spike": z, "mem": v, "counter": r, "trace": b}


class OneByOne(Base):
    """Each cell by itself."""

    def potential(self, v: Tensor, drive: Tensor, z: Tensor, level: Tensor) -> Tensor:
        whole = super().potential(v, drive, z, level)
        return torch.stack([whole[:, j] for j in range(UNITS)], 1)


class Monitored(Base):
    """A state that nothing reads."""

    def initial_state(self, batch: int) -> Any:
        return *super().initial_state(batch), torch.zeros(batch, 1)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        z, after = super().step(x_t, state[:4])
        return z, (*after, state[4] + torch.tanh(after[0]).sum(1, keepdim=True))


class Since(Base):
    """Counts the steps since the last spike, up to 2, instead of those that are left."""

    def initial_state(self, batch: int) -> Any:
        v, b, z, _ = super().initial_state(batch)
        return v, b, z, torch.full((batch, UNITS), 2.0)

    def free(self, r: Tensor) -> Tensor:
        return (r > 1.5).to(r.dtype)

    def count(self, r: Tensor, z: Tensor) -> Tensor:
        return torch.where(z > 0, 1.0, (r + 1).clamp(max=2.0))


class Truths(Base):
    """Spikes and silence as truth values."""

    def initial_state(self, batch: int) -> Any:
        no = torch.zeros(batch, UNITS, dtype=torch.bool)
        return torch.zeros(batch, UNITS), torch.zeros(batch, UNITS), no, no.clone()

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        v, b, spiked, silent = state
        z = spiked.to(v.dtype)
        b = self.adapted(b, z)
        level = self.level(b)
        v = self.potential(v, self.drive(x_t, z), z, level)
        spiked = (v > level) & ~silent
        return spiked.to(v.dtype), (v, b, spiked, spiked.clone())


class Whole(Base):
    """Silent steps counted in whole numbers."""

    kind = torch.int64

    def initial_state(self, batch: int) -> Any:
        *most, r = super().initial_state(batch)
        return *most, r.to(self.kind)

    def free(self, r: Tensor) -> Tensor:
        return (r < 1).float()

    def count(self, r: Tensor, z: Tensor) -> Tensor:
        return torch.clamp(r + self.refractory * z.to(self.kind) - 1, 0, self.refractory)


class FastSurrogate(Base):
    def above(self, v: Tensor, level: Tensor) -> Tensor:
        gap = 10.0 * (v - level)
        soft = gap / (1.0 + gap.abs())
        return (v > level).to(v.dtype).detach() + soft - soft.detach()


class Surrogate(Base):
    def above(self, v: Tensor, level: Tensor) -> Tensor:
        soft = torch.sigmoid(5.0 * (v - level))
        return soft + ((v > level).to(v.dtype) - soft).detach()


def long_rest(steps: int) -> type:
    return changed(Base, refractory=steps)


class Scalars(Base):
    """One value for all cells."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold, self.beta = torch.tensor(0.3), torch.tensor([1.7])


def elementwise_drive(self: Base, x: Tensor, z: Tensor) -> Tensor:
    return (x[:, :, None] * self.W).sum(1) + (z[:, :, None] * self.recurrent()).sum(1)


HONEST: dict[str, Callable[[], nn.Module]] = {
    "as described": Base,
    "all state stacked": Stacked,
    "all state side by side": Joined,
    "state by name": Named,
    "cell by cell": OneByOne,
    "a monitor that nothing reads": Monitored,
    "steps since the last spike": Since,
    "truth values": Truths,
    "a surrogate that cancels": Surrogate,
    "a surrogate with a quotient": FastSurrogate,
    "values for all cells": Scalars,
    "whole numbers": Whole,
    "small whole numbers": changed(Whole, kind=torch.int8),
    "dropout at rest": changed(Base, drive=lambda s, x, z: Base.drive(s, F.dropout(x, 0.5, s.training), z)),
    "no silent step": long_rest(1),
    "n_refr 0": long_rest(0),
    "many silent steps": long_rest(7),
    "spikes found from v": Plain,
    "difference above 0": changed(Base, above=lambda s, v, a: (v - a > 0).to(v.dtype)),
    "threshold below": changed(Base, above=lambda s, v, a: torch.lt(a, v).float()),
    "sign": changed(Base, above=lambda s, v, a: (v - a).sign().clamp(min=0)),
    "relu of the sign": changed(Base, above=lambda s, v, a: torch.relu(torch.sign(3.0 * (v - a)))),
    "a constant without dimensions": changed(Base, above=lambda s, v, a: (v - a > torch.tensor(0.0)).to(v.dtype)),
    "not at most": changed(Base, above=lambda s, v, a: 1 - (v <= a).to(v.dtype)),
    "not at most, as truth": changed(Base, above=lambda s, v, a: torch.logical_not(a >= v).to(v.dtype)),
    "where": changed(Base, above=lambda s, v, a: torch.where(v > a, torch.ones_like(v), torch.zeros_like(v))),
    "reset by where": changed(
        Base, potential=lambda s, v, d, z, a: torch.where(z > 0, -DT * a, 0.0) + s.alpha() * v + (1 - s.alpha()) * d
    ),
    "towards the drive": changed(
        Base,
        potential=lambda s, v, d, z, a: d + s.alpha() * (v - d) - (z * DT) * s.threshold - DT * z * (a - s.threshold),
    ),
    "lerp": changed(Base, potential=lambda s, v, d, z, a: v + (1 - s.alpha()) * (d - v) - z * a / 2),
    "factor on the weights": changed(
        Base,
        drive=lambda s, x, z: x @ (s.W * (1 - s.alpha())) + z @ ((1 - s.alpha()) * s.recurrent()),
        potential=lambda s, v, d, z, a: s.alpha() * v + d - z * a * DT,
    ),
    "inputs in halves": changed(
        Base, drive=lambda s, x, z: torch.cat([x / 2, x / 2, z], 1) @ torch.cat([s.W, s.W, s.recurrent()], 0)
    ),
    "one product": changed(Base, drive=lambda s, x, z: torch.cat([x, z], 1) @ torch.cat([s.W, s.recurrent()], 0)),
    "linear": changed(Base, drive=lambda s, x, z: F.linear(x, s.W.T) + F.linear(z, s.recurrent().t())),
    "addmm": changed(Base, drive=lambda s, x, z: torch.addmm(x @ s.W, z, s.recurrent())),
    "sum over the inputs": changed(
        Base, drive=lambda s, x, z: sum(x[:, i : i + 1] * s.W[i] for i in range(UNITS)) + z @ s.recurrent()
    ),
    "weights on the left": changed(Base, drive=lambda s, x, z: (s.W.T @ x.T).T + (s.recurrent().T @ z.T).T),
    "elementwise products": changed(Base, drive=elementwise_drive),
    "diagonal subtracted": changed(Base, recurrent=lambda s: s.R - s.R * (1 - s.mask)),
    "diagonal by where": changed(Base, recurrent=lambda s: torch.where(s.mask > 0.5, s.R, torch.zeros(()))),
    "decay by reciprocal": changed(Base, alpha=lambda s: (s.tau.reciprocal() * -DT).exp()),
    "decay by quotient": changed(Base, alpha=lambda s: torch.exp(-(DT / s.tau))),
    "one over exp": changed(Base, alpha=lambda s: 1.0 / torch.exp(DT / s.tau)),
    "in double": changed(Base, potential=lambda s, v, d, z, a: Base.potential(s, v.double(), d, z, a).float()),
    "counter by where": changed(
        Base, count=lambda s, r, z: torch.where(z > 0.5, torch.ones_like(r), torch.relu(r - 1))
    ),
    "counter with products": changed(Base, count=lambda s, r, z: z + (1 - z) * torch.maximum(r - 1, 0 * r)),
    "free by minimum": changed(Base, free=lambda s, r: 1 - torch.minimum(r, torch.ones_like(r))),
    "free below a half": changed(Base, free=lambda s, r: (r < 0.5).to(r.dtype)),
    "sum over steps": changed(Base, readout=lambda s, o: o.sum(1) / STEPS @ s.O + s.o),
    "answers, then mean": changed(Base, readout=lambda s, o: (o @ s.O).mean(1) + s.o),
    "answers with bias, then mean": changed(Base, readout=lambda s, o: (o @ s.O + s.o).mean(1)),
    "readout as linear": changed(Base, readout=lambda s, o: F.linear(o.mean(1), s.O.T, s.o)),
    "mean that keeps its place": changed(Base, readout=lambda s, o: s.o + (o.mean(1, keepdim=True) @ s.O).squeeze(1)),
    "readout step by step": changed(Base, readout=lambda s, o: sum(o[:, t] @ s.O for t in range(STEPS)) / STEPS + s.o),
    "two layers": Two,
    "two layers, each its own": lambda: Two(Since, Truths),
    "LSNN": lambda: LSNN(UNITS, 5, 3, refractory=3, dt=0.5, tau=[5.0, 6.0, 7.0, 8.0, 9.0]),
    "LSNN without recurrence": lambda: LSNN(UNITS, 5, 3, recurrent=False),
}


@pytest.mark.thin(3, quick=5)
@pytest.mark.parametrize("name", list(HONEST))
def test_written_in_another_way(name: str) -> None:
    prove(HONEST[name]())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["relative", "absolute", "range"])
def test_whatever_moves(kind: str) -> None:
    prove(Base(), tb.Box(kind=kind))
    prove(Base(), tb.Box(kind=kind, include="*,threshold,beta,tau_adapt"))
    prove(Two(), tb.Box(kind=kind, include="lower.W,upper.R"))


# ---- nearly as described


class Clock(Base):
    """Counts time, and stops after a thousand steps."""

    def initial_state(self, batch: int) -> Any:
        return *super().initial_state(batch), torch.zeros(batch, 1)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        time = state[4] + 1
        z, after = super().step(x_t, state[:4])
        z = z * (time < 1000).to(z.dtype)
        return z, (*after[:2], z, after[3], time)


class Tired(Base):
    """Another tensor of state raises thresholds once a cell has spiked a hundred times."""

    def initial_state(self, batch: int) -> Any:
        return *super().initial_state(batch), torch.zeros(batch, UNITS)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        v, b, z, r, total = state
        b = self.adapted(b, z)
        level = self.level(b) + torch.relu(total - 100)
        v = self.potential(v, self.drive(x_t, z), z, level)
        z = self.free(r) * self.above(v, level)
        return z, (v, b, z, self.count(r, z), total + z)


class Late(Base):
    """Recurrent spikes come two steps late."""

    def initial_state(self, batch: int) -> Any:
        return *super().initial_state(batch), torch.zeros(batch, UNITS)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        v, b, z, r, older = state
        b = self.adapted(b, z)
        level = self.level(b)
        v = self.potential(v, self.drive(x_t, older), z, level)
        new = self.free(r) * self.above(v, level)
        return new, (v, b, new, self.count(r, new), z)


def twisted(function: Callable[..., tuple[Tensor, Any]]) -> type:
    """The step of ``Base``, and then something more: (x, old state, z, new state) → (z, new state)."""

    def step(self: Base, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        return function(x_t, state, *Base.step(self, x_t, state))

    return changed(Base, step=step)


def started(place: int, value: float) -> type:
    """One tensor of the state does not begin at zero."""

    def initial_state(self: Base, batch: int) -> Any:
        return tuple(torch.full((batch, UNITS), value if n == place else 0.0) for n in range(4))

    return changed(Base, initial_state=initial_state)


def respiked(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> type:
    """Other spikes, which the state holds too: (v, z, r before the step) → z."""

    def step(self: Base, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        _, (v, b, z, _) = Base.step(self, x_t, state)
        z = function(v, z, state[3])
        return z, (v, b, z, self.count(state[3], z))

    return changed(Base, step=step)


def early_level(self: Base, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Compares with the adaptation before its step."""
    v, b, z, r = state
    level = self.level(b)
    b = self.adapted(b, z)
    v = self.potential(v, self.drive(x_t, z), z, level)
    z = self.free(r) * self.above(v, level)
    return z, (v, b, z, self.count(r, z))


def counted_first(self: Base, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Tests the counter behind its step."""
    v, b, z, r = state
    b = self.adapted(b, z)
    level = self.level(b)
    v = self.potential(v, self.drive(x_t, z), z, level)
    z = self.above(v, level) * self.free((r - 1).clamp(min=0))
    return z, (v, b, z, self.count(r, z))


ONE_UNIT = [1.0, 0.0, 0.0, 0.0]


def only(unit: list[float]) -> Tensor:
    return torch.tensor(unit)


def old_alpha(v: Tensor, d: Tensor, z: Tensor, a: Tensor, alpha: Any) -> Tensor:
    return alpha * v + (1 - alpha) * d - z * a * DT


NEAR: dict[str, Callable[[], nn.Module]] = {
    "a gate on loud inputs": changed(Base, drive=lambda s, x, z: Base.drive(s, x * (x.abs() < 1e4).to(x.dtype), z)),
    "more for loud inputs": changed(Base, drive=lambda s, x, z: Base.drive(s, x, z) + torch.relu(x[:, :1] - 1e6)),
    "no reset of one cell": changed(
        Base, potential=lambda s, v, d, z, a: Base.potential(s, v, d, z * (1 - only(ONE_UNIT)), a)
    ),
    "another reset of one cell": changed(
        Base, potential=lambda s, v, d, z, a: Base.potential(s, v, d, z, a * (1 + 1e-9 * only(ONE_UNIT)))
    ),
    "a floor of v": changed(Base, potential=lambda s, *p: Base.potential(s, *p).clamp(min=-1e6)),
    "a ceiling of v": changed(Base, potential=lambda s, *p: Base.potential(s, *p).clamp(max=1e6)),
    "a ceiling of v by minimum": changed(
        Base, potential=lambda s, *p: torch.minimum(Base.potential(s, *p), 1e6 * torch.ones(()))
    ),
    "threshold off by 2e-10": changed(Base, above=lambda s, v, a: (v > a + 2e-10).to(v.dtype)),
    "threshold off by a factor": changed(Base, above=lambda s, v, a: (v > a * (1 + 2**-40)).to(v.dtype)),
    "threshold off in the level": changed(Base, level=lambda s, b: s.threshold + 1e-12 + s.beta * b),
    "a ceiling of b": changed(Base, adapted=lambda s, b, z: Base.adapted(s, b, z).clamp(max=0.99)),
    "a floor of the level": changed(Base, level=lambda s, b: Base.level(s, b).clamp(min=0.0)),
    "beta's size": changed(Base, level=lambda s, b: s.threshold + s.beta.abs() * b),
    "a constant current": changed(Base, drive=lambda s, x, z: Base.drive(s, x, z) + 1e-12),
    "zero times a quotient": changed(Base, potential=lambda s, v, *p: Base.potential(s, v, *p) + 0.0 / (v - 1e3)),
    "a root less itself": changed(
        Base, potential=lambda s, v, *p: Base.potential(s, v, *p) + (v + 1e3).sqrt() - (v + 1e3).sqrt()
    ),
    "masked quotients": changed(Base, drive=lambda s, x, z: Base.drive(s, x, z) + ((1 / (x - 5e3)) * (0 * s.tau))),
    "a counter that wraps": changed(
        Whole,
        kind=torch.int8,
        count=lambda s, r, z: torch.clamp((r + 2 * z.to(s.kind) - 1) * 100 + 100 * z.to(s.kind), 0, 2),
    ),
    "a clock": Clock,
    "tired after many spikes": Tired,
    "late recurrent spikes": Late,
    "spikes at a tie": changed(Base, above=lambda s, v, a: (v >= a).to(v.dtype)),
    "spikes by the quotient": changed(Base, above=lambda s, v, a: (v / a > 1).to(v.dtype)),
    "spikes by the relative gap": changed(Base, above=lambda s, v, a: ((v - a) / a > 0).to(v.dtype)),
    "half spikes at a tie": changed(Base, above=lambda s, v, a: 0.5 * (1 + torch.sign(v - a))),
    "negative spikes": changed(Base, above=lambda s, v, a: (v > a).to(v.dtype) - (v < -1e6).to(v.dtype)),
    "large spikes": changed(Base, above=lambda s, v, a: (v > a).to(v.dtype) * (1 + 1e-9)),
    "the level before its step": changed(Base, step=early_level),
    "reset to zero": changed(Base, potential=lambda s, v, d, z, a: (s.alpha() * v + (1 - s.alpha()) * d) * (1 - z)),
    "reset by the threshold alone": changed(
        Base, potential=lambda s, v, d, z, a: Base.potential(s, v, d, z, s.threshold)
    ),
    "reset without dt": changed(Base, potential=lambda s, v, d, z, a: Base.potential(s, v, d, z / DT, a)),
    "reset with nearly dt": changed(Base, potential=lambda s, v, d, z, a: Base.potential(s, v, d, z * (1 + 2**-30), a)),
    "the diagonal counts": changed(Base, recurrent=lambda s: s.R),
    "one more entry masked": changed(
        Base, recurrent=lambda s: s.R * s.mask * (1 - only(ONE_UNIT) * only(ONE_UNIT[::-1])[:, None])
    ),
    "weights turned": changed(Base, drive=lambda s, x, z: x @ s.W.T + z @ s.recurrent()),
    "inputs twice": changed(
        Base, drive=lambda s, x, z: torch.cat([x, x], 1) @ torch.cat([s.W, s.W]) + z @ s.recurrent()
    ),
    "inputs turned": changed(Base, drive=lambda s, x, z: Base.drive(s, torch.cat([x[:, 1:], x[:, :1]], 1), z)),
    "inputs for the spikes": changed(Base, drive=lambda s, x, z: x @ s.W + x @ s.recurrent()),
    "adaptation for the spikes": twisted(lambda x, old, z, new: (z, (new[0] + 1e-9 * old[1], *new[1:]))),
    "scaled weights": changed(Base, drive=lambda s, x, z: Base.drive(s, x * (1 + 2**-22), z)),
    "squared weights": changed(Base, drive=lambda s, x, z: x @ (s.W * s.W) + z @ s.recurrent()),
    "a drive that saturates": changed(Base, drive=lambda s, x, z: F.hardtanh(Base.drive(s, x, z), -1e9, 1e9)),
    "a drive through tanh": changed(Base, drive=lambda s, x, z: 1e9 * torch.tanh(1e-9 * Base.drive(s, x, z))),
    "weights that saturate": changed(Base, drive=lambda s, x, z: x @ s.W.clamp(-100, 100) + z @ s.recurrent()),
    "time constants changed over": changed(Base, alpha=lambda s: torch.exp(-DT / s.tau_adapt)),
    "one time constant for all": changed(Base, alpha=lambda s: torch.exp(-DT / s.tau[:1])),
    "a decay of the code": changed(Base, alpha=lambda s: 1 - 0.05 * DT),
    "an Euler step": changed(Base, alpha=lambda s: 1 - DT / s.tau),
    "another dt": changed(Base, alpha=lambda s: torch.exp(-(DT + 2**-30) / s.tau)),
    "gain 1 for dt over tau": changed(
        Base, potential=lambda s, v, d, z, a: s.alpha() * v + d * (DT / s.tau) - z * a * DT
    ),
    "one more silent step": changed(Base, count=lambda s, r, z: torch.clamp(r + 3 * z - 1, 0, 2)),
    "one silent step less": changed(Base, free=lambda s, r: (r <= 1.1).to(r.dtype)),
    "the counter tested behind its step": changed(Base, step=counted_first),
    "a counter below zero": changed(Base, count=lambda s, r, z: torch.clamp(r + 2 * z - 1, -5, 2)),
    "no silent step for one cell": changed(
        Base, free=lambda s, r: torch.maximum((r <= 0.1).to(r.dtype), only(ONE_UNIT))
    ),
    "a silent step until v is large": respiked(lambda v, z, r: torch.maximum(z, (v > 1e6).to(v.dtype))),
    "a cell that vetoes": respiked(lambda v, z, r: z * (1 - z[:, :1] * only([0.0, 1.0, 1.0, 1.0]))),
    "never all at once": respiked(lambda v, z, r: z * (z.sum(1, keepdim=True) < 3.5).to(z.dtype)),
    "never while many rest": respiked(lambda v, z, r: z * (r.sum(1, keepdim=True) < 2.5).to(z.dtype)),
    "output of the step before": twisted(lambda x, old, z, new: (old[2], new)),
    "output turned": twisted(lambda x, old, z, new: (torch.stack([z[:, 3], z[:, 2], z[:, 1], z[:, 0]], 1), new)),
    "output of nearly 1": twisted(lambda x, old, z, new: (z * (1 - 1e-7), new)),
    "output gated": twisted(lambda x, old, z, new: (z * (new[1] < 0.999).to(z.dtype), new)),
    "state gated": twisted(
        lambda x, old, z, new: (z, (new[0] * (x.abs().amax(1, keepdim=True) < 1e5).to(z.dtype), *new[1:]))
    ),
    "state mixed": twisted(lambda x, old, z, new: (z, (new[0] + 1e-12 * (new[0][:, :1] - new[0]), *new[1:]))),
    "spikes forgotten": twisted(lambda x, old, z, new: (z, (*new[:2], z * (new[1] < 0.999).to(z.dtype), new[3]))),
    "begins charged": started(0, 1e-12),
    "begins adapted": started(1, 1e-12),
    "begins with a spike": started(2, 1.0),
    "begins silent": started(3, 2.0),
    "readout clamped at .9": changed(Base, readout=lambda s, o: o.mean(1).clamp(max=0.9) @ s.O + s.o),
    "more for high rates": changed(Base, readout=lambda s, o: (o.mean(1) + torch.relu(o.mean(1) - 0.95)) @ s.O + s.o),
    "readout off by a factor": changed(Base, readout=lambda s, o: o.mean(1) * (1 + 2**-40) @ s.O + s.o),
    "readout with a constant": changed(
        Base, readout=lambda s, o: o.mean(1) @ s.O + s.o + 1e-12 * torch.tensor([1.0, 0, 0])
    ),
    "the last step counts a bit more": changed(Base, readout=lambda s, o: (o.mean(1) + 1e-13 * o[:, -1]) @ s.O + s.o),
    "the last step hardly counts": changed(
        Base, readout=lambda s, o: (o.mean(1) - o[:, -1] / STEPS + o[:, -1] / (STEPS + 1e-9)) @ s.O + s.o
    ),
    "logits clamped": changed(Base, readout=lambda s, o: (o.mean(1) @ s.O + s.o).clamp(max=1e3)),
    "logits of full trains": changed(
        Base, readout=lambda s, o: (o.mean(1) * (o.mean(1) < 0.99).to(o.dtype)) @ s.O + s.o
    ),
    "spikes found from v at a tie": changed(Plain, above=lambda s, v, a: (v >= a).to(v.dtype)),
    "spikes found from v, a floor": changed(Plain, potential=lambda s, *p: Base.potential(s, *p).clamp(min=-1e6)),
    "an upper layer a step late": changed(Two, between=lambda s, x, new, old: old),
    "a short cut for loud inputs": changed(Two, between=lambda s, x, new, old: new + torch.relu(x - 1e6)),
    "a wrong lower layer": lambda: Two(lower=changed(Base, above=lambda s, v, a: (v >= a).to(v.dtype))),
    "a wrong upper layer": lambda: Two(upper=changed(Base, free=lambda s, r: (r <= 1.1).to(r.dtype))),
}


@pytest.mark.thin(2, quick=11)
@pytest.mark.parametrize("name", list(NEAR))
def test_nearly_as_described(name: str) -> None:
    """Runs see no difference; the graph shows one, and it is named."""
    model = NEAR[name]()
    problem = problem_of(model, quiet())
    said = model.leaky_cells()
    said = [said] if isinstance(said, LeakyCells) else said
    begins = any(bool(t.any()) for t in problem.model.initial_state(1)) if name.startswith("begins") else False
    assert begins or not differs(problem, said)
    with pytest.raises(Mismatch):
        check_structure(problem, said)
    with pytest.raises(InputError, match=r"leaky_cells.*use the domain 'interval'$"):
        check_description(problem, said)


def test_spikes_found_from_v_below_zero() -> None:
    """A silent cell with a negative threshold looks like one that spiked."""
    model = Plain()
    model.threshold[1] = -1e-3
    with pytest.raises(Mismatch, match="must not be negative"):
        prove(model)
    with pytest.raises(Mismatch, match="nor in the box"):
        prove(Plain(), tb.Box(include="*,threshold"))


def test_a_fixed_zero_may_be_left_out() -> None:
    """Zeros of a relative box stay zeros; those of an absolute one do not."""
    model = changed(Base, recurrent=lambda s: s.R)()
    with torch.no_grad():
        model.R.fill_diagonal_(0.0)
    prove(model)
    prove(model, tb.Box(kind="absolute", exclude="R"))
    for box in (tb.Box(kind="absolute"), tb.Box(kind="range")):
        with pytest.raises(Mismatch, match="diagonal of 'R' counts"):
            prove(model, box)


def test_weights_under_another_name() -> None:
    """A view of a parameter is no number, though the description does not name it."""

    class Viewed(Base):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("gain", self.W.detach()[0])

        def level(self, b: Tensor) -> Tensor:
            return super().level(b) + 0.0 * b + torch.relu(self.gain - 1e6)

    with pytest.raises(Mismatch):
        prove(Viewed())


def test_a_turned_view_is_read_as_it_is() -> None:
    """A view kept from before is the part of the parameter that it shows, even where its shape is that of the whole."""

    class Kept(Base):
        def __init__(self, turned: bool) -> None:
            super().__init__()
            self.kept = [self.W.detach().T if turned else self.W.detach()]

        def drive(self, x: Tensor, z: Tensor) -> Tensor:
            return x @ self.kept[0] + z @ self.recurrent()

    prove(Kept(turned=False))
    with pytest.raises(Mismatch, match="'W' enters cell"):
        prove(Kept(turned=True))


@pytest.mark.parametrize("name", ["tau", "tau_adapt"])
@pytest.mark.parametrize("value", [-2.0, 0.0, float("nan"), float("inf")])
def test_time_constants_that_are_none(name: str, value: float) -> None:
    model = Base()
    problem = problem_of(model, quiet())
    getattr(model, name)[2] = value
    with pytest.raises(InputError, match=f"'{name}' for a time constant"):
        check_description(problem, [model.leaky_cells()])


NARROW: dict[str, Callable[[], nn.Module]] = {
    "product in float32": lambda: changed(
        Base, drive=lambda m, x, z: (x.float() @ m.W.float()).double() + z @ m.recurrent()
    )(),
    "product rounded to float32": lambda: changed(
        Base, drive=lambda m, x, z: (x @ m.W).float().double() + z @ m.recurrent()
    )(),
    "decay in float32": lambda: changed(Base, alpha=lambda m: torch.exp((-DT / m.tau).float()))(),
    "sum in float32": lambda: changed(
        Base, drive=lambda m, x, z: (x[:, :, None] * m.W).sum(1, dtype=torch.float32).double() + z @ m.recurrent()
    )(),
}


@pytest.mark.parametrize("name", NARROW)
def test_float32_inside_float64_is_refused(name: str) -> None:
    """What float32 rounds there is no rounding that the equations know of; in float32 all of it is the network's."""
    with pytest.raises(Mismatch):
        prove(NARROW[name]().double())


def test_truth_values_in_float32_inside_float64() -> None:
    prove(Base().double())
    prove(changed(Base, above=lambda m, v, level: (v > level).float().double())().double())
