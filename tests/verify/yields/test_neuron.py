"""Lines of one neuron against its entropic value in ball arithmetic, at random and at extreme arguments."""

from __future__ import annotations

import math

import pytest
import torch
from flint import arb, ctx
from scipy.integrate import quad
from torch import Tensor

from thetabox.verify.yields.neuron import NoisyNeurons, mean_relu, relax

COUNT = 2500


def ndtr(x: arb) -> arb:
    return (-x / arb(2).sqrt()).erfc() / 2


def value(a: float, v: float, rate: float, mean: float, spread: float, reach: float = math.inf) -> arb:
    """g(μ, s), where ``z ≤ reach`` only."""
    a, v, rate, m, s = (arb(t) for t in (a, v, rate, mean, spread))
    if spread == 0.0:
        h = m if mean > 0 else arb(0)
        return a * h - rate / 2 * v * h * h
    u, b, w = m / s, rate * a * s, rate * rate * v * s * s
    p = 1 - w
    t = (u - b) / p.sqrt()
    share = ndtr(t) if math.isinf(reach) else ndtr(t) - ndtr(t - arb(reach) / s * p.sqrt())
    moment = ndtr(-u) + ((b * b - 2 * u * b + w * u * u) / (2 * p)).exp() / p.sqrt() * share
    return -moment.log() / rate


@pytest.fixture(autouse=True)
def _digits() -> None:
    ctx.prec = 300


Drawn = tuple[Tensor, Tensor | None, Tensor, NoisyNeurons, Tensor]


def draw(seed: int, *, variance: bool, reach: bool, extreme: bool) -> Drawn:
    """Coefficients, variances, λ, neurons, centres: sizes over many orders, some of them 0."""
    stream = torch.Generator().manual_seed(seed)

    def rand() -> Tensor:
        return torch.rand(COUNT, 1, generator=stream, dtype=torch.float64)

    def size(low: float, high: float) -> Tensor:
        return 10.0 ** (low + (high - low) * rand())

    sign = torch.randint(0, 2, (COUNT, 1), generator=stream).double() * 2.0 - 1.0
    far = 12.0 if extreme else 2.0
    a, rate = sign * size(-far, far), size(-far / 2, far / 2)
    middle = torch.randn(COUNT, 1, generator=stream, dtype=torch.float64) * size(-far, far)
    width = size(-5.0, 1.0) * middle.abs() * (rand() > 0.2)
    lower, upper = middle - width * rand(), middle + width * rand()
    least = size(-far, far / 4) * (rand() > 0.1)
    most = least * (1.0 + rand() * (rand() > 0.3))
    v = size(-3.0, -0.05) / (rate * most.clamp(min=1e-9)).square() if variance else None
    end = upper + most * 4.0 if reach else None
    centre = lower + (upper - lower) * rand()
    neurons = NoisyNeurons(lower, upper, least, most, end)
    return a[:, None], None if v is None else v[:, None], rate, neurons, centre


@pytest.mark.slow
@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize(("variance", "reach"), [(False, False), (True, False), (True, True)])
def test_no_line_is_above_the_entropic_value_anywhere_in_its_box(variance: bool, reach: bool, extreme: bool) -> None:
    a, v, rate, neurons, centre = draw(1, variance=variance, reach=reach, extreme=extreme)
    slope, constant = relax(a, v, rate[:, None], centre[:, None], neurons)
    stream = torch.Generator().manual_seed(2)
    proven = constant.isfinite().flatten()
    assert proven.double().mean() > (0.4 if extreme else 0.9)
    for n in proven.nonzero().flatten().tolist():
        ends = [float(t[n]) for t in neurons[:4]]
        inside = torch.rand(2, generator=stream).tolist()
        u = float(neurons.event_upper[n]) if neurons.event_upper is not None else math.inf
        for mean in (ends[0], ends[1], min(ends[0] + inside[0] * (ends[1] - ends[0]), ends[1])):
            for spread in (ends[2], ends[3], min(ends[2] + inside[1] * (ends[3] - ends[2]), ends[3])):
                line = arb(float(slope[n])) * arb(mean) + arb(float(constant[n]))
                true = value(float(a[n]), 0.0 if v is None else float(v[n]), float(rate[n]), mean, spread, u)
                assert not line > true, (n, float(a[n]), float(rate[n]), mean, spread, line, true)


def test_the_closed_form_is_the_integral() -> None:
    for a, v, rate, m, s in ((-0.7, 0.3, 1.2, 0.4, 0.8), (0.9, 0.2, 0.7, -0.3, 1.1), (2.0, 0.0, 3.0, 1.0, 0.5)):
        inner = quad(
            lambda n, a=a, v=v, rate=rate, m=m, s=s: (
                math.exp(-rate * (a * max(m + s * n, 0.0) - rate / 2 * v * max(m + s * n, 0.0) ** 2) - n * n / 2)
                / math.sqrt(2 * math.pi)
            ),
            -12,
            12,
            points=[-m / s],
            limit=200,
        )[0]
        assert float(value(a, v, rate, m, s)) == pytest.approx(-math.log(inner) / rate, abs=1e-9)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_lines_of_known_neurons_are_the_value(sign: float) -> None:
    stream = torch.Generator().manual_seed(3)
    mean = torch.randn(200, 1, generator=stream, dtype=torch.float64)
    spread = torch.rand(200, 1, generator=stream, dtype=torch.float64) + 0.1
    a = sign * torch.rand(200, 1, 1, generator=stream, dtype=torch.float64)
    rate = torch.ones(200, 1, 1, dtype=torch.float64)
    slope, constant = relax(a, None, rate, mean[:, None], NoisyNeurons(mean, mean, spread, spread))
    for n in range(200):
        true = float(value(float(a[n]), 0.0, 1.0, float(mean[n]), float(spread[n])))
        assert float(slope[n] * mean[n] + constant[n]) == pytest.approx(true, abs=1e-9)


def test_a_wide_box_costs_a_chord_and_a_wide_spread_a_square() -> None:
    # At a spread of 0 and λ = 1: the chord of -relu between -1 and 3, and relu's tangent less α² s² / 2.
    rate, centre = torch.ones(1, 1, 1).double(), torch.ones(1, 1, 1).double()
    ends = [torch.full((1, 1), t, dtype=torch.float64) for t in (-1.0, 3.0, 0.0)]
    slope, constant = relax(-torch.ones(1, 1, 1).double(), None, rate, centre, NoisyNeurons(*ends, ends[2]))
    assert (float(slope), float(constant)) == pytest.approx((-0.75, -0.75), abs=1e-6)
    half = torch.full((1, 1), 0.5, dtype=torch.float64)
    slope, constant = relax(torch.ones(1, 1, 1).double(), None, rate, centre, NoisyNeurons(*ends, half))
    assert (float(slope), float(constant)) == pytest.approx((1.0, -0.125), abs=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200])
@pytest.mark.parametrize("place", ["a", "v", "rate", "lower", "most"])
def test_what_is_not_finite_proves_nothing(place: str, bad: float) -> None:
    given = {"a": -1.0, "v": 0.1, "rate": 1.0, "lower": -1.0, "upper": 1.0, "least": 0.5, "most": 0.6} | {place: bad}
    t = {k: torch.full((1, 1), n, dtype=torch.float64) for k, n in given.items()}
    for sign in (-1.0, 1.0):
        neurons = NoisyNeurons(t["lower"], t["upper"], t["least"], t["most"])
        slope, constant = relax(
            sign * t["a"][None], t["v"][None], t["rate"][None], torch.zeros(1, 1, 1).double(), neurons
        )
        found = float(constant)
        if place == "lower" and bad == 1e200:
            assert found < -1e90
        else:
            assert (found, float(slope)) == (-math.inf, 0.0)


def test_means_of_a_relu_lie_between_their_bounds() -> None:
    stream = torch.Generator().manual_seed(4)
    size = 10.0 ** (torch.rand(2, 3000, generator=stream, dtype=torch.float64) * 16.0 - 8.0)
    mean, spread = torch.randn(3000, generator=stream, dtype=torch.float64) * size[0], size[1]
    spread[:100] = 0.0
    mean[:50] = 0.0
    lower, upper = mean_relu(mean, spread)
    for m, s, low, high in zip(*(t.tolist() for t in (mean, spread, lower, upper)), strict=True):
        if s:
            u = arb(m) / arb(s)
            true = arb(m) * ndtr(u) + arb(s) * (-u * u / 2).exp() / (2 * arb.pi()).sqrt()
        else:
            true = arb(max(m, 0.0))
        assert not arb(low) > true, (m, s)
        assert not true > arb(high), (m, s)
        assert high - low <= 1e-11 * (abs(m) + s) + 1e-90
