"""A user's own recurrent cell through the protocol, in all its shapes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.models.recurrent import logits
from thetabox.verify.interpreter.rules import shortcuts
from thetabox.verify.network import RecurrentNetwork

pytestmark = pytest.mark.usefixtures("traced_once")

X = torch.linspace(-2, 2, 3 * 6 * 2).view(3, 6, 2).sin()


class Cell(nn.Module):
    """Leaky units; the state is a tensor, a tuple or a dictionary, zero or learned, one layer or two."""

    def __init__(self, state: str = "tensor", learned: bool = False, layers: int = 1, spiking: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.kind, self.layers, self.spiking = state, layers, spiking
        self.enter = nn.ModuleList([nn.Linear(2 if i == 0 else 4, 4) for i in range(layers)])
        self.loop = nn.ModuleList([nn.Linear(4, 4, bias=False) for _ in range(layers)])
        self.leave = nn.Linear(4, 3)
        self.first = nn.Parameter(torch.randn(layers, 4)) if learned else None
        self.tau = nn.Parameter(torch.full((4,), 3.0))

    def initial_state(self, batch: int) -> Any:
        if self.first is None:
            parts = [self.leave.weight.new_zeros(batch, 4) for _ in range(self.layers)]
        else:
            parts = [self.first[i].expand(batch, -1) for i in range(self.layers)]
        return self._pack(parts)

    def _pack(self, parts: list[Tensor]) -> Any:
        if self.kind == "tensor":
            return parts[0]
        return tuple(parts) if self.kind == "tuple" else {f"layer{i}": p for i, p in enumerate(parts)}

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        parts = [state] if self.kind == "tensor" else list(state if self.kind == "tuple" else state.values())
        keep = torch.exp(-1 / self.tau)
        value, after = x_t, []
        for enter, loop, part in zip(self.enter, self.loop, parts, strict=True):
            part = keep * part + (1 - keep) * (enter(value) + loop(part.tanh()))
            after.append(part)
            value = (part > 0.1).to(part.dtype) if self.spiking else part.tanh()
        return value, self._pack(after)

    def readout(self, outputs: Tensor) -> Tensor:
        return self.leave(outputs.mean(1))


CELLS = {
    "tensor": {},
    "tuple": {"state": "tuple", "layers": 2},
    "dictionary": {"state": "dict", "layers": 2},
    "learned": {"learned": True},
    "learned layers": {"state": "tuple", "layers": 2, "learned": True},
    "spiking": {"state": "dict", "layers": 2, "spiking": True, "learned": True},
}


class Unrolled(nn.Module):
    """The same network as one forward pass."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        outputs, state = [], self.cell.initial_state(x.shape[0])
        for x_t in x.unbind(1):
            output, state = self.cell.step(x_t, state)
            outputs.append(output)
        return self.cell.readout(torch.stack(outputs, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_samples_lie_inside(name: str) -> None:
    cell = Cell(**CELLS[name])
    sweep = [0.0, 1e-3, 0.1]
    for settings in ({}, {"arithmetic": "float32"}, {"precision": "float32"}):
        bounds = tb.logit_bounds(cell, X, sweep, **settings)
        for place, epsilon in enumerate(sweep):
            one = tb.logit_bounds(cell, X, epsilon, **settings)
            torch.testing.assert_close(bounds.lower[place], one.lower, rtol=1e-4, atol=1e-5)
            for trial in range(10):
                point = copy.deepcopy(cell).double()
                with torch.no_grad():
                    for p in point.parameters():
                        noise = 2 * torch.rand_like(p) - 1
                        p.mul_(1 + epsilon * (noise.sign() if trial % 2 else noise))
                    answer = logits(point, X.double())
                assert (bounds.lower[place] - 1e-12 <= answer).all()
                assert (answer <= bounds.upper[place] + 1e-12).all()


@pytest.mark.parametrize("name", CELLS)
def test_one_epsilon_a_sample(name: str) -> None:
    cell = Cell(**CELLS[name])
    many = tb.logit_bounds(cell, X, [0.0, 0.05])
    mixed = tb.logit_bounds(cell, X, torch.tensor([0.05, 0.0, 0.05], dtype=torch.float64))
    for n, place in enumerate((1, 0, 1)):
        torch.testing.assert_close(mixed.lower[n], many.lower[place, n], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mixed.upper[n], many.upper[place, n], rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_steps_equal_the_unrolled_network() -> None:
    cell = Cell("tuple", layers=2)
    # As a plain network it has no neuron parameters that stay exact unless named.
    box = tb.Box(exclude="*tau")
    by_step, unrolled = (tb.logit_bounds(m, X, 0.01, box=box) for m in (cell, Unrolled(cell)))
    torch.testing.assert_close(by_step.lower, unrolled.lower, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(by_step.upper, unrolled.upper, rtol=1e-9, atol=1e-9)


READOUTS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "mean": (lambda outputs: outputs.mean(1), True),
    "mean from behind": (lambda outputs: outputs.mean(-2), True),
    "mean, dimension kept": (lambda outputs: outputs.mean(1, keepdim=True)[:, 0], True),
    "mean, flattened": (lambda outputs: outputs.mean(1, keepdim=True).flatten(1), True),
    "mean and number of samples": (lambda outputs: outputs.mean(1).view(outputs.shape[0], 4), False),
    "sum": (lambda outputs: outputs.sum(1), False),
    "last step": (lambda outputs: outputs[:, -1], False),
    "mean of units": (lambda outputs: outputs.mean(2)[:, :4], False),
    "mean and last": (lambda outputs: outputs.mean(1) + outputs[:, -1], False),
}


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize("name", READOUTS)
@pytest.mark.parametrize("arithmetic", ["real", pytest.param("float32", marks=pytest.mark.long)])
def test_readouts(name: str, arithmetic: str) -> None:
    """A mean over time is summed up step by step, whatever else is read needs all steps: both as if unrolled."""
    reduce, running = READOUTS[name]

    class Read(Cell):
        def readout(self, outputs: Tensor) -> Tensor:
            return self.leave(reduce(outputs))

    cell = Read("tuple", layers=2, spiking=name != "mean from behind")
    network = RecurrentNetwork(cell, X)
    assert (network.averaging is not None) == running
    box = tb.Box(exclude="*tau")
    by_step, unrolled = (tb.logit_bounds(m, X, 0.01, box=box, arithmetic=arithmetic) for m in (cell, Unrolled(cell)))
    tolerance = 1e-9 if arithmetic == "real" else 1e-4
    torch.testing.assert_close(by_step.lower, unrolled.lower, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(by_step.upper, unrolled.upper, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("epsilon", [0.05, 1.5])
def test_unknown_spikes_are_multiplied_once(epsilon: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of nothing but [0, 1] share one product; bounds are the same as if each had its own."""
    torch.manual_seed(0)
    model, x = tb.models.LSNN(3, 12, 4), torch.randn(9, 30, 3)
    shared = []
    once = shortcuts.unknown_once
    monkeypatch.setattr(shortcuts, "unknown_once", lambda x: shared.append(once(x)[1] is not None) or once(x))
    found = tb.logit_bounds(model, x, epsilon, domain="interval")
    assert any(shared)
    assert not all(shared)
    monkeypatch.setattr(shortcuts, "LEAST_UNKNOWN", 2.0)
    each = tb.logit_bounds(model, x, epsilon, domain="interval")
    torch.testing.assert_close(found.lower, each.lower, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.upper, each.upper, rtol=1e-9, atol=1e-9)


class Clamped(nn.Module):
    """Activations in [0, 1.4] whose size is known once they are multiplied: like spikes, but not 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        with torch.no_grad():
            self.first.weight.fill_(0.4)
            self.first.bias.fill_(-1.2)
            self.second.weight.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, 4))
            self.second.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        clamped = self.first(x).clamp(0, 1.4)
        square = clamped * clamped
        return self.second(clamped) + 0 * square[:, :2]


def test_rows_that_only_resemble_unknown_spikes() -> None:
    """Rows of [0, u] with different u above 1 are not one and the same row."""
    model, x = Clamped(), torch.tensor([0.9, 1.0, 1.1, 1.2, 1.35, 1.4])[:, None].expand(6, 3).clone()
    bounds = tb.logit_bounds(model, x, 0.55, domain="interval")
    corner = copy.deepcopy(model).double()
    with torch.no_grad():
        corner.first.weight.mul_(1.55)
        corner.first.bias.mul_(0.45)
        corner.second.weight.mul_(1.55)
        answer = corner(x.double())
    assert (bounds.lower - 1e-12 <= answer).all()
    assert (answer <= bounds.upper + 1e-12).all()
    each = torch.cat([tb.logit_bounds(model, x[n : n + 1], 0.55, domain="interval").upper for n in range(6)])
    torch.testing.assert_close(bounds.upper, each, rtol=1e-9, atol=1e-9)


def test_certify_and_radius() -> None:
    cell = Cell("dict", learned=True)
    label = logits(cell, X).argmax(1)
    certificate = tb.certify(cell, X, label, [0.0, 1e-4, 10.0])
    assert certificate.verified.all(1).tolist() == [True, True, False]
    radius = tb.certified_radius(cell, X, label)
    assert (radius > 1e-4).all()


def test_wrong_shapes() -> None:
    with pytest.raises(tb.InputError, match="recurrent"):
        tb.logit_bounds(Cell(), X[:, 0], 0.0)
    with pytest.raises(tb.InputError):
        tb.logit_bounds(Cell(), X[:, :, :1], 0.0)
