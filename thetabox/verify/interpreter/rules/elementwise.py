"""Addition, subtraction, multiplication, division, powers.

Elementwise operations put their rounding into the slack: one operation whose result has magnitude ``M`` errs by at
most ``u M``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.literals import Number, coefficient_of, held, literal, literal_error, number
from thetabox.verify.interpreter.rules.minus_infinity import filled, gone, hidden, is_mask
from thetabox.verify.interpreter.rules.powers import reciprocal
from thetabox.verify.interpreter.rules.table import rule

Operand = Interval | Number


@rule("aten.add.Tensor", "aten.add.Scalar", elementwise=True, slack=True, types="whole")
def add(context: Context, a: Operand, b: Operand, alpha: Number = 1) -> Interval:
    """``a + alpha b``; of truth values, either."""
    if context.operation is not None and context.operation.dtype is torch.bool:
        return either(*(truth(context, v) for v in ((a, b) if alpha else (a, False))))
    if alpha != 1:
        b = mul(context, b if isinstance(b, Interval) else held(context, number(context, b)), alpha)
    if not isinstance(a, Interval):
        a, b = b, a
    assert isinstance(a, Interval)
    if not isinstance(b, Interval):
        b = number(context, b)
        return a if b == 0 else _shifted(context, a, b)
    magnitude, slack = _sum_error(context, a, b)
    if math.isinf(magnitude) and (is_mask(a) or is_mask(b)):
        return hidden(add(context, filled(a), filled(b)).settled(context.rounding.roundoff), gone(a) | gone(b))
    low, high = spare(a, b)
    lower = torch.add(a.lower, b.lower, out=low)
    upper = lower if a.is_point and b.is_point else torch.add(a.upper, b.upper, out=high)
    return Interval(lower, upper, slack, magnitude, a.nonnegative and b.nonnegative, owned=True)


def truth(context: Context, v: Operand) -> Interval:
    """A truth value, which a number of the graph stands for unless it is 0."""
    return v if isinstance(v, Interval) else literal(context, float(v != 0), (), context.row_epsilon.values.device)


def either(a: Interval, b: Interval) -> Interval:
    """Of truth values, whether one of them holds."""
    lower = torch.maximum(a.lower, b.lower)
    upper = lower if a.is_point and b.is_point else torch.maximum(a.upper, b.upper)
    return Interval(lower, upper, bound=1.0, nonnegative=True)


def spare(*operands: Interval) -> tuple[Tensor | None, Tensor | None]:
    """Memory for both ends of an elementwise result: that of an operand which nothing else needs, or none.

    New memory costs several times the arithmetic. The ends are those of the first such operand, lower before upper:
    write each only once it has been read.
    """
    if not torch.is_grad_enabled():
        for v in operands:
            if v.owned and all(_stands_in(w, v) for w in operands):
                return v.lower, v.upper
    return None, None


def _stands_in(a: Interval, b: Interval) -> bool:
    """Whether ``a`` broadcasts to the shape of ``b`` and is not an interval where ``b`` is a point."""
    if b.is_point and not a.is_point:
        return False
    small, large = a.lower.shape, b.lower.shape
    if small == large:
        return True
    offset = len(large) - len(small)
    return offset >= 0 and all(n in (1, m) for n, m in zip(small, large[offset:], strict=True))


def _sum_error(context: Context, a: Interval, b: Interval) -> tuple[float, float]:
    """Magnitude and slack of a sum or difference."""
    magnitude = (a.magnitude + b.magnitude) * SAFETY
    slack = (a.slack + b.slack + context.rounding.of_operation() * magnitude) * SAFETY
    return magnitude, slack + context.rounding.beyond(magnitude)


def _shifted(context: Context, a: Interval, b: float) -> Interval:
    magnitude = (a.magnitude + abs(b)) * SAFETY
    out = a.fresh(lambda t, spare: torch.add(t, b, out=spare))
    out.slack = (a.slack + context.rounding.of_operation(2) * magnitude + context.rounding.subnormal) * SAFETY
    out.slack += context.rounding.beyond(magnitude)
    out.bound, out.nonnegative = magnitude, a.nonnegative and b >= 0
    return out


@rule("aten.sub.Tensor", "aten.sub.Scalar", elementwise=True, slack=True, types="whole")
def sub(context: Context, a: Operand, b: Operand, alpha: Number = 1) -> Interval:
    """``a - alpha b``."""
    if alpha != 1:
        b = mul(context, b if isinstance(b, Interval) else held(context, number(context, b)), alpha)
    if not isinstance(b, Interval):
        return add(context, a, -number(context, b))
    if not isinstance(a, Interval):
        return add(context, neg(context, b), a)
    magnitude, slack = _sum_error(context, a, b)
    low, high = spare(a, b)
    if low is b.lower:  # each end of b is read for the other end of the result
        low, high = high, low
    lower = torch.sub(a.lower, b.upper, out=low)
    upper = lower if a.is_point and b.is_point else torch.sub(a.upper, b.lower, out=high)
    return Interval(lower, upper, slack, magnitude, owned=True)


@rule("aten.rsub.Scalar", "aten.rsub.Tensor", elementwise=True, slack=True, types="whole")
def rsub(context: Context, a: Operand, b: Operand, alpha: Number = 1) -> Interval:
    """``b - alpha a``."""
    return sub(context, b, a, alpha=alpha)


@rule("aten.lerp.Scalar", "aten.lerp.Tensor", elementwise=True, slack=True)
def lerp(context: Context, a: Interval, b: Interval, weight: Operand) -> Interval:
    """``a + weight (b - a)`` as ``(1 - weight) a + weight b``, in which each operand stands once.

    It is linear in each operand, so extreme at ends of the weight. torch computes ``a + weight (b - a)``, or
    ``b - (1 - weight) (b - a)``: what is rounded on the way is no larger than the sizes of both operands, times
    ``1 + |weight|``.
    """
    w = weight if isinstance(weight, Interval) else held(context, coefficient_of(context, weight))
    size = (1.0 + w.magnitude) * (a.magnitude + b.magnitude) * SAFETY
    error = context.rounding.of_operation(6) * size + 6.0 * context.rounding.subnormal + context.rounding.beyond(size)
    slack = (1.0 + w.magnitude) * a.slack + w.magnitude * b.slack + w.slack * (a.magnitude + b.magnitude)
    weights = (w.lower,) if w.is_point else (w.lower, w.upper)
    lower = reduce(torch.minimum, [_between(a, b, t, low=True) for t in weights])
    upper = lower
    if not (a.is_point and b.is_point and w.is_point):
        upper = reduce(torch.maximum, [_between(a, b, t, low=False) for t in weights])
    within = w.nonnegative and bool((w.upper + 2.0 * w.slack <= 1.0).all())
    nonnegative = a.nonnegative and b.nonnegative and within
    return Interval(lower, upper, (slack + error) * SAFETY, size, nonnegative, owned=True)


def _between(a: Interval, b: Interval, weight: Tensor, *, low: bool) -> Tensor:
    """The least or largest of ``(1 - weight) a + weight b``."""
    rest = 1.0 - weight
    first = torch.where((rest >= 0) == low, a.lower, a.upper)
    return rest * first + weight * torch.where((weight >= 0) == low, b.lower, b.upper)


@rule("aten.neg.default", elementwise=True, slack=True, types="whole")
def neg(context: Context, a: Interval) -> Interval:
    """``-a``, exact."""
    out = a.fresh(lambda t, spare: torch.neg(t, out=spare))
    out.lower, out.upper, out.bound = out.upper, out.lower, a.bound
    return out


@rule("aten.mul.Tensor", "aten.mul.Scalar", parameters=True, slack=True, rows=True, types="whole")
def multiply(context: Context, a: Operand | Parameter, b: Operand | Parameter) -> Interval | Parameter:
    """``a b``; a parameter times an exact mask stays a parameter."""
    for parameter, mask in ((a, b), (b, a)):
        if isinstance(parameter, Parameter) and parameter.factor and isinstance(mask, Parameter) and not mask.factor:
            whole = parameter.theta.shape == torch.broadcast_shapes(parameter.theta.shape, mask.theta.shape)
            if whole and mask.only_signs and not mask.theta_error:
                return parameter.masked(mask)
    operands = [context.interval(v) if isinstance(v, Parameter) else v for v in (a, b)]
    intervals = [v for v in operands if isinstance(v, Interval)]
    layout = context.layout
    aligned = iter(context.aligned(intervals, layout))
    left, right = (next(aligned) if isinstance(v, Interval) else v for v in operands)
    out = mul(context, left, right)
    if layout.batch is None and any(v.by_row for v in intervals):
        out = replace(out, by_row=True)
    return out


def mul(context: Context, a: Operand, b: Operand) -> Interval:
    """Product of intervals or numbers."""
    if not isinstance(a, Interval):
        a, b = b, a
    assert isinstance(a, Interval)
    if not isinstance(b, Interval):
        return scaled(context, a, number(context, b))
    magnitude_a, magnitude_b = a.magnitude, b.magnitude
    magnitude = magnitude_a * magnitude_b * SAFETY
    slack = a.slack * magnitude_b + b.slack * magnitude_a + context.rounding.of_operation() * magnitude
    slack = (slack + context.rounding.subnormal) * SAFETY + context.rounding.beyond(magnitude)
    if math.isnan(slack):  # infinity times zero
        slack = magnitude = math.inf
    lower, upper = product_ends(a, b)
    return Interval(lower, upper, slack, magnitude, a.nonnegative and b.nonnegative, owned=True)


def product_ends(a: Interval, b: Interval) -> tuple[Tensor, Tensor]:
    """Least and largest product of the ends, with as few products as the signs allow."""
    low, high = spare(a, b)
    if b.is_point and not a.is_point:
        a, b = b, a
    if a.is_point and b.is_point:
        lower = torch.mul(a.lower, b.lower, out=low)
        return lower, lower
    if a.nonnegative and (a.is_point or b.nonnegative):
        return torch.mul(a.lower, b.lower, out=low), torch.mul(a.upper, b.upper, out=high)
    if a.is_point:
        first, second = torch.mul(a.lower, b.lower, out=low), torch.mul(a.lower, b.upper, out=high)
        lower = torch.minimum(first, second)
        return lower, torch.maximum(first, second, out=None if second.requires_grad else second)
    if a.nonnegative or b.nonnegative:
        if b.nonnegative:
            a, b = b, a
        products = (a.lower * b.lower, a.upper * b.lower, a.lower * b.upper, a.upper * b.upper)
        return _least(products[0], products[1]), _largest(products[2], products[3])
    corners = (a.lower * b.lower, a.lower * b.upper, a.upper * b.lower, a.upper * b.upper)
    lower = _least(torch.minimum(corners[0], corners[1]), torch.minimum(corners[2], corners[3]))
    return lower, _largest(_largest(corners[0], corners[1]), _largest(corners[2], corners[3]))


def _least(a: Tensor, b: Tensor) -> Tensor:
    """Minimum, written over ``a`` where no gradient needs it."""
    return torch.minimum(a, b, out=None if a.requires_grad or a.shape != b.shape else a)


def _largest(a: Tensor, b: Tensor) -> Tensor:
    """Maximum, written over ``a`` where no gradient needs it."""
    return torch.maximum(a, b, out=None if a.requires_grad or a.shape != b.shape else a)


def scaled(context: Context, a: Interval, factor: float) -> Interval:
    """``a`` times a number of the graph."""
    if factor == 1.0:
        return a
    if factor == -1.0:
        return neg(context, a)
    magnitude = a.magnitude * abs(factor) * SAFETY
    out = a.fresh(lambda t, spare: torch.mul(t, factor, out=spare))
    if factor < 0 and not out.is_point:
        out.lower, out.upper = out.upper, out.lower
    # A literal may itself underflow where it is held in float32.
    tiny = context.rounding.subnormal * (1.0 + a.magnitude)
    out.slack = (a.slack * abs(factor) + context.rounding.of_operation(2) * magnitude + tiny) * SAFETY
    out.slack += context.rounding.beyond(magnitude, abs(factor))
    out.bound, out.nonnegative = magnitude, a.nonnegative and factor >= 0
    return out


@rule("aten.div.Tensor", "aten.div.Scalar", elementwise=True, slack=True)
def div(context: Context, a: Operand, b: Operand) -> Interval:
    """``a / b``; unbounded where ``b`` may be 0."""
    if isinstance(b, Interval):
        return mul(context, reciprocal(context, b.settled(context.rounding.roundoff)), a)
    assert isinstance(a, Interval)
    b = number(context, b)
    if b == 0:
        raise InputError(f"{context.where} divides by zero")
    if math.frexp(b)[0] in (0.5, -0.5) and abs(b) < 2.0**60:
        return scaled(context, a, 1.0 / b)
    out = scaled(context, a, 1.0 / b)
    # The divisor itself may be below the normal numbers.
    relative = context.rounding.of_operation() + 2.0 * literal_error(context, b) / abs(b)
    out.slack = (out.slack + relative * out.magnitude) * SAFETY
    return out
