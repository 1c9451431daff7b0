"""Powers with a fixed exponent: the reciprocal, whole powers, roots."""

from __future__ import annotations

from dataclasses import replace

import torch

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.overflow import nowhere_infinite
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.literals import Number
from thetabox.verify.interpreter.rules.table import rule


@rule("aten.reciprocal.default", elementwise=True)
def reciprocal(context: Context, b: Interval) -> Interval:
    """``1 / b``; nothing is known where ``b`` may be 0, nor of anything computed from it: 0 / 0 is no number."""
    if b.is_point and bool((b.lower != 0).all()):
        out = Interval.point(1.0 / b.lower, nonnegative=b.nonnegative)
    else:
        through = (b.lower <= 0) & (b.upper >= 0)
        lower = torch.where(through, -torch.inf, 1.0 / b.upper)
        upper = torch.where(through, torch.inf, 1.0 / b.lower)
        out = Interval(lower, upper, nonnegative=b.nonnegative and not bool(through.any()))
    out.slack = (context.rounding.of_operation(2) * out.magnitude + context.rounding.subnormal) * SAFETY
    out.slack += context.rounding.beyond(out.magnitude)
    return nowhere_infinite(out)


@rule("aten.pow.Tensor_Scalar", elementwise=True, types="whole")
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
    out = replace(a.map(lambda t: t.clamp(min=0.0).sqrt()), nonnegative=True)
    out.slack = context.rounding.of_operation(2) * out.magnitude
    return out


@rule("aten.rsqrt.default", elementwise=True)
def rsqrt(context: Context, a: Interval) -> Interval:
    """``1 / sqrt(a)``."""
    return reciprocal(context, sqrt(context, a).settled(context.rounding.roundoff))
