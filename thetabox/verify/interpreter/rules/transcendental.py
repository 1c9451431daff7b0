"""Functions that a library computes, by what is to be known of each: where it is defined, where it rises, its error.

torch's kernels were within 2 roundoffs of the exact value wherever they were measured (against mpmath, float32 and
float64, vectorised and not; the tests repeat it); CUDA documents up to 4 units in the last place of tan and 5 of erfc.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.overflow import nowhere_infinite
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.activation import absolute
from thetabox.verify.interpreter.rules.curves import FAR, NEAR_CREST
from thetabox.verify.interpreter.rules.monotone import ULPS, of_each_number
from thetabox.verify.interpreter.rules.table import rule


class Function(NamedTuple):
    """A function that rises or falls wherever it is defined; an even one, on nonnegative numbers.

    Attributes:
        compute: torch's own.
        what: for the page of operators.
        defined: whether it is on all of an interval, of both ends; everywhere if there is none.
        rises: or falls.
        even: of the size of its argument.
        nonnegative: its values, whatever the argument.
        keeps_sign: of a nonnegative argument the value is nonnegative.
        ulps: roundoffs allowed for.
        grown: so many times the result stands on the way to it, and may overflow.
    """

    compute: Callable[[Tensor], Tensor]
    what: str
    defined: Callable[[Tensor, Tensor], Tensor] | None = None
    rises: bool = True
    even: bool = False
    nonnegative: bool = False
    keeps_sign: bool = False
    ulps: int = ULPS
    grown: float = 1.0


def between_poles(lower: Tensor, upper: Tensor) -> Tensor:
    """Whether no pole of the tangent lies inside or within rounding; far away nobody knows."""
    first, last = (end.detach().double() / math.pi - 0.5 for end in (lower, upper))
    apart = torch.floor(first - NEAR_CREST) == torch.floor(last + NEAR_CREST)
    return apart & (lower.abs() <= FAR) & (upper.abs() <= FAR)


def _within_one(lower: Tensor, upper: Tensor) -> Tensor:
    return (lower >= -1.0) & (upper <= 1.0)


def _positive(lower: Tensor, upper: Tensor) -> Tensor:
    return lower > 0.0


UNKNOWN = "nothing is known where the argument may"
FUNCTIONS: dict[str, Function] = {
    "asin": Function(torch.asin, f"Arc sine; {UNKNOWN} lie outside of -1 to 1.", _within_one, keeps_sign=True),
    "acos": Function(
        torch.acos, f"Arc cosine; {UNKNOWN} lie outside of -1 to 1.", _within_one, rises=False, nonnegative=True
    ),
    "tan": Function(torch.tan, f"Tangent; {UNKNOWN} be at a pole.", between_poles, ulps=2 * ULPS),
    "sinh": Function(torch.sinh, "Hyperbolic sine.", keeps_sign=True, grown=2.0),
    "cosh": Function(torch.cosh, "Hyperbolic cosine.", even=True, nonnegative=True, grown=2.0),
    "exp2": Function(torch.exp2, "``2 ** a``.", nonnegative=True),
    "expm1": Function(torch.expm1, "``exp(a) - 1``.", keeps_sign=True),
    "log2": Function(torch.log2, f"The logarithm to base 2; {UNKNOWN} be 0 or below.", _positive),
    "log10": Function(torch.log10, f"The logarithm to base 10; {UNKNOWN} be 0 or below.", _positive),
    "erfc": Function(torch.erfc, "``1 - erf(a)``.", rises=False, nonnegative=True, ulps=2 * ULPS),
}


def bounded(context: Context, a: Interval, function: Function) -> Interval:
    """A function at both ends; no numbers where it may not be defined."""
    if function.even:
        a = absolute(context, a)
    ends = [a.lower] if a.is_point else [a.lower, a.upper]
    if function.defined is not None:
        defined = function.defined(a.lower, a.upper)
        ends = [torch.where(defined, end, torch.nan) for end in ends]
    values = [function.compute(end) for end in ends]
    if not function.rises:
        values.reverse()
    nonnegative = function.nonnegative or (function.keeps_sign and a.nonnegative)
    out = replace(a, lower=values[0], upper=values[-1], slack=0.0, bound=None, nonnegative=nonnegative, owned=False)
    out = of_each_number(context, out, ulps=function.ulps, grown=function.grown)
    return out if function.defined is None else nowhere_infinite(out)


def _registered(name: str, function: Function) -> None:
    def of_one_value(context: Context, a: Interval) -> Interval:
        return bounded(context, a, function)

    of_one_value.__doc__ = function.what
    rule(f"aten.{name}.default")(of_one_value)


for _name, _function in FUNCTIONS.items():
    _registered(_name, _function)


@rule("aten.logaddexp.default", elementwise=True, slack=True)
def logaddexp(context: Context, a: Interval, b: Interval) -> Interval:
    """``log(exp(a) + exp(b))``, which rises in both."""
    return _of_two(context, a, b, torch.logaddexp)


@rule("aten.logaddexp2.default", elementwise=True, slack=True)
def logaddexp2(context: Context, a: Interval, b: Interval) -> Interval:
    """``log2(2 ** a + 2 ** b)``, which rises in both."""
    return _of_two(context, a, b, torch.logaddexp2)


@rule("aten.hypot.default", elementwise=True, slack=True)
def hypot(context: Context, a: Interval, b: Interval) -> Interval:
    """``sqrt(a ** 2 + b ** 2)``, which rises in the sizes of both."""
    return replace(_of_two(context, absolute(context, a), absolute(context, b), torch.hypot), nonnegative=True)


def _of_two(context: Context, a: Interval, b: Interval, function: Callable[[Tensor, Tensor], Tensor]) -> Interval:
    """A function that rises in both, by no more than both together.

    What is rounded on the way is no larger than the operands and 1 are.
    """
    lower = function(a.lower, b.lower)
    upper = lower if a.is_point and b.is_point else function(a.upper, b.upper)
    # Of no number and infinity torch's hypot makes infinity.
    lost = a.lower.isnan() | a.upper.isnan() | b.lower.isnan() | b.upper.isnan()
    lower = torch.where(lost, torch.nan, lower)
    upper = lower if a.is_point and b.is_point else torch.where(lost, torch.nan, upper)
    size = (a.magnitude + b.magnitude + 1.0) * SAFETY
    slack = (a.slack + b.slack + context.rounding.of_operation(ULPS) * size + context.rounding.flushed) * SAFETY
    return Interval(lower, upper, slack + context.rounding.beyond(size), size)
