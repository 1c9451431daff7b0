"""No bound of the linear domain is ever wrong: vertices, inner points, gradient descent, exact arithmetic."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.oracles import networks as exact_networks
from tests.oracles import orders
from tests.oracles.rational import exact
from tests.verify.linear.networks import (
    MAKERS,
    SWEEP,
    answers,
    descended,
    linear,
    margins,
    network,
    random_noise,
    spread,
    vertices,
)
from thetabox.box import Box
from thetabox.verify.linear.domain import INTERMEDIATE
from thetabox.verify.linear.region import Frame, Region
from thetabox.verify.linear.walk import Walk

pytestmark = pytest.mark.usefixtures("traced_once")

# Rounding of the float64 evaluation that stands for the truth.
EVALUATION = 1e-12

BOXES = {
    "relative": Box(),
    "absolute": Box(kind="absolute"),
    "range": Box(kind="range", exclude="*bias"),
    "scaled": Box(scale={"*bias": 3.0, "*weight": 0.5}),
}


def check(name: str, box: Box, noise_of: object, sweep: list[float] = SWEEP) -> None:
    """Margins and logits of both grades against the truth at every point."""
    model, x, y = network(name)
    epsilon = spread(sweep, len(x))
    for intermediate in INTERMEDIATE:
        domain = linear(model, x, intermediate, box)
        found = domain.margins(slice(None), epsilon, y)
        logits = domain.logits(slice(None), epsilon)
        assert found.dtype == torch.float64
        assert not found.isnan().any()
        low, high = logits.lower.view(len(sweep), len(x), -1), logits.upper.view(len(sweep), len(x), -1)
        for place, value in enumerate(sweep):
            truth = answers(model, x, noise_of(value), value, box)
            room = EVALUATION * (1.0 + truth.abs().amax())
            assert (found[place] <= margins(truth, y).amin(0) + room).all(), (intermediate, value)
            assert (low[place] <= truth.amin(0) + room).all(), (intermediate, value)
            assert (high[place] >= truth.amax(0) - room).all(), (intermediate, value)


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("points", [1000, pytest.param(100_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", MAKERS)
def test_random_points(name: str, points: int) -> None:
    model, _, _ = network(name)
    noise = random_noise(model, points)
    check(name, Box(), lambda value: noise)


@pytest.mark.thin(3, quick=5)
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
@pytest.mark.parametrize("name", MAKERS)
def test_points_found_by_descent(name: str, box: Box) -> None:
    model, x, y = network(name)
    check(name, box, lambda value: descended(model, x, y, value, box))


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("dense", ["0.weight", "2.bias", "4.bias"]),
        ("dense", ["2.weight"]),
        ("strided", ["0.bias", "4.bias", "7.bias"]),
        ("pooled", ["0.weight", "0.bias", "3.bias"]),
        ("pool first", ["0.weight", "3.bias"]),
        ("averaged", ["0.weight", "3.bias"]),
        ("1d", ["0.weight", "2.bias"]),
        ("residual", ["norm.weight", "norm.bias", "second.bias", "last.bias"]),
        ("scaled", ["scale", "shift", "bias"]),
    ],
)
def test_every_vertex(name: str, tensors: list[str]) -> None:
    model, _, _ = network(name)
    noise = vertices(model, tensors)
    check(name, Box(include=",".join(tensors)), lambda value: noise, [1e-3, 0.1, 1.5])


def cancelling() -> tuple[nn.Sequential, Tensor]:
    """Terms of a million that cancel, and weights of zero, near the least and near the largest numbers."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    with torch.no_grad():
        model[0].weight[0] = torch.tensor([1e6, -1e6, 1.0, 0.0])
        model[0].weight[1] = torch.tensor([5e-324, 3e-310, -1.0, 1e-200])
        model[2].weight[0] = torch.tensor([1e8, -3.0, 0.0, 5e-324])
        model[2].weight[1, 0] = 0.1
        model[4].weight[:, 0] = torch.tensor([1e-3, 1e-3, -1e-3])
    x = torch.randn(6, 4, dtype=torch.float64)
    x[:, 1] = x[:, 0]
    x[5] *= 1e-160
    return model, x


@pytest.mark.parametrize("intermediate", INTERMEDIATE)
@pytest.mark.parametrize("epsilon", [0.0, 1e-9, 1e-3])
def test_below_the_exact_margin(intermediate: str, epsilon: float) -> None:
    """Rational arithmetic, no tolerance."""
    model, x = cancelling()
    with torch.no_grad():
        y = model(x).argmax(1)
    found = linear(model, x, intermediate).margins(slice(None), spread([epsilon], len(x)), y)[0]
    logits = linear(model, x, intermediate).logits(slice(None), spread([epsilon], len(x)))
    for n in range(len(x)):
        truth = exact_networks.extremes(model, x[n], epsilon, int(y[n]), limit=20, inner=5)
        assert truth.margin is not None
        assert exact(found[n]) <= truth.margin
        for k in range(3):
            assert exact(logits.lower[n, k]) <= truth.lower[k]
            assert exact(logits.upper[n, k]) >= truth.upper[k]


class AroundZero(nn.Module):
    """A value that is zero but for the noise of its weights, times a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(2, 1, bias=False)
        self.scale = nn.Parameter(torch.tensor([1.5]))
        self.leave = nn.Linear(1, 2)
        with torch.no_grad():
            self.enter.weight.fill_(1.0)
            self.leave.weight.copy_(torch.tensor([[1.0], [-1.0]]))
            self.leave.bias.copy_(torch.tensor([0.5, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(x) * self.scale)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.5, 1.0])
def test_a_scaled_value_around_zero(epsilon: float) -> None:
    """The noise of the scale grows with the value's size, which a line alone would take for nothing."""
    model, x = AroundZero().double(), torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    truth = answers(model, x, vertices(model, [n for n, _ in model.named_parameters()]), epsilon)
    for intermediate in INTERMEDIATE:
        domain = linear(model, x, intermediate)
        found = domain.margins(slice(None), spread([epsilon], 1), torch.tensor([0]))
        least = margins(truth, torch.tensor([0])).amin()
        assert found[0, 0] <= least + EVALUATION
        assert found[0, 0] >= least - 0.1
        bounds = domain.logits(slice(None), spread([epsilon], 1))
        assert (bounds.lower <= truth.amin(0) + EVALUATION).all()
        assert (bounds.upper >= truth.amax(0) - EVALUATION).all()


@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_rounding_of_coefficients_that_cancel(seed: int, convolution: bool) -> None:
    """Coefficients of a million that cancel to about one on their way back, against rational arithmetic."""
    draw = torch.Generator().manual_seed(seed)
    wide, narrow = (2 * torch.rand(n, 4, generator=draw, dtype=torch.float64) for n in (1, 4))
    last = 1e6 * torch.randn(2, 60, generator=draw, dtype=torch.float64)
    last[:, 0] -= last.sum(1)
    if convolution:
        layers: list[nn.Module] = [nn.Conv1d(4, 4, 1, bias=False), nn.Conv1d(4, 60, 1, bias=False), nn.Flatten()]
    else:
        layers = [nn.Linear(4, 4, bias=False), nn.Linear(4, 60, bias=False), nn.Identity()]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2], nn.Linear(60, 2, bias=False)).double()
    with torch.no_grad():
        for layer, weight in zip((model[0], model[2], model[5]), (narrow, wide.expand(60, 4), last), strict=True):
            layer.weight.copy_(weight.reshape(layer.weight.shape))
    x = torch.rand(1, 4, generator=draw, dtype=torch.float64)
    value = exact(x[0])
    for weight in (narrow, wide.expand(60, 4), last):
        value = exact(weight) @ value
    for intermediate in INTERMEDIATE:
        for label in (0, 1):
            y = torch.tensor([label])
            shaped = x[..., None] if convolution else x
            found = linear(model, shaped, intermediate).margins(slice(None), spread([0.0], 1), y)[0, 0]
            truth = value[label] - value[1 - label]
            assert exact(found) <= truth
            assert float(truth - exact(found)) < 1e-2


@pytest.mark.parametrize("name", MAKERS)
def test_at_zero_the_bounds_are_the_output(name: str) -> None:
    model, x, y = network(name)
    with torch.no_grad():
        logits = model(x)
    for intermediate in INTERMEDIATE:
        found = linear(model, x, intermediate).margins(slice(None), spread([0.0], len(x)), y)[0]
        truth = margins(logits, y)
        assert (found <= truth + 1e-13).all()
        assert (found >= truth - 1e-9).all()


def test_overflow_proves_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1e300, 1e300], [1.0, 1.0]], dtype=torch.float64))
        model[2].weight.copy_(torch.tensor([[1e300, 1.0], [0.0, 1.0]], dtype=torch.float64))
    x, y = torch.tensor([[1e10, 1e10], [1.0, 1.0]]), torch.tensor([0, 0])
    for intermediate in INTERMEDIATE:
        domain = linear(model, x, intermediate)
        assert (domain.margins(slice(None), spread([1e-3], 2), y) == -torch.inf).all()
        logits = domain.logits(slice(None), spread([1e-3], 2))
        assert not logits.lower.isnan().any()
        assert (logits.upper[:, 0] == torch.inf).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense", "pooled", "strided", "averaged", "residual", "deep", "scaled"])
def test_float32_networks(name: str) -> None:
    """The claim for binary32 covers what torch computes in it, batch by batch and in one."""
    model, x, y = network(name)
    single = copy.deepcopy(model).float()
    x = x.float()
    found = {g: linear(single, x, g, arithmetic="float32") for g in INTERMEDIATE}
    noise = random_noise(model, 200)
    for value in (0.0, 1e-6, 1e-3, 0.1):
        bounds = {
            g: (d.margins(slice(None), spread([value], 3), y)[0], d.logits(slice(None), spread([value], 3)))
            for g, d in found.items()
        }
        real = linear(single, x, "interval").margins(slice(None), spread([value], 3), y)[0]
        assert (bounds["interval"][0] < real).all()
        for number in range(200):
            point = {
                n: (p.detach().double() * (1 + value * (1 - 1e-3) * noise[n][number])).float()
                if value > 1e-4
                else p.detach()
                for n, p in single.named_parameters()
            }
            with torch.no_grad():
                logits = torch.func.functional_call(single, point, (x,)).double()
            for low, ends in bounds.values():
                assert (low <= margins(logits, y)).all()
                assert (ends.lower <= logits).all()
                assert (ends.upper >= logits).all()
            if value <= 1e-4:
                break


def test_every_order_of_a_float32_sum() -> None:
    """All orders and bracketings of a cancelling dot product, fused or not."""
    weight = torch.tensor([[1.0, 3e-8, -1.0, 7e-8, 0.3], [1e-3, 1.0, 1e7, -1e7, 0.1]], dtype=torch.float32)
    x = torch.tensor([[1.0, 1.3, 1.0, 0.7, 1e-8]], dtype=torch.float32)
    model = nn.Linear(5, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(weight)
    for intermediate in INTERMEDIATE:
        found = linear(model, x, intermediate, arithmetic="float32").logits(slice(None), spread([0.0], 1))
        for k in range(2):
            reached = orders.all_dots(weight[k].numpy(), x[0].numpy())
            assert found.lower[0, k] <= min(reached)
            assert found.upper[0, k] >= max(reached)


def test_a_constant_for_noise_counts_the_radius() -> None:
    """By hand: θ (v - w), each in [0.5, 1.5], is at least -1.5, though v - w is 0 at the centre."""
    model = nn.Sequential(
        nn.Linear(1, 2, bias=False),
        nn.Unflatten(1, (1, 2)),
        nn.Conv1d(1, 1, 1, bias=False),
        nn.Flatten(),
        nn.Linear(2, 2, bias=False),
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
        model[4].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    domain = linear(model, torch.ones(1, 1), "interval", Box(exclude="4.*"))
    samples = domain.samples(torch.ones(1, 1), torch.tensor([0.5], dtype=torch.float64))
    for coarse in (False, True):
        walk = Walk(samples, Frame(slice(None)), 1, coarse=coarse)
        walk.give(domain.output, torch.tensor([[[1.0, -1.0]]], dtype=torch.float64))
        assert walk.run().item() == pytest.approx(-1.5, abs=1e-9)


def test_what_one_window_sees_at_the_edge() -> None:
    """Rows of one position against rows of the whole image, where windows reach over the edge and into biases."""
    torch.manual_seed(6)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(2, 2, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(2, 2, 3, padding=1),
        nn.Flatten(),
        nn.Linear(18, 2),
    ).double()
    with torch.no_grad():
        for place in (0, 2, 4):
            model[place].bias.fill_(1.0)
    x = torch.randn(2, 1, 3, 3, dtype=torch.float64)
    domain = linear(model, x, "interval")
    samples = domain.samples(x, torch.full((2,), 0.01, dtype=torch.float64))
    last = [o.index for o in domain.graph.operations if "conv2d" in o.operator][-1]
    whole = Walk(samples, Frame(slice(None)), 18, coarse=True)
    whole.give(last, torch.eye(18, dtype=torch.float64).view(1, 18, 2, 3, 3).expand(2, -1, -1, -1, -1))
    expected = whole.run().view(2, 2, 3, 3)
    for h in range(3):
        for w in range(3):
            at = torch.full((2,), h), torch.full((2,), w)
            walk = Walk(samples, Frame(torch.arange(2), *at), 2, coarse=True)
            one = torch.eye(2, dtype=torch.float64)[None, :, :, None, None].expand(2, -1, -1, -1, -1)
            walk.give(last, one, Region((1, 1), (0, 0), (1, 1)))
            assert torch.allclose(walk.run(), expected[:, :, h, w], atol=1e-9)
