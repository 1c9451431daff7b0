"""Interpolation, transposed convolution and variance against rational arithmetic, nothing rounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import thetabox as tb
from tests.oracles.rational import Exact, box_ends, exact, sampled_vertices

pytestmark = pytest.mark.usefixtures("traced_once")


class Scaled(nn.Module):
    """A function of inputs times a parameter that is one."""

    def __init__(self, function: Callable[[Tensor], Tensor], shape: Sequence[int]) -> None:
        super().__init__()
        self.function, self.scale = function, nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x * self.scale).flatten(1)


def interpolated(x: Exact, size: int, scale: float | None, aligned: bool) -> Exact:
    """Along the last dimension, as ``torch.nn.functional.interpolate`` documents it."""
    count = x.shape[-1]
    if count == size:
        return x
    ratio = Fraction(count, size) if scale is None else 1 / Fraction(scale)
    if aligned:
        ratio = Fraction(count - 1, size - 1) if size > 1 else Fraction(0)
    columns = []
    for j in range(size):
        place = ratio * j if aligned else max(ratio * (j + Fraction(1, 2)) - Fraction(1, 2), Fraction(0))
        i = min(floor(place), count - 1)
        part = min(max(place - i, Fraction(0)), Fraction(1))
        columns.append((1 - part) * x[..., i] + part * x[..., min(i + 1, count - 1)])
    return np.stack(columns, -1)


def held(bounds: tb.Interval, truth: Exact, width: float) -> None:
    """Every exact number inside, no bound wider than ``width``."""
    low, high = exact(bounds.lower), exact(bounds.upper)
    assert ((low <= truth) & (truth <= high)).all()
    assert float((high - low).max()) <= width


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    counts=st.tuples(st.integers(1, 9), st.integers(1, 6)),
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 7)),
    scales=st.one_of(st.none(), st.tuples(st.floats(0.4, 3.0), st.sampled_from([2.0, 1.5, 0.7, 3.0]))),
    aligned=st.booleans(),
    seed=st.integers(0, 9),
)
def test_interpolation(
    counts: tuple[int, int],
    sizes: tuple[int, int],
    scales: tuple[float, float] | None,
    aligned: bool,
    seed: int,
) -> None:
    if scales is not None:
        sizes = (floor(counts[0] * scales[0]), floor(counts[1] * scales[1]))
        if 0 in sizes:
            return
    x = torch.randn(1, 1, *counts, generator=torch.Generator().manual_seed(seed)) * 10
    way = {"size": sizes} if scales is None else {"scale_factor": scales}
    model = Scaled(lambda h: F.interpolate(h, mode="bilinear", align_corners=aligned, **way), (1, *counts))
    first, second = scales or (None, None)
    truth = interpolated(exact(x), sizes[1], second, aligned)
    truth = interpolated(truth.swapaxes(-1, -2), sizes[0], first, aligned).swapaxes(-1, -2)
    for domain in ("interval", "linear"):
        held(tb.logit_bounds(model, x, 0.0, domain=domain), truth.reshape(1, -1), 1e-10)
        rounded = tb.logit_bounds(model, x, 0.0, domain=domain, arithmetic="float32")
        held(rounded, truth.reshape(1, -1), 2e-2)
        held(rounded, exact(model(x)), 2e-2)


@pytest.mark.parametrize("aligned", [True, False])
def test_far_places_are_rounded_more(aligned: bool) -> None:
    """Where values alternate, an error of the place counts twice: much more than that of the sum."""
    x = torch.tensor([10.0, -10.0]).repeat(300)[None, None] * torch.linspace(0.9, 1.0, 600)
    model = Scaled(lambda h: F.interpolate(h, size=1001, mode="linear", align_corners=aligned), (1, 600))
    truth = interpolated(exact(x), 1001, None, aligned)[0]
    held(tb.logit_bounds(model, x, 0.0, domain="interval"), truth, 1e-9)
    rounded = tb.logit_bounds(model, x, 0.0, domain="interval", arithmetic="float32")
    held(rounded, exact(model(x)), 0.1)
    held(rounded, truth, 0.1)


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("name", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("scale", [None, (1.3, 2.0), (3.3, 1.05), (2.05, 0.45)])
def test_nearest_neighbours_are_the_same_however_they_lie(name: str, scale: tuple[float, float] | None) -> None:
    """Which values torch picks hangs on a scale in float32, whatever the numbers; or the operator is refused."""
    refused = 0
    for count in ((3, 3), (10, 7), (31, 49), (49, 20)):
        way = {"size": (21, 49)} if scale is None else {"scale_factor": scale}
        x = torch.arange(2.0 * count[0] * count[1]).view(1, 2, *count)
        try:
            model = Scaled(lambda h, w=way: F.interpolate(h, mode=name, **w), (2, *count))
            bounds = tb.logit_bounds(model, x, 0.0, domain="interval")
        except tb.InputError as error:
            refused += "give the size" in str(error)
            continue
        for dtype in (torch.float64, torch.float32):
            for lies in (torch.contiguous_format, torch.channels_last):
                answer = F.interpolate(x.to(dtype).contiguous(memory_format=lies), mode=name, **way).flatten(1)
                assert ((bounds.lower <= answer) & (answer <= bounds.upper)).all()
    assert refused < 4


def turned(x: Exact, weight: Exact, bias: Exact, stride: int, padding: int, more: int, dilation: int) -> Exact:
    """A transposed convolution ``[N, in, L]`` with ``[in, out, K]``."""
    places = (x.shape[2] - 1) * stride - 2 * padding + dilation * (weight.shape[2] - 1) + more + 1
    out = np.full((x.shape[0], weight.shape[1], places), Fraction(0), dtype=object) + bias[None, :, None]
    for p in range(x.shape[2]):
        for k in range(weight.shape[2]):
            q = p * stride - padding + k * dilation
            if 0 <= q < places:
                out[:, :, q] += x[:, :, p] @ weight[:, :, k]
    return out


@pytest.mark.parametrize(
    ("stride", "padding", "more", "dilation"), [(1, 0, 0, 1), (2, 1, 1, 1), (3, 2, 1, 2), (2, 0, 1, 2)]
)
@pytest.mark.parametrize("domain", ["interval", "linear"])
def test_transposed_convolution(domain: str, stride: int, padding: int, more: int, dilation: int) -> None:
    torch.manual_seed(1)
    conv = nn.ConvTranspose1d(2, 2, 3, stride, padding, more, dilation=dilation)
    model, x = nn.Sequential(conv, nn.Flatten()), torch.randn(2, 2, 4)
    epsilon = 0.1
    bounds = tb.logit_bounds(model, x, epsilon, domain=domain)
    low, high = exact(bounds.lower), exact(bounds.upper)
    ends = [box_ends(p, epsilon) for p in (conv.weight, conv.bias)]
    for weight, bias in zip(*(sampled_vertices(*e, 12) for e in ends), strict=True):
        truth = turned(exact(x), weight, bias, stride, padding, more, dilation).reshape(2, -1)
        assert ((low <= truth) & (truth <= high)).all()
    # The hull of each output by itself is known: its own products, each at its worst.
    size = turned(abs(exact(x)), abs(exact(conv.weight)), abs(exact(conv.bias)), stride, padding, more, dilation)
    middle = turned(exact(x), exact(conv.weight), exact(conv.bias), stride, padding, more, dilation)
    worst = (middle + Fraction(epsilon) * size).reshape(2, -1)
    assert (high >= worst).all()
    assert float((high - worst).max()) < 1e-12


@pytest.mark.parametrize("unbiased", [True, False])
def test_variance(unbiased: bool) -> None:
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(4)) + 100.0
    model = Scaled(lambda h: h.view(-1, 1, 7).var(-1, unbiased=unbiased), (7,))
    values = exact(x)
    mean = values.sum(1) / 7
    truth = (((values - mean[:, None]) ** 2).sum(1) / (6 if unbiased else 7))[:, None]
    held(tb.logit_bounds(model, x, 0.0), truth, 1e-8)
    rounded = tb.logit_bounds(model, x, 0.0, arithmetic="float32")
    assert (rounded.lower <= model(x)).all()
    assert (model(x) <= rounded.upper).all()


CONVOLUTIONS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    rank=st.integers(1, 3),
    turn=st.booleans(),
    groups=st.integers(1, 2),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    seed=st.integers(0, 50),
)
def test_grid_in_float32(
    rank: int, turn: bool, groups: int, kernel: int, stride: int, padding: int, dilation: int, seed: int
) -> None:
    """Of values that carry noise: corners of the box, evaluated in float32, lie inside bounds in float32 arithmetic."""
    torch.manual_seed(seed)
    kinds = CONVOLUTIONS if turn else {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    conv = kinds[rank](2, 2 * groups, kernel, stride, padding, groups=groups, dilation=dilation)
    shape = {1: (5,), 2: (5, 4), 3: (5, 4, 3)}[rank]
    reach = dilation * (kernel - 1) + 1
    last = [(n - 1) * stride - 2 * padding + reach if turn else (n + 2 * padding - reach) // stride + 1 for n in shape]
    if min(last) < 1:
        return
    model = nn.Sequential(Scaled(nn.Identity(), (2, *shape)), nn.Unflatten(1, (2, *shape)), conv, nn.Flatten())
    with torch.no_grad():
        model[0].scale.normal_()
    x = torch.randn(2, 2, *shape)
    epsilon = 0.05
    for domain in ("interval", "linear"):
        bounds = tb.logit_bounds(model, x, epsilon, domain=domain, arithmetic="float32")
        for _ in range(5):
            point = {
                n: p.detach() * (1 + 0.999 * epsilon * (torch.randint(0, 2, p.shape) * 2 - 1))
                for n, p in model.named_parameters()
            }
            with torch.no_grad():
                answer = torch.func.functional_call(model, point, (x,))
            assert (bounds.lower <= answer).all()
            assert (answer <= bounds.upper).all()
