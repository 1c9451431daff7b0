"""Functions of one value that a library computes: increasing ones, ones of two parts, ones with a dip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context

# Units in the last place that a library's function, or a network's own, may err by.
ULPS = 8
# Of a product with a function of itself, where that is flushed to zero: more than the EXPONENT of an activation.
FLUSHED = 1024.0


def two_parts(a: Interval, function: Callable[[Tensor], Tensor], *, increasing: bool) -> Interval:
    """Ends of a function that is 0 at 0 and monotone on either side of it."""
    if a.is_point or increasing:
        return replace(a.map(function), nonnegative=a.nonnegative and increasing)
    first, second = function(a.lower), function(a.upper)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    through = (a.lower < 0) & (a.upper > 0)
    low, high = torch.where(through, low.clamp(max=0.0), low), torch.where(through, high.clamp(min=0.0), high)
    return replace(a, lower=low, upper=high, nonnegative=False, bound=None, owned=False)


def increasing(
    context: Context,
    a: Interval,
    function: Callable[[Tensor], Tensor],
    steepness: float,
    *,
    nonnegative: bool = False,
) -> Interval:
    """An increasing function with a bounded derivative."""
    out = replace(a.map(function), nonnegative=nonnegative, slack=0.0)
    return rounded(context, out, a.slack * steepness)


def rounded(context: Context, out: Interval, slack: float, ulps: int = ULPS, grown: float = 0.0) -> Interval:
    """Ends as a library function computed them, with its error and that of the network's own.

    ``grown`` times as much stands on the way to the result and may overflow.
    """
    if grown:
        out = within_range(context, out, grown)
    error = context.rounding.of_operation(ulps) * (out.magnitude + slack)
    out.slack = (slack + error + context.rounding.flushed) * SAFETY
    if grown:
        out.slack += context.rounding.beyond(out.magnitude * grown)
    return out


def of_each_number(
    context: Context, out: Interval, slack: float = 0.0, ulps: int = ULPS, grown: float = 1.0
) -> Interval:
    """As :func:`rounded`, of a function that may overflow: ``slack`` is relative, and each end has its own error.

    One sample's may be larger than another's by any factor.
    """
    out = within_range(context, out, grown)
    if out.batch is None:
        return rounded(context, out, slack * out.magnitude * SAFETY, ulps, grown)
    error = (context.rounding.of_operation(ulps) + slack * SAFETY) * SAFETY
    lower, upper = (end.abs() * error + context.rounding.flushed for end in (out.lower, out.upper))
    lower, upper = out.lower - lower, out.upper + upper
    if out.nonnegative:
        lower = lower.clamp(min=0.0)
    return replace(
        out, lower=lower, upper=upper, slack=context.rounding.beyond(out.magnitude * grown), bound=None, owned=False
    )


def within_range(context: Context, out: Interval, grown: float) -> Interval:
    """Without the ends of which ``grown`` times as much may overflow, so that their error is not that of the others."""
    limit = 0.999 * context.rounding.largest / grown
    if out.magnitude < limit:
        return out
    # What is no number stays none, whatever else of the batch may overflow.
    lower = torch.where(out.lower.abs() >= limit, 0.0 if out.nonnegative else -torch.inf, out.lower)
    return replace(out, lower=lower, upper=torch.where(out.upper.abs() >= limit, torch.inf, out.upper), bound=None)


def dipped(
    context: Context,
    a: Interval,
    function: Callable[[Tensor], Tensor],
    place: float,
    least: float,
    error: float,
    *,
    steepness: float = 1.2,
    ulps: int = 2 * ULPS,
    grown: float = 2.0,
) -> Interval:
    """A function that falls to ``least`` at ``place`` and rises from there.

    Args:
        context: of the operation.
        a: operand.
        function: of float64 numbers.
        place, least: where it is least, and a number below that.
        error: size of what is rounded on the way and whose error does not shrink with the result.
        steepness: at least its derivative.
        ulps: what the result itself may be off by, relative to its size.
        grown: so many times the result stands on the way to it.
    """
    low, high = function(a.lower), None
    if a.is_point:
        out = Interval.point(low)
    else:
        high = function(a.upper)
        through = (a.lower < place + 1e-5) & (a.upper > place - 1e-5)
        out = Interval(torch.where(through, least, torch.minimum(low, high)), torch.maximum(low, high))
    slack = steepness * a.slack + context.rounding.of_operation(2 * ULPS) * error + FLUSHED * context.rounding.flushed
    out = replace(out, batch=a.batch, merged=a.merged)
    return rounded(context, out, slack, ulps, grown)
