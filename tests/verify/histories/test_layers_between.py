"""What stands between spikes and currents: padding, batch norm, dropout, pools of spikes and of currents."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify.histories.test_recognition import problem
from tests.verify.histories.test_recognition_certified import EPSILON, answers, assert_contained
from thetabox.models.recurrent import RecurrentModule
from thetabox.verify.histories.branching import _held, _replayed, _run, branching
from thetabox.verify.histories.description.algebra import Algebra
from thetabox.verify.histories.description.atoms import LARGEST, ONE, ZERO
from thetabox.verify.histories.description.spatial import Axis
from thetabox.verify.histories.engine import Engine
from thetabox.verify.histories.forward import run
from thetabox.verify.histories.recognition import NotRecognised, recognised
from thetabox.verify.histories.recognition.constants import MOST_EPSILON, Constants
from thetabox.verify.histories.recognition.constants import Tensor as Boxed
from thetabox.verify.histories.recognition.describe import lines, summary
from thetabox.verify.histories.spiking import SpikingPlan

pytestmark = pytest.mark.usefixtures("traced_once")

SIZE = 5


def norm(channels: int = 2, *, affine: bool = True, of: type = nn.BatchNorm2d) -> nn.Module:
    """Batch norm that has seen data."""
    made = of(channels, affine=affine)
    made.running_mean.normal_(0.0, 0.2)
    made.running_var.uniform_(0.5, 2.0)
    if affine:
        nn.init.uniform_(made.weight, 0.6, 1.5)
        made.weight.data[0] *= -1.0
        nn.init.normal_(made.bias, 0.0, 0.2)
    return made.eval()


class Between(nn.Module):
    """A convolution, what follows it, leaky cells, what follows these, a dense layer of leaky cells."""

    def __init__(
        self, conv: nn.Module | None = None, currents: nn.Module | None = None, spikes: nn.Module | None = None,
        reset: str = "subtract",
    ) -> None:  # what stands between, in one line  # fmt: skip
        super().__init__()
        self.conv = conv or nn.Conv2d(1, 2, 3)
        self.currents, self.spikes, self.reset = currents or nn.Identity(), spikes or nn.Identity(), reset
        units = self.spikes(self.currents(self.conv(torch.zeros(1, 1, SIZE, SIZE)))).numel()
        self.fc = nn.Linear(units, 3)

    def forward(self, x: Tensor) -> Tensor:
        mem1 = mem2 = syn1 = count = 0.0
        for t in range(x.shape[1]):
            current = self.currents(self.conv(x[:, t]))
            if "synapse" in self.reset:
                current = syn1 = 0.5 * syn1 + current
            mem1 = 0.8 * mem1 + current
            spk = (mem1 > 0.4).to(mem1.dtype)
            mem1 = mem1 * (1 - spk) if "zero" in self.reset else mem1 - spk * 0.4
            mem2 = 0.9 * mem2 + self.fc(self.spikes(spk).flatten(1))
            spk = (mem2 > 0.3).to(mem2.dtype)
            mem2 = mem2 - 0.3 * spk
            count = count + spk + 0.01 * self.fc.bias
        return count


class Stepwise(RecurrentModule):
    """The same as methods of one step."""

    def __init__(self, net: Between) -> None:
        super().__init__()
        self.net = net

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        like, net = self.net.fc.weight, self.net
        shape = net.currents(net.conv(like.new_zeros(1, 1, SIZE, SIZE))).shape[1:]
        return like.new_zeros(batch, *shape), like.new_zeros(batch, *shape), like.new_zeros(batch, 3)

    def step(self, x_t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        net, (mem1, syn1, mem2) = self.net, state
        syn1 = 0.5 * syn1 * ("synapse" in net.reset) + net.currents(net.conv(x_t.reshape(-1, 1, SIZE, SIZE)))
        mem1 = 0.8 * mem1 + syn1
        fired = mem1 > 0.4
        mem1 = mem1.masked_fill(fired, 0.0) if "zero" in net.reset else mem1 - fired.to(mem1.dtype) * 0.4
        mem2 = 0.9 * mem2 + net.fc(net.spikes(fired.to(mem1.dtype)).flatten(1))
        spk = (mem2 > 0.3).to(mem2.dtype)
        return spk, (mem1, syn1, mem2 - 0.3 * spk)

    def readout(self, outputs: Tensor) -> Tensor:
        return outputs.sum(1)


def around(mode: str) -> nn.Module:
    return nn.Conv2d(1, 2, 3, padding=1, padding_mode=mode)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "same": lambda: Between(nn.Conv2d(1, 2, 3, padding="same")),
    "same, even": lambda: Between(nn.Conv2d(1, 2, (2, 4), padding="same")),
    "valid": lambda: Between(nn.Conv2d(1, 2, 3, padding="valid")),
    "circular": lambda: Between(around("circular")),
    "reflect": lambda: Between(around("reflect")),
    "replicate": lambda: Between(around("replicate")),
    "average with a border": lambda: Between(spikes=nn.AvgPool2d(2, padding=1)),
    "batch norm": lambda: Between(currents=norm()),
    "batch norm, no parameters": lambda: Between(currents=norm(affine=False)),
    "batch norm of spikes": lambda: Between(spikes=norm()),
    "dropout": lambda: Between(currents=nn.Dropout2d(0.3), spikes=nn.Dropout(0.3)).eval(),
    "max of spikes": lambda: Between(spikes=nn.MaxPool2d(2)),
    "max of spikes, overlapping": lambda: Between(spikes=nn.MaxPool2d(3, 1, 1), reset="zero"),
    "adaptive max of spikes": lambda: Between(spikes=nn.AdaptiveMaxPool2d(1)),
    "max of currents": lambda: Between(currents=nn.MaxPool2d(2)),
    "max of currents, zero": lambda: Between(currents=nn.MaxPool2d(2), reset="zero"),
    "max of currents, synapse": lambda: Between(currents=nn.MaxPool2d(2), reset="synapse"),
    "max of currents, synapse, zero": lambda: Between(currents=nn.MaxPool2d(2), reset="synapse zero"),
    "relu": lambda: Between(currents=nn.ReLU()),
    "batch norm and max": lambda: Between(currents=nn.Sequential(norm(), nn.ReLU(), nn.MaxPool2d(2))),
    "max of spikes, twice": lambda: Between(spikes=nn.Sequential(nn.MaxPool2d(2, 1), nn.MaxPool2d(2, 1))),
    "max of spikes, rounded up": lambda: Between(spikes=nn.MaxPool2d(2, ceil_mode=True), reset="zero"),
    "max of spikes, dilated": lambda: Between(spikes=nn.MaxPool2d(2, 1, dilation=2)),
    "max of currents, rounded up": lambda: Between(currents=nn.MaxPool2d(2, ceil_mode=True)),
    "max of currents, padded": lambda: Between(currents=nn.MaxPool2d(2, padding=1), reset="synapse zero"),
    "average, rounded up": lambda: Between(spikes=nn.AvgPool2d(2, ceil_mode=True)),
    "average, padding left out": lambda: Between(spikes=nn.AvgPool2d(2, padding=1, count_include_pad=False)),
    "average, uneven": lambda: Between(spikes=nn.AdaptiveAvgPool2d(2)),
    "max of spikes, uneven": lambda: Between(spikes=nn.AdaptiveMaxPool2d(2)),
    "zeros around currents": lambda: Between(currents=nn.ZeroPad2d(1)),
    "zeros around, max of currents": lambda: Between(currents=nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(2))),
    "zeros around, max of spikes": lambda: Between(spikes=nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(2))),
    "a number around currents": lambda: Between(currents=nn.ConstantPad2d(1, 0.25), reset="zero"),
    "two batch norms": lambda: Between(currents=nn.Sequential(norm(), norm())),
    "max and both": lambda: Between(currents=nn.MaxPool2d(2, 1), spikes=nn.MaxPool2d(2)),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(4)
    return NETWORKS[name]().double().eval()


def inputs(samples: int, seed: int = 2) -> Tensor:
    return 2.0 * torch.rand(
        samples, 4, 1, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.slow
@pytest.mark.thin(9)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_read_runs_as_the_network(name: str) -> None:
    model, x = made(name), inputs(20)
    found = recognised(problem(model, x))
    ran = run(found.net, found.inputs(x))
    assert torch.allclose(ran.logits, model(x), atol=1e-9)
    assert all(bool(count.sum() > 0) for count in ran.counts)
    assert ("max" in name and "currents" not in name and name != "batch norm and max") == any(
        layer.union for layer in found.net.layers
    )


@pytest.mark.slow
@pytest.mark.thin(7)
@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_hold_what_the_network_answers(name: str) -> None:
    assert assert_contained(made(name), inputs(4)) > 0


@pytest.mark.thin(7)
@pytest.mark.parametrize("name", NETWORKS)
def test_methods_of_a_step_are_read_too(name: str) -> None:
    model, x = Stepwise(made(name)), inputs(20).flatten(2)
    found = recognised(problem(model, x))
    assert torch.allclose(run(found.net, found.inputs(x)).logits, model(x), atol=1e-9)


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("name", ["batch norm and max", "batch norm of spikes", "max of currents, zero"])
def test_bounds_hold_what_methods_of_a_step_answer(name: str) -> None:
    assert assert_contained(Stepwise(made(name)), inputs(4).flatten(2)) > 0


class Tiny(nn.Module):
    """A convolution over four places, batch norm whose factor is 1/2, a pool, cells, and a dense layer of cells."""

    def __init__(self, pool: str, *, strict: bool, reset: str) -> None:
        super().__init__()
        self.pool, self.strict, self.reset = pool, strict, reset
        self.conv = nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular")
        self.norm, self.fc = nn.BatchNorm1d(1, eps=0.0), nn.Linear(2, 2, bias=False)
        self.norm.running_mean.fill_(0.25)
        self.norm.running_var.fill_(4.0)
        values = ((self.conv.weight, [0.5, 1.0, -0.25]), (self.conv.bias, [0.25]), (self.norm.weight, [2.0]))
        for tensor, held in (*values, (self.norm.bias, [-0.25]), (self.fc.weight, [1.0, 0.5, -0.5, 1.25])):
            tensor.data = torch.tensor(held).reshape(tensor.shape)

    def spikes(self, v: Tensor) -> Tensor:
        return (v > 0.5 if self.strict else v >= 0.5).to(v.dtype)

    def forward(self, x: Tensor) -> Tensor:
        mem1 = mem2 = total = torch.zeros(1, dtype=x.dtype)
        for t in range(x.shape[1]):
            u = self.norm(self.conv(x[:, t]))
            if self.pool == "currents":
                u = nn.functional.max_pool1d(u, 2)
            again = self.spikes(mem1) if "twice" in self.reset or self.reset == "input lost" else 0.0
            mem1 = 0.5 * mem1 + u
            mem1 = mem1 - 0.5 * again if "subtract" in self.reset else mem1 * (1 - again)
            z = self.spikes(mem1)
            if self.reset != "input lost":
                mem1 = mem1 - (z - again) * (0.5 if "subtract" in self.reset else mem1)
            if self.pool == "spikes":
                z = nn.functional.max_pool1d(z, 2)
            mem2 = 0.5 * mem2 + self.fc(z.flatten(1))
            z = self.spikes(mem2)
            mem2 = mem2 - 0.5 * z if "subtract" in self.reset else (1 - z) * mem2
            total = total + z
        return total


def counted(model: Tiny, x: Tensor, signs: tuple[int, ...], epsilon: Fraction, *, strict: bool) -> list[Fraction]:
    """Logits of one sample at one vertex of the box, in fractions."""
    moved = iter(signs)

    def vertex(t: Tensor) -> np.ndarray:
        held = [Fraction(v) for v in t.reshape(-1).tolist()]
        return np.array([v + next(moved) * epsilon * abs(v) for v in held], dtype=object).reshape(tuple(t.shape))

    conv, bias, gain, shift, dense = (
        vertex(t) for t in (model.conv.weight, model.conv.bias, model.norm.weight, model.norm.bias, model.fc.weight)
    )
    half = Fraction(1, 2)

    def fire(v: list[Fraction]) -> list[int]:
        return [int(p > half or (p == half and not strict)) for p in v]

    def after(v: list[Fraction], z: list[int]) -> list[Fraction]:
        return [p - half * s if "subtract" in model.reset else p * (1 - s) for p, s in zip(v, z, strict=True)]

    v1, v2, total = [Fraction(0)] * (2 if model.pool == "currents" else 4), [Fraction(0)] * 2, [Fraction(0)] * 2
    for x_t in x:
        entered = [Fraction(v) for v in x_t[0].tolist()]
        u = [
            (sum(conv[0, 0, k] * entered[(n + k - 1) % 4] for k in range(3)) + bias[0] - Fraction(1, 4)) * half
            * gain[0] + shift[0]
            for n in range(4)
        ]  # a formula as it is written  # fmt: skip
        if model.pool == "currents":
            u = [max(u[:2]), max(u[2:])]
        again = fire(v1) if "twice" in model.reset or model.reset == "input lost" else [0] * len(v1)
        v1 = after([half * p + c for p, c in zip(v1, u, strict=True)], again)
        z = fire(v1)
        if model.reset != "input lost":
            v1 = after(v1, [s - r for s, r in zip(z, again, strict=True)])
        if model.pool == "spikes":
            z = [max(z[:2]), max(z[2:])]
        v2 = [half * p + sum(w * s for w, s in zip(row, z, strict=True)) for p, row in zip(v2, dense, strict=True)]
        z = fire(v2)
        v2 = after(v2, z)
        total = [a + b for a, b in zip(total, z, strict=True)]
    return total


@pytest.mark.slow
@pytest.mark.thin(5)
@pytest.mark.parametrize("reset", ["subtract", "zero", "zero twice", "subtract twice", "input lost"])
@pytest.mark.parametrize("pool", ["currents", "spikes"])
def test_every_vertex_of_a_tiny_network(pool: str, reset: str) -> None:
    """In fractions; inputs are eighths, so that potentials meet thresholds exactly, which counts as they may."""
    model = Tiny(pool, strict=pool == "spikes", reset=reset).double().eval()
    x = torch.randint(0, 8, (2, 3, 1, 4), generator=torch.Generator().manual_seed(7)).double() / 4
    assert [counted(model, one, (0,) * 10, Fraction(0), strict=model.strict) for one in x] == model(x).tolist()
    open_ends = 0
    for epsilon in (Fraction(0), Fraction(1, 64), Fraction(1, 8)):
        ends = tb.logit_bounds(model, x, float(epsilon), domain="histories")
        for sample, one in enumerate(x):
            vertices = [(0,) * 10] if epsilon == 0 else itertools.product((-1, 1), repeat=10)
            for number, signs in enumerate(vertices):
                ran = counted(model, one, signs, epsilon, strict=bool(number % 2))
                assert all(Fraction(a) <= b for a, b in zip(ends.lower[sample].tolist(), ran, strict=True))
                assert all(b <= Fraction(c) for b, c in zip(ran, ends.upper[sample].tolist(), strict=True))
        open_ends += int((ends.upper - ends.lower > 1.5).sum())
    assert open_ends < 8, "of 12: bounds say something"


@pytest.mark.slow
def test_products_of_two_tensors_of_the_box_have_a_largest_error() -> None:
    model, x = made("batch norm"), inputs(2)
    assert recognised(problem(model, x)).net.largest == MOST_EPSILON
    assert recognised(problem(model, x, tb.Box(exclude="*currents*"))).net.largest > 1e6
    assert recognised(problem(model, x, tb.Box(exclude="conv*,fc*"))).net.largest > 1e6
    beyond, plain = (tb.logit_bounds(model, x, 0.13, domain=domain) for domain in ("histories", "interval"))
    assert torch.equal(beyond.lower, plain.lower), "plain intervals alone are left"


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("name", ["batch norm", "two batch norms"])
def test_radii_of_products_hold_every_vertex(name: str) -> None:
    """Weights, gains and shifts in an absolute box, all of whose extremes are met by the matrices that are read."""
    model, x = made(name), inputs(2)
    net = recognised(problem(model, x, tb.Box(kind="absolute"))).net
    read = net.layers[0].inputs
    assert read is not None
    for epsilon in (1e-3, MOST_EPSILON):
        for sign in ((1.0, 1.0, 1.0, 1.0), (-1.0, 1.0, 1.0, -1.0), (1.0, -1.0, -1.0, 1.0)):
            other = copy.deepcopy(model)
            for p, s in zip(other.parameters(), sign, strict=False):
                p.data += s * epsilon
            moved = recognised(problem(other, x)).net.layers[0]
            assert moved.inputs is not None
            for at, held in ((moved.inputs, read), (moved.bias, net.layers[0].bias)):
                off = (at.centre - held.centre).abs()
                assert bool((off <= (held.spread * epsilon + held.error + at.error) * (1 + 1e-12)).all())


def test_products_of_several_numbers_of_the_box_hold_every_vertex() -> None:
    """In fractions; of three, and of one twice."""
    algebra = Algebra()
    block = algebra.block("gains", (3,), "neuron")
    theta, radius = np.array([0.75, -1.5, 0.125]), np.array([0.75, 1.5, 0.5])
    constants = Constants(algebra, {block.first: Boxed("gains", theta, radius, 0.0)})
    a, b, c = (-1 - block.first - n for n in range(3))
    three = algebra.scale(algebra.multiply(algebra.multiply(a, b), c), 3)
    for p, of in (
        (three, lambda a, b, c: 3 * a * b * c),
        (algebra.multiply(algebra.multiply(a, a), b), lambda a, b, c: a * a * b),
        (algebra.add(three, algebra.power(b, 3)), lambda a, b, c: 3 * a * b * c + b**3),
    ):
        known = constants.boxed(p)
        for epsilon in (Fraction(1, 1000), Fraction(MOST_EPSILON)):
            room = Fraction(known.spread) * epsilon + Fraction(known.error)
            for signs in itertools.product((-1, 0, 1), repeat=3):
                at = [Fraction(t) + s * epsilon * Fraction(r) for t, r, s in zip(theta, radius, signs, strict=True)]
                assert abs(of(*at) - Fraction(known.centre)) <= room
    assert constants.multiplied


def test_what_the_largest_of_several_is_taken_of() -> None:
    """No largest among them, and no number that a truth value is never below: 0 is left out, 1/4 is not."""
    algebra = Algebra()
    block = algebra.block("v", (3,), "state")
    a, b, current = (-1 - block.first - n for n in range(3))
    one, other = algebra.positive(a), algebra.subtract(ONE, algebra.positive(b))
    both = algebra.function(LARGEST, [one, other])
    quarter, below = algebra.literal(0.25), algebra.literal(-2)
    assert algebra.function(LARGEST, [algebra.function(LARGEST, [one, ZERO]), other]) == both
    assert algebra.function(LARGEST, [below, other, ZERO, one]) == both
    assert algebra.function(LARGEST, [one, ZERO]) == one
    assert algebra.function(LARGEST, [one, quarter]) != one
    assert algebra.function(LARGEST, [current, ZERO]) != current
    assert algebra.function(LARGEST, [current, below]) != current


@pytest.mark.parametrize("length", range(1, 9))
def test_windows_of_pools_are_those_of_torch(length: int) -> None:
    x = torch.randn(1, 1, length, dtype=torch.float64)

    def at(places: list[int]) -> Tensor:
        return x[0, 0, places]

    def highest(places: list[int]) -> Tensor:
        """A window with gaps may lie in the padding, whose largest number is minus infinity."""
        return at(places).max() if places else x.new_tensor(-torch.inf)

    for size, stride, gap, ceil in itertools.product((1, 2, 3, 4), (1, 2, 3), (1, 2), (False, True)):
        for pad in range(size // 2 + 1):
            if length + 2 * pad < (size - 1) * gap + 1:
                continue
            axis = Axis(length, size, stride, pad, gap=gap, ceil=ceil)
            asked = {"padding": pad, "ceil_mode": ceil}
            largest = nn.functional.max_pool1d(x, size, stride, dilation=gap, **asked)
            assert torch.equal(largest[0, 0], torch.stack([highest(places) for places in axis.places]))
            for include in (False, True) if gap == 1 else ():
                axis = Axis(length, size, stride, pad, ceil=ceil, include=include)
                mean = nn.functional.avg_pool1d(x, size, stride, count_include_pad=include, **asked)
                means = [at(places).sum() / count for places, count in zip(axis.places, axis.counts, strict=True)]
                assert torch.allclose(mean[0, 0], torch.stack(means), atol=1e-12)
    for windows in range(1, 10):
        axis, mean = Axis.adaptive(length, windows), nn.functional.adaptive_avg_pool1d(x, windows)
        assert torch.allclose(mean[0, 0], torch.stack([at(places).mean() for places in axis.places]), atol=1e-12)


@pytest.mark.long
def test_a_gain_that_may_turn_the_order_around_is_not_read() -> None:
    """The largest times a number below 0 is the least, which is no largest."""
    torch.manual_seed(4)
    behind = Between(currents=nn.Sequential(nn.MaxPool2d(2, 1), norm()))
    with pytest.raises(NotRecognised, match="below 0"):
        recognised(problem(behind, inputs(2)))
    behind.currents[1].weight.data.abs_()
    model = behind.double().eval()
    assert assert_contained(model, inputs(2)) > 0
    box = tb.Box(kind="absolute")
    assert recognised(problem(model, inputs(2), box)).net.largest == MOST_EPSILON
    model.currents[1].weight.data.fill_(0.1)
    with pytest.raises(NotRecognised, match="below 0"):
        recognised(problem(model, inputs(2), box))


def test_potentials_behind_the_largest_of_currents_are_not_read_out() -> None:
    class Potentials(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool = nn.Conv1d(1, 1, 1), nn.MaxPool1d(2)
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            v = mem = 0.0
            for t in range(x.shape[1]):
                v = 0.5 * v + self.conv(x[:, t])
                z = (v > 0.5).to(v.dtype)
                v = v - z
                mem = 0.9 * mem + self.pool(self.fc(z)).flatten(1)
            return mem

    with pytest.raises(NotRecognised, match="potential"):
        recognised(problem(Potentials(), torch.rand(2, 3, 1, 4)))


def test_what_was_found_says_so() -> None:
    found = recognised(problem(made("max and both"), inputs(2)))
    assert "max pools between" in summary(found.net)
    said = "\n".join(lines(found.net))
    assert "the largest of currents of the input" in said
    assert "the largest of spikes of layer 0" in said


def test_branching_follows_flips_through_the_largest_of_currents() -> None:
    torch.manual_seed(3)
    model, x = made("max of currents, synapse"), inputs(6)
    asked = problem(model, x)
    found = recognised(asked)
    plan = SpikingPlan(found.net, x.shape[1], asked.settings.rounding, asked.settings.device)
    engine = Engine(plan, found.inputs(x), asked.settings, 2, 0, lambda: 64)
    circuit, layers = _run(engine, 6)
    several, currents = circuit.layers[0].largest, layers[0].currents
    assert several is not None
    assert currents is not None
    assert torch.allclose(_held(layers[0].cells, several, currents), layers[0].q, atol=1e-9)
    for layer, counts in zip(layers, run(found.net, found.inputs(x)).counts, strict=True):
        assert torch.equal(_replayed(layer.cells, layer.q, None)[0], layer.z)
        assert torch.equal(layer.z.sum(1), counts)
    measured = branching(engine, 6)
    assert measured.flips > 0
    assert measured.smallest > 0.0


@pytest.mark.slow
def test_relative_boxes_of_all_epsilons_in_one_run() -> None:
    """Rows of several ε are followed side by side, each as if it were alone."""
    model, x = made("max of currents, zero"), inputs(3)
    together = tb.certify(model, x, model(x).argmax(1), epsilon=list(EPSILON), domain="histories")
    for place, epsilon in enumerate(EPSILON):
        alone = tb.certify(model, x, model(x).argmax(1), epsilon=[epsilon], domain="histories")
        assert torch.allclose(alone.margin[0], together.margin[place], atol=1e-9)
    assert answers(model, x, 0.0, torch.Generator().manual_seed(0)).shape[1:] == (3, 3)


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("synapse", [0.0, 0.5])
@pytest.mark.parametrize("share", [Fraction(15, 16), Fraction(17, 16)])
def test_what_is_left_of_all_steps_has_the_errors_of_all(share: Fraction, synapse: float) -> None:
    """A cell that takes its one spike in the last step, or not, as all weights are an eighth too large or small."""
    steps, decay = 6, Fraction(3, 4)
    left = flow = Fraction(0)
    for _ in range(steps):
        flow = Fraction(synapse) * flow + 1
        left = decay * left + flow

    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 1, bias=False)
            self.conv.weight.data.fill_(1.0)
            self.register_buffer("threshold", torch.tensor(float(share * left)))

        def forward(self, x: Tensor) -> Tensor:
            mem = syn = total = 0.0
            for t in range(x.shape[1]):
                current = nn.functional.max_pool1d(self.conv(x[:, t]), 2)
                current = syn = synapse * syn + current if synapse else current
                mem = 0.75 * mem + current
                z = (mem > self.threshold).to(mem.dtype)
                mem = mem - z
                total = total + z.flatten(1)
            return torch.cat([total, 1 - total], 1)

    model, x = Single().double(), torch.tensor([1.0, 0.5]).double().expand(1, steps, 1, 2)
    assert model(x).tolist() == [[1.0, 0.0]] if share < 1 else [[0.0, 1.0]]
    within, beyond = (tb.logit_bounds(model, x, epsilon, domain="histories") for epsilon in (1 / 32, 1 / 8))
    assert torch.allclose(within.lower, within.upper, atol=1e-9)
    assert bool((beyond.lower <= 0.0).all())
    assert bool((beyond.upper >= 1.0).all())
