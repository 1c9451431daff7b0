"""Addition, subtraction, multiplication, division, powers.

Elementwise operations put their rounding into the slack: one operation whose result has magnitude ``M`` errs by at
most ``u M``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.context import Context
from thetabox.verify.interval import Interval
from thetabox.verify.parameter import Parameter
from thetabox.verify.rounding import SAFETY
from thetabox.verify.rules.table import rule

Number = int | float
Operand = Interval | Number


@rule("aten.add.Tensor", "aten.add.Scalar", elementwise=True, slack=True)
def add(context: Context, a: Operand, b: Operand, *, alpha: Number = 1) -> Interval:
    """``a + alpha b``; of truth values, either."""
    if alpha != 1:
        b = mul(context, b, alpha) if isinstance(b, Interval) else number(context, b) * alpha
    if not isinstance(a, Interval):
        a, b = b, a
    assert isinstance(a, Interval)
    if not isinstance(b, Interval):
        b = number(context, b)
        return a if b == 0 else _shifted(context, a, b)
    if context.operation is not None and context.operation.dtype is torch.bool:
        return Interval(torch.maximum(a.lower, b.lower), torch.maximum(a.upper, b.upper), bound=1.0, nonnegative=True)
    return _sum(context, a, b, a.lower + b.lower, a, b)


def number(context: Context, value: Any) -> float:
    """A literal of the graph; the number of samples is none."""
    if not isinstance(value, (int, float)):
        raise InputError(f"{context.where} computes with the number of samples")
    return float(value)


def literal(context: Context, value: float, size: Sequence[int], device: torch.device) -> Interval:
    """A literal as a tensor; a network or bounds in float32 may hold it rounded."""
    out = Interval.point(torch.full(tuple(size), value, dtype=context.dtype, device=device), nonnegative=value >= 0)
    in_float32 = context.rounding.network > 0 or context.dtype == torch.float32
    if in_float32 and math.isfinite(value) and float(torch.tensor(value, dtype=torch.float32)) != value:
        out.slack = (context.rounding.of_operation() * abs(value) + context.rounding.subnormal) * SAFETY
        out.slack += context.rounding.beyond(abs(value))
    return out


def _shifted(context: Context, a: Interval, b: float) -> Interval:
    magnitude = (a.magnitude + abs(b)) * SAFETY
    out = a.map(lambda t: t + b, keep_sign=b >= 0)
    out.slack = (a.slack + context.rounding.of_operation(2) * magnitude) * SAFETY
    out.slack += context.rounding.beyond(magnitude)
    out.bound = magnitude
    return out


def _sum(context: Context, a: Interval, b: Interval, lower: Tensor, up_a: Interval, up_b: Interval) -> Interval:
    both = a.is_point and b.is_point
    upper = lower if both else up_a.upper + up_b.upper
    magnitude = (a.magnitude + b.magnitude) * SAFETY
    slack = (a.slack + b.slack + context.rounding.of_operation() * magnitude) * SAFETY
    slack += context.rounding.beyond(magnitude)
    return Interval(lower, upper, slack, magnitude, a.nonnegative and b.nonnegative)


@rule("aten.sub.Tensor", "aten.sub.Scalar", elementwise=True, slack=True)
def sub(context: Context, a: Operand, b: Operand, *, alpha: Number = 1) -> Interval:
    """``a - alpha b``."""
    if alpha != 1:
        b = mul(context, b, alpha) if isinstance(b, Interval) else number(context, b) * alpha
    if not isinstance(b, Interval):
        return add(context, a, -number(context, b))
    if not isinstance(a, Interval):
        return add(context, neg(context, b), a)
    lower = a.lower - b.upper
    upper = lower if a.is_point and b.is_point else a.upper - b.lower
    magnitude = (a.magnitude + b.magnitude) * SAFETY
    slack = (a.slack + b.slack + context.rounding.of_operation() * magnitude) * SAFETY
    slack += context.rounding.beyond(magnitude)
    return Interval(lower, upper, slack, magnitude)


@rule("aten.rsub.Scalar", "aten.rsub.Tensor", elementwise=True, slack=True)
def rsub(context: Context, a: Operand, b: Operand, *, alpha: Number = 1) -> Interval:
    """``b - alpha a``."""
    return sub(context, b, a, alpha=alpha)


@rule("aten.neg.default", elementwise=True, slack=True)
def neg(context: Context, a: Interval) -> Interval:
    """``-a``, exact."""
    lower = -a.upper
    return replace(a, lower=lower, upper=lower if a.is_point else -a.lower, nonnegative=False)


@rule("aten.mul.Tensor", "aten.mul.Scalar", parameters=True, slack=True, rows=True)
def multiply(context: Context, a: Operand | Parameter, b: Operand | Parameter) -> Interval | Parameter:
    """``a b``; a parameter times an exact mask stays a parameter."""
    for parameter, mask in ((a, b), (b, a)):
        if isinstance(parameter, Parameter) and parameter.factor and isinstance(mask, Parameter) and not mask.factor:
            whole = parameter.theta.shape == torch.broadcast_shapes(parameter.theta.shape, mask.theta.shape)
            if whole and mask.only_signs and not mask.blur:
                return parameter.masked(mask)
    operands = [context.interval(v) if isinstance(v, Parameter) else v for v in (a, b)]
    intervals = [v for v in operands if isinstance(v, Interval)]
    assert context.operation is not None
    layout = context.operation.layout
    assert layout is not None
    assert not isinstance(layout, tuple)
    aligned = iter(context.aligned(intervals, layout))
    left, right = (next(aligned) if isinstance(v, Interval) else v for v in operands)
    out = mul(context, left, right)
    return replace(out, by_row=layout.batch is None and any(v.by_row for v in intervals))


def mul(context: Context, a: Operand, b: Operand) -> Interval:
    """Product of intervals or numbers."""
    if not isinstance(a, Interval):
        a, b = b, a
    assert isinstance(a, Interval)
    if not isinstance(b, Interval):
        return _scaled(context, a, number(context, b))
    magnitude_a, magnitude_b = a.magnitude, b.magnitude
    magnitude = magnitude_a * magnitude_b * SAFETY
    slack = a.slack * magnitude_b + b.slack * magnitude_a + context.rounding.of_operation() * magnitude
    slack = (slack + context.rounding.subnormal) * SAFETY + context.rounding.beyond(magnitude)
    if math.isnan(slack):  # infinity times zero
        slack = magnitude = math.inf
    if b.is_point and not a.is_point:
        a, b = b, a
    if a.is_point and b.is_point:
        lower = upper = a.lower * b.lower
    elif a.is_point:
        first, second = a.lower * b.lower, a.lower * b.upper
        lower, upper = (
            (first, second) if a.nonnegative else (torch.minimum(first, second), torch.maximum(first, second))
        )
    elif a.nonnegative and b.nonnegative:
        lower, upper = a.lower * b.lower, a.upper * b.upper
    elif a.nonnegative or b.nonnegative:
        if b.nonnegative:
            a, b = b, a
        lower = torch.minimum(a.lower * b.lower, a.upper * b.lower)
        upper = torch.maximum(a.lower * b.upper, a.upper * b.upper)
    else:
        corners = (a.lower * b.lower, a.lower * b.upper, a.upper * b.lower, a.upper * b.upper)
        lower = torch.minimum(torch.minimum(corners[0], corners[1]), torch.minimum(corners[2], corners[3]))
        upper = torch.maximum(torch.maximum(corners[0], corners[1]), torch.maximum(corners[2], corners[3]))
    return Interval(lower, upper, slack, magnitude, a.nonnegative and b.nonnegative)


def _scaled(context: Context, a: Interval, factor: float) -> Interval:
    if factor == 1.0:
        return a
    if factor == -1.0:
        return neg(context, a)
    magnitude = a.magnitude * abs(factor) * SAFETY
    out = a.map(lambda t: t * factor, keep_sign=factor >= 0)
    if factor < 0 and not out.is_point:
        out.lower, out.upper = out.upper, out.lower
    # A literal may itself underflow where it is held in float32.
    tiny = context.rounding.subnormal * (1.0 + a.magnitude)
    out.slack = (a.slack * abs(factor) + context.rounding.of_operation(2) * magnitude + tiny) * SAFETY
    out.slack += context.rounding.beyond(magnitude, abs(factor))
    out.bound = magnitude
    return out


@rule("aten.div.Tensor", "aten.div.Scalar", elementwise=True, slack=True)
def div(context: Context, a: Operand, b: Operand) -> Interval:
    """``a / b``; unbounded where ``b`` may be 0."""
    if isinstance(b, Interval):
        return mul(context, reciprocal(context, b.settled(context.rounding.own)), a)
    assert isinstance(a, Interval)
    b = number(context, b)
    if b == 0:
        raise InputError(f"{context.where} divides by zero")
    if math.frexp(b)[0] in (0.5, -0.5) and abs(b) < 2.0**60:
        return _scaled(context, a, 1.0 / b)
    out = _scaled(context, a, 1.0 / b)
    out.slack = (out.slack + context.rounding.of_operation() * out.magnitude) * SAFETY
    return out


@rule("aten.reciprocal.default", elementwise=True)
def reciprocal(context: Context, b: Interval) -> Interval:
    """``1 / b``; unbounded where ``b`` may be 0."""
    if b.is_point and bool((b.lower != 0).all()):
        out = Interval.point(1.0 / b.lower, nonnegative=b.nonnegative)
    else:
        through = (b.lower <= 0) & (b.upper >= 0)
        lower = torch.where(through, -torch.inf, 1.0 / b.upper)
        upper = torch.where(through, torch.inf, 1.0 / b.lower)
        out = Interval(lower, upper, nonnegative=b.nonnegative and not bool(through.any()))
    out.slack = (context.rounding.of_operation(2) * out.magnitude + context.rounding.subnormal) * SAFETY
    out.slack += context.rounding.beyond(out.magnitude)
    return out


@rule("aten.pow.Tensor_Scalar", elementwise=True)
def power(context: Context, a: Interval, exponent: Number) -> Interval:
    """``a ** 2`` and other whole or half powers."""
    if exponent == 0.5:
        return sqrt(context, a)
    if exponent == -1:
        return reciprocal(context, a)
    if not float(exponent).is_integer() or not 1 <= exponent <= 16:
        raise InputError(f"{context.where}: only powers 0.5, -1 and 1 to 16 have a rule, not {exponent}")
    count = int(exponent)
    low, high = a.lower**count, a.upper**count
    if count % 2 == 0:
        through = (a.lower < 0) & (a.upper > 0)
        low, high = torch.where(through, 0.0, torch.minimum(low, high)), torch.maximum(low, high)
    out = Interval(low, high, nonnegative=count % 2 == 0 or a.nonnegative)
    out.slack = (context.rounding.of_operation(2 * count) * out.magnitude + context.rounding.subnormal) * SAFETY
    out.slack += context.rounding.beyond(out.magnitude)
    return out


@rule("aten.sqrt.default", elementwise=True)
def sqrt(context: Context, a: Interval) -> Interval:
    """Square root; the argument must be provably nonnegative."""
    if not a.nonnegative and bool((a.lower < 0).any()):
        raise InputError(f"{context.where} may take the root of a negative number")
    out = replace(a.map(lambda t: t.clamp(min=0.0).sqrt()), nonnegative=True, bound=None)
    out.slack = context.rounding.of_operation(2) * out.magnitude
    return out


@rule("aten.rsqrt.default", elementwise=True)
def rsqrt(context: Context, a: Interval) -> Interval:
    """``1 / sqrt(a)``."""
    return reciprocal(context, sqrt(context, a).settled(context.rounding.own))
