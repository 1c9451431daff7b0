"""Softmax and norms over moments against Arb balls, against torch's own kernels in float32, and at the extremes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from flint import arb, ctx
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.interpreter.context import Context, RowEpsilons
from thetabox.verify.interpreter.walk import apply
from thetabox.verify.network.graph import Layout, Operation

REAL, FLOAT32 = Rounding(torch.float64), Rounding(torch.float64, "float32")
NARROW = Rounding(torch.float32, "float32")
ROUNDINGS = {"real": REAL, "real in float32": Rounding(torch.float32), "float32": FLOAT32, "narrow": NARROW}
HUGE = 1e30


def bounds(
    name: str,
    low: Tensor,
    high: Tensor,
    args: tuple[Any, ...],
    rounding: Rounding = REAL,
    others: tuple[Interval, ...] = (),
    slack: float = 0.0,
    **kwargs: Any,
) -> Interval:
    """Of one operator on rows of values between ``low`` and ``high``."""
    packet, overload = name.split(".")
    target = getattr(getattr(torch.ops.aten, packet), overload)
    layout = Layout((None, *low.shape[1:]), 0)
    operation = Operation(1, name, f"aten.{name}", target, (), {}, layout, (0,), "here", torch.float32)
    context = Context(RowEpsilons(torch.zeros(1, len(low), dtype=torch.float64)), rounding, operation)
    lower = low.to(rounding.dtype)
    x = Interval(lower, lower if high is low else high.to(rounding.dtype), slack, batch=0)
    out = apply(context, operation, (x, *others, *args), kwargs)
    return (out[0] if isinstance(out, tuple) else out).settled(rounding.roundoff)


def drawn(seed: int, *shape: int, offset: float = 0.0, size: float = 1.0, width: float = 0.1) -> tuple[Tensor, Tensor]:
    """Ends of intervals, all of them numbers of float32."""
    random = torch.Generator().manual_seed(seed)
    centre = torch.randn(shape, generator=random, dtype=torch.float64) * size + offset
    radius = torch.rand(shape, generator=random, dtype=torch.float64) * width * size
    low, high = (centre - radius).float().double(), (centre + radius).float().double()
    return (low, high) if width else (low, low)


def exact_shares(own: list[float], others: list[float]) -> list[arb]:
    """``1 / (1 + sum_j exp(o_j - w_i))`` without the entry itself."""
    balls = []
    for i, w in enumerate(own):
        rest = [arb(o) - arb(w) for j, o in enumerate(others) if j != i and o != -math.inf]
        balls.append(1 / (1 + sum((r.exp() for r in rest), arb(0))))
    return balls


EXTREMES = [
    [0.0, 0.0, 0.0],
    [HUGE, HUGE, -HUGE],
    [HUGE, -HUGE, 0.0, 1.0],
    [1e-30, -1e-30, 0.0],
    [700.0, -700.0, 3.0],
    [5.0],
    [-1e9, 2.0, 2.5],
    [0.0, -745.0, -2000.0],
]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("numbers", [*EXTREMES, "drawn", "wide"], ids=str)
def test_softmax_is_the_exact_range_of_each_entry(numbers: Any, rounding: str) -> None:
    ctx.prec = 300
    low, high = drawn(3, 2, 7, width={"drawn": 0.1}.get(str(numbers), 3.0))
    if isinstance(numbers, list):
        low = torch.tensor([numbers], dtype=torch.float64).float().double()
        high = low + torch.tensor([0.5, 0.0, 0.25, 0.0], dtype=torch.float64)[: low.shape[1]]
        high = high.float().double()
    share = bounds("softmax.int", low, high, (-1,), ROUNDINGS[rounding])
    logs = bounds("log_softmax.int", low, high, (-1,), ROUNDINGS[rounding])
    # How far from the exact ends: rounding of the bounds, and of a network that computes in float32.
    room = 1e-12 if ROUNDINGS[rounding] is REAL else 3e-4
    for n in range(len(low)):
        for own, others, end, side in ((low, high, 0, 1), (high, low, 1, -1)):
            for i, ball in enumerate(exact_shares(own[n].tolist(), others[n].tolist())):
                bound = arb(float((share.lower, share.upper)[end][n, i]))
                assert (ball - bound) * side > -arb("1e-400"), (n, i, float(ball), bound)
                assert (ball - bound) * side < room
                if float(ball) > 1e-290:
                    logarithm = arb(float((logs.lower, logs.upper)[end][n, i]))
                    assert (ball.log() - logarithm) * side > -arb("1e-300")
                    assert (ball.log() - logarithm) * side < room * (1 + abs(float(ball.log())))


def test_masked_entries_take_no_part() -> None:
    low = torch.tensor([[1.0, -math.inf, 2.0], [-math.inf] * 3, [-math.inf, -math.inf, 0.5]], dtype=torch.float64)
    for rounding in ROUNDINGS.values():
        share = bounds("softmax.int", low, low, (-1,), rounding)
        assert share.lower[1].isnan().all()
        assert (share.lower[:, 1][[0, 2]].abs() < 1e-30).all()
        assert (share.upper[:, 1][[0, 2]].abs() < 1e-30).all()
        alone = bounds("softmax.int", low[:1, ::2], low[:1, ::2], (-1,), rounding)
        torch.testing.assert_close(share.lower[0, ::2], alone.lower[0], rtol=1e-5, atol=0)
        assert share.lower[2, 2] > 1 - 1e-5
    open_mask = Interval(torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double(), batch=0)
    x = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    filled = bounds("masked_fill.Scalar", x, x, (-math.inf,), others=(open_mask,))
    share = bounds("softmax.int", filled.lower, filled.upper, (-1,))
    assert share.lower[0, 1] == 0.0
    assert share.upper[0, 0] >= 1.0
    assert abs(float(share.lower[0, 0]) - 1 / (1 + math.exp(2.0))) < 1e-12
    assert bounds("softmax.int", torch.tensor([[math.inf, 0.0]]).double(), x, (-1,)).lower.isnan().all()


def exact_norm(x: list[float], eps: float, *, centred: bool) -> list[arb]:
    balls = [arb(v) for v in x]
    mean = sum(balls, arb(0)) / len(balls) if centred else arb(0)
    variance = sum(((b - mean) ** 2 for b in balls), arb(0)) / len(balls) + arb(eps)
    return [(b - mean) / variance.sqrt() for b in balls]


NORMS: dict[str, tuple[str, bool, Callable[[int, float], tuple[Any, ...]]]] = {
    "layer": ("layer_norm.default", True, lambda n, eps: ([n], None, None, eps)),
    "root mean square": ("rms_norm.default", False, lambda n, eps: ([n], None, eps)),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [1.0, 1e30, 1e-30, 1e3])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_norms_hold_every_vertex_exactly(norm: str, size: float, offset: float) -> None:
    ctx.prec = 300
    name, centred, arguments = NORMS[norm]
    eps = 1e-5
    for width in (0.0, 1e-3, 0.3, 3.0):
        low, high = drawn(5, 1, 5, size=size, offset=offset * size, width=width)
        found = bounds(name, low, high, arguments(5, eps))
        tightest = [math.inf, -math.inf]
        pairs = torch.stack([low[0], high[0]], 1).tolist()
        numbers = [sorted({a, b, *([0.0] if a < 0 < b else [])}) for a, b in pairs]
        for x in itertools.product(*numbers):
            for i, ball in enumerate(exact_norm(list(x), eps, centred=centred)):
                assert arb(float(found.lower[0, i])) <= ball
                assert ball <= arb(float(found.upper[0, i]))
                if i == 0:
                    tightest = [min(tightest[0], float(ball)), max(tightest[1], float(ball))]
        span = float(found.upper[0, 0] - found.lower[0, 0])
        if width == 0.0:
            assert span < 1e-12 * (1.0 + abs(tightest[0]))
        elif not centred:  # own and other operands are independent, so vertices reach both ends
            assert span < (tightest[1] - tightest[0]) * (1.0 + 1e-9) + 1e-12
        elif width <= 1e-3:
            assert span < 1.7 * (tightest[1] - tightest[0])
        if centred:
            assert float(found.upper.max()) <= math.sqrt(4.0) + 1e-12


def test_norm_of_equal_entries_and_of_one() -> None:
    same = torch.full((1, 6), 3.7, dtype=torch.float64)
    for rounding in ROUNDINGS.values():
        found = bounds("layer_norm.default", same, same, ([6], None, None, 1e-5), rounding)
        assert (found.lower <= 0).all()
        assert (found.upper >= 0).all()
        assert found.upper.max() < (1e-10 if rounding is REAL else 0.1)
        one = bounds("layer_norm.default", same[:, :1], same[:, :1] + 1, ([1], None, None, 1e-5), rounding)
        # A network in float32 may multiply the number and its mean apart, as torch's group norm does.
        assert float(one.lower.abs().max() + one.upper.abs().max()) < (1e-30 if rounding is REAL else 0.1)
        # Without anything added, nothing is known where the variance may be zero.
        assert bounds("layer_norm.default", same, same, ([6], None, None, 0.0), rounding).lower.isnan().all()
    wide = bounds("layer_norm.default", same - 1, same + 1, ([6], None, None, 1e-5))
    assert float(wide.upper.max()) <= math.sqrt(5.0) + 1e-12


def test_norm_over_a_wide_box_uses_the_least_variance() -> None:
    """Two far groups of wide intervals: the variance of all cannot vanish."""
    low = torch.tensor([[-11.0, -11.0, 9.0, 9.0]], dtype=torch.float64)
    found = bounds("layer_norm.default", low, low + 2, ([4], None, None, 0.0))
    assert found.lower.isfinite().all()
    assert float(found.upper[0, 2]) < 1.4  # 11 / 9 would be 1.22; sqrt(3) says nothing


def kernels(norm: str, x: Tensor, eps: float) -> list[Tensor]:
    """torch's own answers in float32, and those of other ways to the variance."""
    n = x.shape[-1]
    if norm == "rms":
        return [F.rms_norm(x, [n], eps=eps)]
    mean, square = x.mean(-1, keepdim=True), (x * x).mean(-1, keepdim=True)
    steep = ((square - mean * mean).clamp(min=0) + eps).rsqrt()
    ways = [F.layer_norm(x, [n], eps=eps), (x - mean) * steep, x * steep - mean * steep]
    backwards = x.flip(-1).cumsum(-1)[..., -1:] / n
    ways.append((x - backwards) * (((x - backwards) ** 2).mean(-1, keepdim=True) + eps).rsqrt())
    image = x[:, :, None, None]
    for form in (image, image.contiguous(memory_format=torch.channels_last)):
        ways.append(F.group_norm(form, 1, eps=eps)[:, :, 0, 0])
    return ways


@pytest.mark.parametrize("seed", range(6))
def test_every_float32_evaluation_lies_inside(seed: int) -> None:
    for trial in range(12):
        n, eps = (3, 8, 17, 64)[trial % 4], (1e-5, 1e-12, 0.1)[trial % 3]
        size, offset = 10.0 ** (trial - 6), (0.0, 10.0, 3e4)[(trial + seed) % 3]
        low, high = drawn(seed * 100 + trial, 3, n, size=size, offset=offset * size, width=(0.0, 1e-5, 0.5)[seed % 3])
        for rounding in (FLOAT32, NARROW):
            plain = {
                "softmax": bounds("softmax.int", low, high, (-1,), rounding),
                "log_softmax": bounds("log_softmax.int", low, high, (-1,), rounding),
                "logsumexp": bounds("logsumexp.default", low, high, ([-1],), rounding),
                "norm": bounds("layer_norm.default", low, high, ([n], None, None, eps), rounding),
                "rms": bounds("rms_norm.default", low, high, ([n], None, eps), rounding),
            }
            for part in (0.0, 1.0, 0.5, torch.rand(low.shape).round().double()):
                x = (low + (high - low) * part).float().clamp(min=low.float(), max=high.float())
                answers = {
                    "softmax": [x.softmax(-1), x.T.contiguous().softmax(0).T],
                    "log_softmax": [x.log_softmax(-1), x.T.contiguous().log_softmax(0).T],
                    "logsumexp": [x.logsumexp(-1)],
                    "norm": kernels("norm", x, eps),
                    "rms": kernels("rms", x, eps),
                }
                for name, given in answers.items():
                    found = plain[name]
                    known = found.lower.isfinite() & found.upper.isfinite()
                    for answer in given:
                        inside = (found.lower <= answer.double()) & (answer.double() <= found.upper)
                        assert (inside | ~known).all(), (name, n, size, offset)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_attention_holds_what_torch_answers(seed: int, causal: bool) -> None:
    """The fused kernel, and the product written out, in float32 and in float64."""
    size = (0.3, 3.0, 30.0)[seed]
    parts = [drawn(seed * 10 + k, 2, 2, 70, 4, size=size, width=(0.0, 1e-3, 0.1)[seed]) for k in range(3)]
    for rounding in ROUNDINGS.values():
        others = tuple(Interval(low.to(rounding.dtype), high.to(rounding.dtype), batch=0) for low, high in parts[1:])
        found = bounds("scaled_dot_product_attention.default", *parts[0], (None, 0.0, causal), rounding, others=others)
        assert found.lower.isfinite().all()
        dtype = torch.float32 if rounding.network else torch.float64
        for part in (0.0, 0.5, 1.0):
            q, k, v = ((low + (high - low) * part).to(dtype) for low, high in parts)
            answers = [F.scaled_dot_product_attention(q, k, v, is_causal=causal)]
            scores = q @ k.transpose(-1, -2) / 2
            if causal:
                scores = scores.masked_fill(torch.ones(70, 70).triu(1).bool(), -math.inf)
            answers.append(scores.softmax(-1) @ v)
            for answer in answers:
                room = 0.0 if rounding.network else 1e-13 * size
                assert (found.lower.double() - room <= answer.double()).all()
                assert (answer.double() <= found.upper.double() + room).all()


def test_attention_moves_by_what_values_differ() -> None:
    """Values that share a large number: whatever the weights, so does their mean."""
    (low, high), (key_low, key_high), _ = (drawn(k, 1, 5, 4, width=0.5) for k in range(3))
    value = torch.full((1, 5, 2), 1e3, dtype=torch.float64)
    key = Interval(key_low, key_high, batch=0)
    found = bounds("scaled_dot_product_attention.default", low, high, (), others=(key, Interval.point(value)))
    assert float((found.upper - 1e3).abs().max()) < 1e-8
    assert float((found.lower - 1e3).abs().max()) < 1e-8
