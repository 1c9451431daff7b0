"""Single layers against the exact hull: contained without any tolerance, and equal to it to rounding."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import thetabox as tb
from tests.oracles import layers
from tests.oracles.rational import assert_contains, box_ends, exact
from thetabox.verify import arguments
from thetabox.verify.interpreter.context import Context, RowEpsilons
from thetabox.verify.interval.forward import run
from thetabox.verify.problem import Problem

pytestmark = pytest.mark.usefixtures("traced_once")

SWEEP = [0.0, 1e-9, 1e-3, 0.1, 1.5]
WEIGHTS = {
    "ordinary": [0.7, -1.3, 0.25, 2.0, -0.1],
    "zero": [0.0, -0.0, 0.0],
    "denormal": [5e-324, -1e-310, 3e-320, 0.0],
    "huge": [1e150, -3e149, 2e150, 1.0],
    "mixed": [1e150, 5e-324, 0.0, -1.0, 1e-200],
}


def fill(module: nn.Module, kind: str) -> nn.Module:
    """Float64 weights of one kind, in a fixed pattern."""
    module = module.double()
    values = WEIGHTS[kind]
    with torch.no_grad():
        for p in module.parameters():
            flat = [values[(7 * i + 3) % len(values)] * (1 + (i % 3) / 8) for i in range(p.numel())]
            p.copy_(torch.tensor(flat, dtype=torch.float64).view_as(p))
    return module


def hull(module: Any, x: tuple[Any, Any], epsilon: float) -> tuple[Any, Any]:
    weight = box_ends(module.weight, epsilon)
    bias = None if module.bias is None else box_ends(module.bias, epsilon)
    if isinstance(module, nn.Linear):
        return layers.dense_hull(weight, bias, x)
    return layers.conv_hull(weight, bias, x, module.stride, module.padding, module.dilation, module.groups)


def assert_equal_to_rounding(
    bounds: tb.Interval, truth: tuple[Any, Any], size: tuple[Any, Any], relative: float
) -> None:
    """Contained, and wider by no more than ``relative`` of the sum of absolute products."""
    low, high = exact(bounds.lower), exact(bounds.upper)
    assert_contains(low, high, *truth)
    for index in np.ndindex(low.shape):
        room = Fraction(relative) * max(abs(size[0][index]), abs(size[1][index])) + Fraction(1, 10**250)
        assert truth[0][index] - low[index] <= room
        assert high[index] - truth[1][index] <= room


class Known(nn.Module):
    """The layer on the input itself."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).flatten(1)


class Noisy(Known):
    """The layer on an interval: x times a gain in the box."""

    def __init__(self, layer: nn.Module, relu: bool = False) -> None:
        super().__init__(layer)
        self.gain, self.relu = nn.Parameter(torch.tensor(1.0, dtype=torch.float64)), relu

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.gain
        return super().forward(x.relu() if self.relu else x)


LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "dense": (lambda: nn.Linear(4, 3), (4,)),
    "dense without bias": (lambda: nn.Linear(5, 2, bias=False), (5,)),
    "conv2d": (lambda: nn.Conv2d(2, 2, 2), (2, 3, 3)),
    "conv2d stride padding": (lambda: nn.Conv2d(1, 2, (3, 2), stride=(2, 1), padding=(1, 2)), (1, 4, 3)),
    "conv2d dilation groups": (lambda: nn.Conv2d(2, 4, 2, dilation=(1, 2), groups=2), (2, 3, 4)),
    "conv2d same": (lambda: nn.Conv2d(1, 2, (2, 3), padding="same", bias=False), (1, 3, 3)),
    "conv2d valid": (lambda: nn.Conv2d(1, 2, 2, padding="valid"), (1, 3, 3)),
    "conv1d": (lambda: nn.Conv1d(2, 2, 3, stride=2, padding=2), (2, 5)),
    "conv1d same dilation": (lambda: nn.Conv1d(2, 2, 2, padding="same", dilation=2, groups=2), (2, 5)),
}


@cache
def known(name: str) -> tuple[Known, Tensor]:
    """Made once and filled anew by each test: values are read at every call, the graph is not traced again."""
    make, shape = LAYERS[name]
    return Known(make()), inputs(shape)


@cache
def noisy(name: str, relu: bool) -> tuple[Noisy, Tensor]:
    make, shape = LAYERS[name]
    return Noisy(make().double(), relu), inputs(shape)


@cache
def dense_layer(rows: int, columns: int) -> nn.Linear:
    return nn.Linear(columns, rows)


def inputs(shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    x[1].view(-1)[::2] = 0.0
    return x


def magnitude(module: Any, epsilon: float, high: Any) -> tuple[Any, Any]:
    """Σ|w||x| with the widest weights: the size that rounding is relative to."""
    weight = box_ends(module.weight, epsilon)
    bias = None if module.bias is None else box_ends(module.bias, epsilon)
    big = np.maximum(abs(weight[0]), abs(weight[1]))
    offset = None if bias is None else np.maximum(abs(bias[0]), abs(bias[1]))
    pairs = (big, big), None if offset is None else (offset, offset), (high, high)
    if isinstance(module, nn.Linear):
        return layers.dense_hull(*pairs)
    return layers.conv_hull(*pairs, module.stride, module.padding, module.dilation, module.groups)


@pytest.mark.thin(quick=7)
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", LAYERS)
def test_layer_on_known_input(name: str, kind: str) -> None:
    module, x = known(name)
    layer = fill(module.layer, kind)
    bounds = tb.logit_bounds(module, x, SWEEP)
    for place, epsilon in enumerate(SWEEP):
        for n in range(2):
            point = exact(x[n])
            low, high = hull(layer, (point, point), epsilon)
            size = magnitude(layer, epsilon, abs(point))
            got = tb.Interval(bounds.lower[place, n], bounds.upper[place, n])
            flat = tuple(part.ravel() for part in (low, high)), tuple(part.ravel() for part in size)
            assert_equal_to_rounding(got, *flat, 1e-13)


@pytest.mark.thin(quick=7)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", ["dense", "conv2d stride padding", "conv2d dilation groups", "conv1d same dilation"])
def test_layer_on_interval(name: str, kind: str, relu: bool) -> None:
    module, x = noisy(name, relu)
    layer = fill(module.layer, kind)
    sweep = SWEEP if not relu else SWEEP[:4]
    together = tb.logit_bounds(module, x, sweep)
    # ε = 0 by itself goes its own way.
    alone = tb.logit_bounds(module, x, [0.0])
    for bounds, place, epsilon in [(alone, 0, 0.0), *((together, i, e) for i, e in enumerate(sweep))]:
        gain = box_ends(np.array(1.0), epsilon)
        for n in range(2):
            ends = [exact(x[n]) * g for g in gain]
            low, high = np.minimum(*ends), np.maximum(*ends)
            if relu:
                low, high = layers.relu(low), layers.relu(high)
            truth = hull(layer, (low, high), epsilon)
            size = magnitude(layer, epsilon, np.maximum(abs(low), abs(high)))
            got = tb.Interval(bounds.lower[place, n], bounds.upper[place, n])
            flat = tuple(part.ravel() for part in truth), tuple(part.ravel() for part in size)
            # x times the gain is rounded relative to the largest of all entries, so the room is theirs.
            widest = tuple(np.full_like(part.ravel(), max(part.ravel())) for part in size)
            assert_equal_to_rounding(got, flat[0], widest, 1e-12)


@pytest.mark.parametrize("roundings", [0, 8, 10**6])
@pytest.mark.parametrize("kind", ["ordinary", "zero", "huge"])
@pytest.mark.parametrize("name", LAYERS)
def test_exact_weights_on_an_input_known_but_for_rounding(name: str, kind: str, roundings: int) -> None:
    """The radius of the input goes through the layer, whether as one number or by a product of its own."""
    module, x = known(name)
    layer = fill(module.layer, kind)
    radius = roundings * 2.0**-52
    shared = radius if roundings < 1000 else 0.0
    problem = Problem(module, arguments.settings("interval", None, "real", "float64", "cpu"), x)
    context = Context(RowEpsilons(torch.zeros(1, 2, dtype=torch.float64)), problem.settings.rounding, few_layers=True)
    given = tb.Interval(x - radius, x + radius, slack=shared, batch=0)
    with torch.no_grad():
        bounds = run(problem.network, context, problem.tensors, given).logits().settled(2.0**-53)
    for n in range(2):
        ends = exact((x - radius)[n]) - Fraction(shared), exact((x + radius)[n]) + Fraction(shared)
        low, high = hull(layer, ends, 0.0)
        size = magnitude(layer, 0.0, np.maximum(abs(ends[0]), abs(ends[1])))
        got = tb.Interval(bounds.lower[n], bounds.upper[n])
        widest = tuple(np.full_like(part.ravel(), max(part.ravel())) for part in size)
        # One radius for all outputs is that of the largest.
        room = 1e-13 + 8 * shared
        assert_equal_to_rounding(got, (low.ravel(), high.ravel()), widest, room)


@pytest.mark.parametrize("kind", ["absolute", "range"])
@pytest.mark.parametrize("epsilon", SWEEP)
@pytest.mark.parametrize("name", ["dense", "conv2d stride padding", "conv1d same dilation"])
def test_other_boxes(name: str, epsilon: float, kind: str) -> None:
    module, x = known(name)
    layer = fill(module.layer, "ordinary")
    bounds = tb.logit_bounds(module, x, [epsilon, 0.5], box=tb.Box(kind=kind, scale={"*.bias": 0.25}))
    weight, bias = box_ends(layer.weight, epsilon, kind), box_ends(layer.bias, epsilon, kind, 0.25)
    for n in range(2):
        point = exact(x[n])
        if name == "dense":
            truth = layers.dense_hull(weight, bias, (point, point))
        else:
            settings_ = (layer.stride, layer.padding, layer.dilation, layer.groups)
            truth = layers.conv_hull(weight, bias, (point, point), *settings_)
        flat = tuple(part.ravel() for part in truth)
        got = tb.Interval(bounds.lower[0, n], bounds.upper[0, n])
        assert_equal_to_rounding(got, flat, tuple(np.full_like(f, Fraction(100)) for f in flat), 1e-13)


NUMBERS = st.one_of(
    st.floats(-10, 10, width=32),
    st.sampled_from([0.0, 1e-45, -1e-40, 3e30, -1e-30, 1.0, -1.0]),
)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.data())
def test_dense_of_any_size_in_float32(data: Any) -> None:
    """Random shapes and values, bounds in either precision: the exact hull lies inside."""
    rows, columns = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    layer = dense_layer(rows, columns)
    draw = st.lists(NUMBERS, min_size=columns, max_size=columns)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([data.draw(draw) for _ in range(rows)]))
        layer.bias.copy_(torch.tensor([data.draw(NUMBERS) for _ in range(rows)]))
    x = torch.tensor([data.draw(draw)])
    epsilon = data.draw(st.sampled_from([*SWEEP, 1e-30, 0.3333, 1.0, 7.0]))
    for precision in ("float64", "float32"):
        bounds = tb.logit_bounds(layer, x, epsilon, precision=precision)
        truth = hull(layer, (exact(x[0]), exact(x[0])), epsilon)
        assert_contains(bounds.lower[0], bounds.upper[0], *truth)


def test_three_numbers_in_the_head() -> None:
    """w = (2, -1), b = 0.5, x = (1, 3): 2 - 3 + 0.5 = -0.5; half of |2| + |3| + |0.5| is 2.75 on either side."""
    layer = nn.Linear(2, 1).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, -1.0]]))
        layer.bias.fill_(0.5)
    bounds = tb.logit_bounds(layer, torch.tensor([[1.0, 3.0]]), [0.0, 0.5, 2.0])
    assert bounds.lower.flatten().tolist() == pytest.approx([-0.5, -3.25, -11.5])
    assert bounds.upper.flatten().tolist() == pytest.approx([-0.5, 2.25, 10.5])


def test_product_of_two_intervals_in_the_head() -> None:
    """Hidden 4 ± 2 (a weight of 4 off by half), then weight 10 off by half: 5 · 2 = 10 to 15 · 6 = 90."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.fill_(4.0)
        model[1].weight.fill_(10.0)
    bounds = tb.logit_bounds(model, torch.ones(1, 1), 0.5)
    assert (bounds.lower.item(), bounds.upper.item()) == (pytest.approx(10.0), pytest.approx(90.0))
