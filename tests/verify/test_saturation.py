"""Rows that have lost everything at one ε are left out at the next: the margins are those of every ε by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.verify.arguments import settings
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.interval.saturation import Remaining
from thetabox.verify.network import RecurrentNetwork
from thetabox.verify.problem import Problem
from thetabox.verify.search import bounds

pytestmark = pytest.mark.usefixtures("traced_once")

SWEEP = [0.0, 1e-3, 1e-2, 0.05, 0.3, 1.5]


def spiking(readout: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = tb.models.LSNN(3, 12, 4)
    if readout is not None:
        model.readout = lambda outputs: readout(outputs) @ model.W_out + model.b_out
    return model.double()


def margins(problem: Problem, sweep: list[float], labels: Tensor) -> Tensor:
    epsilon = torch.tensor(sweep, dtype=torch.float64)[:, None].expand(-1, len(labels))
    return bounds.margins(PlainIntervals(problem), slice(0, len(labels)), epsilon, labels)


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("readout", [None, lambda outputs: outputs[:, 8:].mean(1), lambda outputs: outputs[:, -1]])
@pytest.mark.parametrize("falling", [False, True])
def test_sweeps_are_as_each_epsilon_alone(
    together: int, readout: Callable[[Tensor], Tensor] | None, falling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = spiking(readout), torch.randn(9, 30, 3, dtype=torch.float64)
    labels = torch.arange(9) % 4
    problem = Problem(model, settings("interval", None, "real", "float64", "cpu"), x)
    monkeypatch.setattr(PlainIntervals, "together", together)
    left = []
    leaves = Remaining.leaves_some
    monkeypatch.setattr(
        Remaining, "leaves_some", lambda self, time: leaves(self, time) and left.append(self.none_left) is None
    )
    sweep = SWEEP[::-1] if falling else SWEEP
    found = margins(problem, sweep, labels)
    assert bool(left) != falling, "a larger ε knows nothing of what a smaller one lost"
    assert falling or (True in left and False in left), "some samples are left out, and at last all"
    alone = torch.cat([margins(problem, [epsilon], labels) for epsilon in sweep])
    torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-12)


class Gate(nn.Module):
    """Leaky units whose output is theirs to choose."""

    def __init__(self, output: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.enter, self.loop, self.leave = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.output = output

    def initial_state(self, batch: int) -> Tensor:
        return self.leave.weight.new_zeros(batch, 6)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = 0.5 * state + self.enter(x_t) + self.loop(self.output(state))
        return self.output(state), state

    def readout(self, outputs: Tensor) -> Tensor:
        return self.leave(outputs.mean(1))


OUTPUTS = {
    "spikes": (lambda v: (v > 0.1).to(v.dtype), True),
    "spikes of two conditions": (lambda v: (v > 0.1).to(v.dtype) * (v < 3.0).to(v.dtype), True),
    "either": (lambda v: ((v > 0.1) | (v < -2.0)).to(v.dtype), True),
    "clamped": (lambda v: v.clamp(0, 1), False),
    "graded": (lambda v: (v > 0.1).to(v.dtype) * v, False),
    "two of them": (lambda v: (v > 0.1).to(v.dtype) + (v > 1.0).to(v.dtype), False),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_only_truth_values_saturate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That [0, 1] says all there is to say must hold for any weights, not only look so at one ε."""
    output, saturates = OUTPUTS[name]
    x = torch.randn(5, 12, 3)
    model = Gate(output)
    monkeypatch.setattr(PlainIntervals, "together", 1)
    assert RecurrentNetwork(model, x).saturates == saturates
    labels = torch.arange(5) % 2
    problem = Problem(model, settings("interval", None, "real", "float64", "cpu"), x)
    alone = torch.cat([margins(problem, [epsilon], labels) for epsilon in SWEEP])
    torch.testing.assert_close(margins(problem, SWEEP, labels), alone, rtol=1e-12, atol=1e-12)


class Pairs(nn.Module):
    """Integrators whose drive is computed for both units as rows of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(1, 1), nn.Linear(2, 2)
        with torch.no_grad():
            self.enter.weight.fill_(1.0)
            self.enter.bias.zero_()
            self.leave.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
            self.leave.bias.copy_(torch.tensor([0.1, 0.0]))

    def initial_state(self, batch: int) -> Tensor:
        return self.leave.weight.new_zeros(batch, 2)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        v = (state.reshape(-1, 1) + self.enter(x_t.reshape(-1, 1))).reshape(-1, 2)
        return (v > 1.0).to(v.dtype), v

    def readout(self, outputs: Tensor) -> Tensor:
        return self.leave(outputs.mean(1))


@pytest.mark.parametrize("together", [1, 2])
def test_several_rows_a_sample(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that stay are those of the samples that stay, however many rows a sample has."""
    steps = 20
    x = torch.zeros(4, steps, 2, dtype=torch.float64)
    x[0, 0], x[0, 1] = 100.0, -99.0  # 1, the threshold, from the second step on: unknown at any ε above 0
    x[1:, steps // 2] = 5.0
    monkeypatch.setattr(PlainIntervals, "together", together)
    model = Pairs().double()
    labels = torch.tensor([0, 0, 1, 1])
    problem = Problem(model, settings("interval", None, "real", "float64", "cpu"), x)
    sweep = [0.005, 0.01, 0.02, 0.03]
    alone = torch.cat([margins(problem, [epsilon], labels) for epsilon in sweep])
    torch.testing.assert_close(margins(problem, sweep, labels), alone, rtol=1e-12, atol=1e-12)


class Decaying(Gate):
    """With a decay that is computed from a perturbed parameter: other at every ε, the same for all samples."""

    def __init__(self) -> None:
        super().__init__(lambda v: (v > 0.1).to(v.dtype))
        self.decay = nn.Parameter(torch.linspace(-1, 1, 6))

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.sigmoid(self.decay) * state + self.enter(x_t) + self.loop(self.output(state))
        return self.output(state), state


def test_values_of_every_epsilon_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What depends on ε but on no sample shrinks with the samples."""
    monkeypatch.setattr(PlainIntervals, "together", 2)
    x, labels = torch.randn(9, 30, 3), torch.arange(9) % 2
    problem = Problem(Decaying(), settings("interval", None, "real", "float64", "cpu"), x)
    left = []
    leaves = Remaining.leaves_some
    monkeypatch.setattr(Remaining, "leaves_some", lambda self, time: leaves(self, time) and left.append(time) is None)
    sweep = [0.0, 0.2, 0.4, 0.6, 0.8, 0.9]
    found = margins(problem, sweep, labels)
    assert left
    alone = torch.cat([margins(problem, sweep[i : i + 2], labels) for i in range(0, len(sweep), 2)])
    torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-12)


def test_lost_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known from the first step on: that step is still walked, for there must be something to add to."""
    model, x = Gate(lambda v: (v > 0.0).to(v.dtype)), torch.randn(5, 12, 3)
    monkeypatch.setattr(PlainIntervals, "together", 1)
    labels = torch.arange(5) % 2
    problem = Problem(model, settings("interval", None, "real", "float64", "cpu"), x)
    found = margins(problem, [2.0, 3.0], labels)
    assert problem.network.saturates
    torch.testing.assert_close(found[1:], margins(problem, [3.0], labels), rtol=1e-12, atol=1e-12)
