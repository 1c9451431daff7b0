r"""Functions of one value backwards: two parallel lines around the curve.

On :math:`[l, u]` the slope :math:`s` is that of the chord. With :math:`g(x) = f(x) - sx` at points no further apart
than :math:`h`, kinks among them, and :math:`|f''| \le M` between,

.. math:: sx + \min_k g(x_k) - M h^2 / 8 \;\le\; f(x) \;\le\; sx + \max_k g(x_k) + M h^2 / 8

(the error of linear interpolation). For an S-shaped function they are close to the chord and the tangent of DeepPoly
and CROWN (Singh et al., POPL 2019; Zhang et al., NeurIPS 2018), and as far apart as the square of the interval where it
is narrow. Where they say less than the interval of the result, or nothing, that stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.table import TABLE
from thetabox.verify.interpreter.rules.transcendental import between_poles
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop, Walk, backward, dot
from thetabox.verify.network.graph import Operation, Ref

FEW = 16
# Parts that an interval is cut into.
PARTS = 16
# Below this width, relative to the values, the slope is that of a wider chord.
NARROW = 1e-6


class Curve(NamedTuple):
    """A function with ``|f''| <= bend`` between its ``kinks``.

    Attributes:
        function: need not be monotone.
        bend: a number, or a function of both ends of the interval; rounded up (1/3 is 0.33334).
        kinks: where the derivative jumps.
        jump: how far the function itself may jump somewhere.
    """

    function: Callable[[Tensor], Tensor]
    bend: float | Callable[[Tensor, Tensor], Tensor]
    kinks: tuple[float, ...] = ()
    jump: float = 0.0


def _size(low: Tensor, high: Tensor) -> Tensor:
    return torch.maximum(low.abs(), high.abs())


def _arc(size: Tensor) -> Tensor:
    """``x (1 - x²)^-3/2``, without a number beyond 1."""
    return size * ((1.0 - size) * (1.0 + size)) ** -1.5


def _tangent(low: Tensor, high: Tensor) -> Tensor:
    """``2 tan(x) (1 + tan²(x))``, which rises from pole to pole."""
    size = _size(torch.tan(low), torch.tan(high))
    return torch.where(between_poles(low, high), 2.0 * size * (1.0 + size * size), torch.inf)


SIMPLE: dict[str, Curve] = {
    "aten.tanh.default": Curve(torch.tanh, 0.76981),
    "aten.sigmoid.default": Curve(torch.sigmoid, 0.096226),
    "aten.exp.default": Curve(torch.exp, lambda low, high: torch.exp(high)),
    "aten.silu.default": Curve(F.silu, 0.50001),
    "aten.mish.default": Curve(F.mish, 0.65),
    "aten.hardswish.default": Curve(F.hardswish, 0.33334, (-3.0, 3.0)),
    "aten.erf.default": Curve(torch.erf, 0.96795),
    "aten.atan.default": Curve(torch.atan, 0.649520),
    "aten.log_sigmoid.default": Curve(F.logsigmoid, 0.25001),
    "aten.sin.default": Curve(torch.sin, 1.0),
    "aten.cos.default": Curve(torch.cos, 1.0),
    "aten.selu.default": Curve(F.selu, 1.75811, (0.0,)),
    "aten.hardsigmoid.default": Curve(F.hardsigmoid, 0.0, (-3.0, 3.0)),
    "aten.relu6.default": Curve(lambda t: t.clamp(0.0, 6.0), 0.0, (0.0, 6.0)),
    "aten.abs.default": Curve(torch.abs, 0.0, (0.0,)),
    "aten.log1p.default": Curve(torch.log1p, lambda low, high: (1.0 + low.clamp(min=0.0)) ** -2),
    "aten.log.default": Curve(torch.log, lambda low, high: low**-2),
    "aten.log2.default": Curve(torch.log2, lambda low, high: 1.4426951 * low**-2),
    "aten.log10.default": Curve(torch.log10, lambda low, high: 0.4342945 * low**-2),
    "aten.exp2.default": Curve(torch.exp2, lambda low, high: 0.4804531 * torch.exp2(high)),
    "aten.expm1.default": Curve(torch.expm1, lambda low, high: torch.exp(high)),
    "aten.sinh.default": Curve(torch.sinh, lambda low, high: torch.sinh(_size(low, high))),
    "aten.cosh.default": Curve(torch.cosh, lambda low, high: torch.cosh(_size(low, high))),
    "aten.erfc.default": Curve(torch.erfc, 0.96795),
    "aten.asin.default": Curve(torch.asin, lambda low, high: _arc(_size(low, high))),
    "aten.acos.default": Curve(torch.acos, lambda low, high: _arc(_size(low, high))),
    "aten.tan.default": Curve(torch.tan, _tangent),
    "aten.sqrt.default": Curve(torch.sqrt, lambda low, high: low**-1.5 / 4.0),
}


def curve_of(operation: Operation) -> Curve:
    """The function of an operation.

    Raises:
        Stop: of other arguments than there are bounds of the second derivative for.
    """
    name, rest, named = operation.operator, operation.args[1:], dict(operation.kwargs)
    if any(isinstance(v, Ref) for v in (*rest, *named.values())):
        raise Stop
    if name in SIMPLE and not rest and not named:
        return SIMPLE[name]
    if name == "aten.gelu.default":
        form = named.get("approximate", "none")
        return Curve(lambda t: F.gelu(t, approximate=form), 0.82)
    if name == "aten.softplus.default":
        beta, threshold = _numbers(rest, 1.0, 20.0)
        if not (1e-3 <= beta <= 1e3 and 20.0 <= threshold <= 1e4):
            raise Stop
        off = math.log1p(math.exp(1.0 - threshold)) / beta
        return Curve(lambda t: F.softplus(t, beta, threshold), beta * 0.25001, (), off)
    if name == "aten.elu.default":
        alpha, scale, inner = _numbers(rest, 1.0, 1.0, 1.0)
        if not 1e-3 <= inner <= 1e3 or not max(abs(alpha), abs(scale)) <= 1e3:
            raise Stop
        function = partial(torch.ops.aten.elu.default, alpha=alpha, scale=scale, input_scale=inner)
        return Curve(function, abs(alpha * scale) * inner * inner * 1.0001, (0.0,))
    if name == "aten.celu.default":
        (alpha,) = _numbers(rest, 1.0)
        if not 1e-3 <= alpha <= 1e3:
            raise Stop
        return Curve(partial(F.celu, alpha=alpha), 1.0001 / alpha, (0.0,))
    if name in ("aten.hardtanh.default", "aten.clamp.default", "aten.clamp_min.default", "aten.clamp_max.default"):
        return _clamped(operation, rest, named)
    if name == "aten.pow.Tensor_Scalar" and rest == (2,):
        return Curve(torch.square, 2.0)
    if name == "aten.pow.Tensor_Scalar" and len(rest) == 1 and not float(rest[0]).is_integer():
        # Of nonnegative numbers, or the interval rule refuses.
        power = float(rest[0])
        steep = abs(power * (power - 1.0)) * (1.0 + 1e-9)
        return Curve(
            lambda t: t.pow(power),
            lambda low, high: steep * torch.maximum(*(t.clamp(min=0.0) ** (power - 2.0) for t in (low, high))),
        )
    raise Stop


def _numbers(values: tuple[Any, ...], *defaults: float) -> list[float]:
    return [float(v) for v in (*values, *defaults[len(values) :])]


def _clamped(operation: Operation, rest: tuple[Any, ...], named: dict[str, Any]) -> Curve:
    low, high = (*rest, None, None)[:2]
    low, high = named.pop("min", low), named.pop("max", high)
    if "hardtanh" in operation.operator:
        low, high = (-1.0 if low is None else low), (1.0 if high is None else high)
    if "clamp_max" in operation.operator:
        low, high = None, low if high is None else high
    if named or (low is not None and high is not None and low > high):
        raise Stop
    kinks = tuple(float(v) for v in (low, high) if v is not None)
    return Curve(lambda t: t.clamp(low, high), 0.0, kinks)


class Parallels(NamedTuple):
    """``slope x + below <= f(x) <= slope x + above``."""

    slope: Tensor
    below: Tensor
    above: Tensor


def parallels(curve: Curve, lower: Tensor, upper: Tensor, least: Tensor, most: Tensor) -> Parallels:
    """Lines around a curve on ``[lower, upper]``, whose values lie in ``[least, most]``; up to rounding."""
    middle = (lower + upper) / 2
    half = torch.maximum((upper - lower) / 2, NARROW * (1.0 + middle.abs()))
    slope = (curve.function(middle + half) - curve.function(middle - half)) / (2.0 * half)
    step = (upper - lower) / PARTS
    low = high = curve.function(lower) - slope * lower
    points = [lower + step * k for k in range(1, PARTS)] + [upper]
    points += [lower.clamp(min=kink).minimum(upper) for kink in curve.kinks]
    for point in points:
        point = torch.minimum(torch.maximum(point, lower), upper)
        there = curve.function(point) - slope * point
        low, high = torch.minimum(low, there), torch.maximum(high, there)
    bend = curve.bend(lower, upper) if callable(curve.bend) else curve.bend
    error = step * step * (bend * (1.0 + 1e-9) / 8.0) + curve.jump
    low, high = low - error, high + error
    finite = slope.isfinite() & low.isfinite() & high.isfinite() & (high - low < most - least)
    return Parallels(*(torch.where(finite, t, other) for t, other in ((slope, 0.0), (low, least), (high, most))))


@backward(*SIMPLE, "aten.gelu.default", "aten.softplus.default", "aten.elu.default", "aten.celu.default",
          "aten.hardtanh.default", "aten.clamp.default", "aten.clamp_min.default", "aten.clamp_max.default",
          "aten.pow.Tensor_Scalar")  # a list of operators  # fmt: skip
def curved(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """A function of each value by itself."""
    curve = curve_of(operation)
    index = walk.operand(operation, 0)
    lower, upper = walk.ends(index, region)
    lines = parallels(curve, lower, upper, *walk.ends(operation.index, region))
    walk.constant.add(dot(a.clamp(min=0.0), lines.below) + dot(a.clamp(max=0.0), lines.above))
    size = torch.maximum(lines.below.abs(), lines.above.abs())
    size = size + 2.0 * lines.slope.abs() * torch.maximum(lower.abs(), upper.abs())
    error = library_error(walk.samples, operation)
    if isinstance(error, Tensor):
        error = walk.cut(error, region)
    walk.penalty(a, size, gamma_sum(2 * a[0, 0].numel() + FEW), error)
    walk.give(index, a * lines.slope[:, None], region)


def library_error(samples: Samples, operation: Operation) -> Tensor | float:
    """What the function itself may be off by, as the interval rule says, in the bounds and in the network.

    A rule says it in its slack, or moves its ends by it, each by its own: then the error grows with the result's size,
    and no value between is off by more than the ends.
    """

    def compute() -> Tensor | float:
        x = replace(samples.interval(operation.args[0].index), owned=False)

        def bounds(context: Context) -> Interval:
            return TABLE[operation.operator](context, (x, *operation.args[1:]), dict(operation.kwargs))

        with samples.at(operation) as context:
            out = bounds(context)
            exact = bounds(Context(context.row_epsilon, Rounding(context.dtype), operation, context.kind))
        slack = 2.0 * float(out.slack)
        apart = torch.maximum(exact.lower - out.lower, out.upper - exact.upper).nan_to_num(torch.inf, torch.inf)
        return slack + 2.0 * apart if bool((apart > 0.0).any()) else slack

    error: Tensor | float = samples.once(("library", operation.index), compute)
    return error
