"""Functions that jump: rounding to whole numbers, and shrinkage.

Each end is exact, but where an interval holds a jump the result is as wide as it: a value known up to a rounding that
stands on a whole number is not known after ``floor``.
"""

from __future__ import annotations

import torch

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.literals import Number, coefficient_of, literal_error
from thetabox.verify.interpreter.rules.table import rule


@rule("aten.floor.default", types="whole")
def floor(context: Context, a: Interval) -> Interval:
    """The whole number below, exact."""
    return a.map(torch.floor)


@rule("aten.ceil.default", types="whole")
def ceil(context: Context, a: Interval) -> Interval:
    """The whole number above, exact."""
    return a.map(torch.ceil)


@rule("aten.round.default", types="whole")
def to_nearest(context: Context, a: Interval) -> Interval:
    """The nearest whole number, of two the even one; exact."""
    return a.map(torch.round)


@rule("aten.trunc.default", types="whole")
def trunc(context: Context, a: Interval) -> Interval:
    """The whole number towards zero, exact."""
    return a.map(torch.trunc)


@rule("aten.hardshrink.default")
def hardshrink(context: Context, a: Interval, lambd: Number = 0.5) -> Interval:
    """0 where ``|a| <= lambda``, else ``a``; increasing."""
    width = _width(context, lambd)
    width_error = literal_error(context, width)
    # Which side of a rounded lambda an end lies on is open: the lower end takes the lesser value.
    lower = torch.where((a.lower < -(width - width_error)) | (a.lower > width + width_error), a.lower, 0.0 * a.lower)
    upper = torch.where((a.upper > width - width_error) | (a.upper < -(width + width_error)), a.upper, 0.0 * a.upper)
    return Interval(lower, lower if a.is_point and torch.equal(lower, upper) else upper)


@rule("aten.softshrink.default", slack=True)
def softshrink(context: Context, a: Interval, lambd: Number = 0.5) -> Interval:
    """``a`` moved towards 0 by lambda, 0 where it passes it."""
    width = _width(context, lambd)
    magnitude = a.magnitude + width
    out = a.map(lambda t: t - t.clamp(-width, width))
    out.slack += (literal_error(context, width) + context.rounding.of_operation(2) * magnitude) * 2.0
    out.slack += context.rounding.beyond(magnitude)
    return out


@rule("aten.threshold.default")
def threshold(context: Context, a: Interval, level: Number, value: Number) -> Interval:
    """``a`` where it is above the level, else a value."""
    level, value = coefficient_of(context, level), coefficient_of(context, value)
    level_error, value_error = literal_error(context, level), literal_error(context, value)
    above, below = a.lower > level + level_error, a.upper <= level - level_error
    low, high = torch.full_like(a.lower, value - value_error), torch.full_like(a.lower, value + value_error)
    start = torch.maximum(a.lower, torch.full_like(a.lower, level - level_error))
    lower = torch.where(above, a.lower, torch.where(below, low, torch.minimum(start, low)))
    upper = torch.where(above, a.upper, torch.where(below, high, torch.maximum(a.upper, high)))
    gone = a.lower.isnan() | a.upper.isnan()
    return Interval(lower.masked_fill(gone, torch.nan), upper.masked_fill(gone, torch.nan))


def _width(context: Context, value: Number) -> float:
    """Half the width of what is shrunk to 0.

    Raises:
        InputError: it is negative or no number.
    """
    width = coefficient_of(context, value)
    if width < 0.0:
        raise InputError(f"{context.where}: shrinkage has a rule for lambda of 0 or more, not {width}")
    return width
