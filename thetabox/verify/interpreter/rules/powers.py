"""Powers with a fixed exponent: the reciprocal, whole powers, roots."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.overflow import nowhere_infinite
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.literals import Number, coefficient_of, literal_error
from thetabox.verify.interpreter.rules.monotone import ULPS, within_range
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
    """``a ** 2`` and other whole powers from 1 to 16; every other one where ``a`` is provably nonnegative."""
    if exponent == 0.5:
        return sqrt(context, a)
    if exponent == -1:
        return reciprocal(context, a)
    if not float(exponent).is_integer() or not 1 <= exponent <= 16:
        return _real_power(context, a, coefficient_of(context, exponent))
    count = int(exponent)
    low, high = a.lower**count, a.upper**count
    if count % 2 == 0:
        through = (a.lower < 0) & (a.upper > 0)
        low, high = torch.where(through, 0.0, torch.minimum(low, high)), torch.maximum(low, high)
    out = Interval(low, high, nonnegative=count % 2 == 0 or a.nonnegative)
    out.slack = (context.rounding.of_operation(2 * count) * out.magnitude + context.rounding.subnormal) * SAFETY
    out.slack += context.rounding.beyond(out.magnitude)
    return out


def _real_power(context: Context, a: Interval, exponent: float) -> Interval:
    """``a ** exponent`` of nonnegative numbers; of a negative exponent, nothing is known where ``a`` may be 0.

    torch computes with the exponent in the network's type, or in double precision where it does so number by number. An
    exponent that is off by a part δ of itself multiplies the result y by up to ``exp(δ |log(y)|)``.
    """
    if not a.nonnegative and bool((a.lower < 0).any()):
        raise InputError(
            f"{context.where} may raise a negative number to the power {exponent:g}, which has a rule for nonnegative "
            "numbers only (whole powers from 1 to 16 for all)"
        )
    values = [t.clamp(min=0.0).pow(exponent) for t in ((a.lower,) if a.is_point else (a.lower, a.upper))]
    if exponent < 0.0:  # falling, and infinite at 0, of which nowhere_infinite leaves nothing
        values.reverse()
    out = replace(a, lower=values[0], upper=values[-1], slack=0.0, bound=None, nonnegative=True)
    # Of -2 torch takes the reciprocal of a square, which may be flushed to zero.
    out = within_range(context, out, 8.0)
    part = 2.0 * literal_error(context, exponent) / abs(exponent) if exponent else 0.0

    def error(y: Tensor) -> Tensor:
        # It grows with y, so that no value between the ends is off by more than the upper one.
        off = (y.clamp(min=1.0).log() * y).clamp(min=1.0 / math.e) * part if part else 0.0
        return (context.rounding.of_operation(ULPS) * y + off + context.rounding.flushed) * SAFETY

    lower, upper = (out.lower - error(out.lower)).clamp(min=0.0), out.upper + error(out.upper)
    out = replace(
        out, lower=lower, upper=upper, slack=context.rounding.beyond(8.0 * out.magnitude), bound=None, owned=False
    )
    return nowhere_infinite(out)


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
