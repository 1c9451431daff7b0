"""Leaky cells read off traced graphs: what is read runs as the network does, and moves as its box does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify.histories.spiking_cells import CELLS, EITHER, Convolutional, Stepwise, TwoLayers
from thetabox.models import RecurrentModule
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.histories.forward import run
from thetabox.verify.histories.neurons import Boxed, Spiking, Weights
from thetabox.verify.histories.recognition import NotRecognised, recognised
from thetabox.verify.histories.recognition.network import spiking
from thetabox.verify.histories.recognition.protocol import of_protocol
from thetabox.verify.network import RecurrentNetwork
from thetabox.verify.problem import Problem, Settings


def problem(model: nn.Module, x: Tensor, box: tb.Box | None = None) -> Problem:
    settings = Settings(box or tb.Box(), Rounding(torch.float64), torch.device("cpu"), "histories", "float64")
    return Problem(model, settings, x)


def read(model: nn.Module, x: Tensor, box: tb.Box | None = None) -> Spiking:
    asked = problem(model, x, box)
    assert isinstance(asked.network, RecurrentNetwork)
    return spiking(of_protocol(asked, asked.network))


@pytest.mark.thin(5, quick=5)
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", CELLS)
def test_what_is_read_runs_as_the_network(kind: str, strict: bool, recurrent: bool) -> None:
    torch.manual_seed(0)
    model = Stepwise(TwoLayers(kind, recurrent=recurrent, strict=strict)).double()
    x = torch.randn(20, 15, 5, dtype=torch.float64)
    net = read(model, x)
    ran = run(net, x)
    assert torch.allclose(ran.logits, model(x), atol=1e-9)
    assert all(count.sum() > 0 for count in ran.counts)
    assert [layer.most for layer in net.layers] == [{"many": 1 << 20, "up to five": 5}.get(kind, 1)] * 2
    assert (0 in net.layers[0].before) == recurrent


@pytest.mark.thin(7, quick=7)
@pytest.mark.parametrize(("kind", "recurrent"), EITHER)
def test_a_loop_over_time_is_read_as_its_step_is(kind: str, recurrent: bool) -> None:
    torch.manual_seed(3)
    net = TwoLayers(kind, recurrent=recurrent)
    x = torch.randn(4, 6, 5)
    found = recognised(problem(net, x))
    step = read(Stepwise(net), x)
    for a, b in zip(_tables(found.net), _tables(step), strict=True):
        assert torch.equal(a.centre, b.centre)
        assert torch.equal(a.spread, b.spread)
        assert torch.equal(a.error, b.error)
    assert torch.equal(found.inputs(x), x)


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("answer", ["spikes", "dense", "mean potential", "last potential"])
def test_convolutions_and_readouts(answer: str, stride: int) -> None:
    torch.manual_seed(1)
    model = Convolutional(answer, stride=stride, strict=stride == 1).double()
    x = torch.rand(10, 8, 36, dtype=torch.float64)
    net = read(model, x)
    ran = run(net, x)
    assert torch.allclose(ran.logits, model(x), atol=1e-9)
    assert all(ran.counts[n].sum() > 0 for n in range(2))
    assert net.readout.over == ("last" if answer == "last potential" else "sum")


def _tables(net: Spiking) -> list[Weights | Boxed]:
    found: list[Weights | Boxed] = [net.readout.weights, net.readout.bias]
    for layer in net.layers:
        found += [layer.bias, layer.leak, layer.threshold, *layer.below.values(), *layer.before.values()]
        found += [part for part in (layer.inputs, layer.next_drop, layer.reset) if part is not None]
    return found


def _apart(a: Weights | Boxed, b: Weights | Boxed, epsilon: float) -> float:
    """How far one lies outside the box of the other, 0 or less for inside."""
    return float(((a.centre - b.centre).abs() - b.spread * epsilon - b.error - a.error).max())


class _Learned(TwoLayers):
    """Thresholds that are parameters, one a unit, and stored spikes."""

    def __init__(self) -> None:
        super().__init__("subtract next")
        self.threshold = nn.Parameter(torch.rand(7) + 0.5)

    def one_step(self, x_t: Tensor, state: list[Tensor]) -> list[Tensor]:
        v1, i1, z1, v2, i2, z2 = state
        v1 = 0.9 * v1 + self.enter(x_t) - z1 * self.threshold
        z1 = self.spike(v1 - self.threshold)
        v2 = 0.9 * v2 + self.onward(z1) - z2
        z2 = self.spike(v2 - 1.0)
        return [v1, i1, z1, v2, i2, z2]


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize("box", [tb.Box(), tb.Box(kind="absolute"), tb.Box(scale={"*bias": 3.0}), tb.Box(kind="range")])
@pytest.mark.parametrize("make", [lambda: Stepwise(TwoLayers("norse")), lambda: Stepwise(_Learned()), Convolutional])
def test_every_network_of_the_box_is_read_inside_the_box_that_was_read(make, box: tb.Box) -> None:
    torch.manual_seed(2)
    model = make().double()
    shape = (36,) if isinstance(model, Convolutional) else (5,)
    x = torch.rand(3, 4, *shape, dtype=torch.float64)
    net, epsilon = read(model, x, box), 0.25
    asked = problem(model, x, box)
    for side in (-1.0, 1.0, None):
        moved = copy.deepcopy(model)
        for name, p in moved.named_parameters():
            unit = asked.tensors.parameter(name)
            sign = 2.0 * torch.rand_like(p) - 1.0 if side is None else side
            p.data += epsilon * unit.factor * unit.unit_radius * sign
        there = _tables(read(moved, x, box))
        assert all(_apart(a, b, epsilon) <= 0 for a, b in zip(there, _tables(net), strict=True))
        if side is not None:
            # Corners are reached: a smaller box would be outside.
            assert max(_apart(a, b, 0.99 * epsilon) for a, b in zip(there, _tables(net), strict=True)) > 0


def test_relative_boxes_are_known_to_be_relative() -> None:
    model = Stepwise(TwoLayers("synapse", recurrent=True))
    net = read(model, torch.rand(2, 3, 5))
    assert net.layers[0].inputs is not None
    assert net.layers[0].inputs.relative == net.layers[1].below[0].relative == 1.0
    absolute = read(model, torch.rand(2, 3, 5), tb.Box(kind="absolute"))
    assert absolute.layers[0].inputs is not None
    assert absolute.layers[0].inputs.relative is None


class _Odd(RecurrentModule):
    """One layer whose step is not that of a leaky cell, in one way or another."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.enter = how, nn.Linear(5, 4)
        self.rate = nn.Parameter(torch.tensor(0.9))
        self.level = nn.Parameter(torch.tensor(0.5))

    def initial_state(self, batch: int):
        zero = self.enter.weight.new_zeros(batch, 4)
        if self.how == "begins with a spike":
            return zero, zero + 1, zero
        if self.how == "begins at the input":
            return zero + self.enter.bias, zero, zero
        return zero, zero, zero

    def step(self, x_t: Tensor, state):
        v, z, old = state
        u, how = self.enter(x_t), self.how
        if how == "squares its potential":
            v = 0.9 * v * v + u
        elif how == "decays by a weight in the box":
            v = self.rate * v + u - z
        elif how == "multiplies its current by a spike":
            v = 0.9 * v + u * (1 + z)
        elif how == "halves its potential":
            v = 0.9 * v * (1 - 0.5 * z) + u
        elif how == "late by two":
            v = 0.9 * v + u - old
        elif how == "uses its current a step late":
            return (z := (v > 0.5).to(v.dtype)), (0.9 * v + old - z, z, 0.8 * old + u)
        elif how == "finds its spikes by a threshold in the box":
            v = 0.9 * v + u - (v > self.level).to(v.dtype)
            return (v > self.level).to(v.dtype), (v, z, old)
        elif how == "compares something else":
            v = 0.9 * v + u - z
            return (v * v > 0.5).to(v.dtype), (v, (v * v > 0.5).to(v.dtype), z)
        elif how == "drops at once and later":
            v = 0.9 * v + u - 0.5 * z
            fired = (v > 0.5).to(v.dtype)
            return fired, (v - 0.5 * fired, fired, old)
        elif how == "adapts":
            old = 0.9 * old + z
            v = 0.9 * v + u - z
            return (v > 0.5 + old).to(v.dtype), (v, (v > 0.5 + old).to(v.dtype), old)
        elif how == "has a nonlinear current":
            v = 0.9 * v + torch.tanh(u) - z
        else:
            v = 0.9 * v + u - z
        fired = (v > 0.5).to(v.dtype)
        if how == "answers potentials of cells that spike":
            return v, (v, fired, z)
        return fired, (v, fired, z)

    def readout(self, outputs: Tensor) -> Tensor:
        if self.how == "reads half the time":
            return outputs[:, ::2].mean(1)
        if self.how == "reads the last spike":
            return outputs[:, -1]
        if self.how == "reads a maximum":
            return outputs.amax(1)
        return outputs.mean(1)


ODD = (
    "squares its potential", "decays by a weight in the box", "multiplies its current by a spike",
    "halves its potential", "late by two", "uses its current a step late",
    "compares something else", "adapts", "has a nonlinear current",
    "answers potentials of cells that spike", "begins with a spike", "begins at the input", "reads half the time",
    "reads the last spike", "reads a maximum",
)  # one to a branch of the step  # fmt: skip


def test_the_odd_cell_is_a_leaky_one_without_its_oddity() -> None:
    assert len(read(_Odd("not at all"), torch.rand(2, 6, 5)).layers) == 1


def test_a_spike_that_acts_at_once_and_in_the_next_step_is_a_weight_of_the_cell_to_itself() -> None:
    torch.manual_seed(4)
    model, x = _Odd("drops at once and later").double(), 2.0 * torch.randn(20, 9, 5, dtype=torch.float64)
    net = read(model, x)
    assert torch.equal(net.layers[0].before[0].centre, -0.5 * torch.eye(4, dtype=torch.float64))
    assert torch.allclose(run(net, x).logits, tb.models.logits(model, x), atol=1e-9)


@pytest.mark.parametrize(("kind", "largest"), [("relative", 1.0), ("absolute", 0.5)])
def test_spikes_found_by_a_threshold_in_the_box_are_those_of_the_step_before_while_it_is_positive(
    kind: str, largest: float
) -> None:
    net = read(_Odd("finds its spikes by a threshold in the box"), torch.rand(2, 6, 5), tb.Box(kind=kind))
    assert 0.999999 * largest < net.largest < largest
    assert read(_Odd("not at all"), torch.rand(2, 6, 5)).largest == torch.inf


@pytest.mark.parametrize("how", ODD)
def test_what_is_no_leaky_cell_is_not_read(how: str) -> None:
    with pytest.raises(NotRecognised) as error:
        read(_Odd(how), torch.rand(2, 6, 5))
    assert len(str(error.value).splitlines()) == 1
