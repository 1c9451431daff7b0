"""Comparisons, logic, selection, elementwise extremes. A truth value is an interval of 0 and 1.

``must`` is asked as "strictly on one side" and ``may`` as "not certainly on the other": an end that is not a number
then leaves both results open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.elementwise import either, sub, truth
from thetabox.verify.interpreter.rules.literals import Number, literal, literal_error, number
from thetabox.verify.interpreter.rules.table import rule

Operand = Interval | Number


def _truth(must: Tensor, never: Tensor) -> Interval:
    """From 0 and 1 where it is certainly true and where certainly false; a point where all of it is certain."""
    may = never.eq_(0)
    upper = must if torch.equal(must, may) else may
    return Interval(must, upper, bound=1.0, nonnegative=True, owned=True)


def _as_interval(context: Context, v: Operand, like: Interval) -> Interval:
    if isinstance(v, Interval):
        return v
    return literal(context, number(context, v), (), like.lower.device)


@rule("aten.gt.Tensor", "aten.gt.Scalar", elementwise=True, slack=True, types="whole")
def greater(context: Context, a: Operand, b: Operand) -> Interval:
    """``a > b``."""
    return _compare(context, a, b, strict=True)


@rule("aten.ge.Tensor", "aten.ge.Scalar", elementwise=True, slack=True, types="whole")
def greater_equal(context: Context, a: Operand, b: Operand) -> Interval:
    """``a >= b``."""
    return _compare(context, a, b, strict=False)


@rule("aten.lt.Tensor", "aten.lt.Scalar", elementwise=True, slack=True, types="whole")
def less(context: Context, a: Operand, b: Operand) -> Interval:
    """``a < b``."""
    return _compare(context, b, a, strict=True)


@rule("aten.le.Tensor", "aten.le.Scalar", elementwise=True, slack=True, types="whole")
def less_equal(context: Context, a: Operand, b: Operand) -> Interval:
    """``a <= b``."""
    return _compare(context, b, a, strict=False)


@rule("aten.eq.Tensor", "aten.eq.Scalar", elementwise=True, slack=True, types="whole")
def equal(context: Context, a: Operand, b: Operand) -> Interval:
    """``a == b``."""
    above, below = _compared(context, a, b, strict=False), _compared(context, b, a, strict=False)
    return _truth(torch.minimum(above.lower, below.lower), 1.0 - torch.minimum(above.upper, below.upper))


@rule("aten.ne.Tensor", "aten.ne.Scalar", elementwise=True, slack=True, types="whole")
def unequal(context: Context, a: Operand, b: Operand) -> Interval:
    """``a != b``."""
    same = equal(context, a, b)
    return _truth(1.0 - same.upper, same.lower.clone())


@rule("aten.isnan.default", "aten.isinf.default", types="whole")
def not_finite(context: Context, x: Interval) -> Interval:
    """Whether it is no finite number, which nothing between finite ends is."""
    finite = x.lower.isfinite() & x.upper.isfinite()
    return _truth(torch.zeros_like(x.lower), finite.to(x.lower.dtype))


def _compare(context: Context, a: Operand, b: Operand, *, strict: bool) -> Interval:
    """``a > b`` (strict) or ``a >= b``."""
    decided = _compared(context, a, b, strict=strict)
    threshold = isinstance(a, Interval) and (isinstance(b, Interval) or number(context, b) != 0.0)
    if context.surrogate is None or not threshold or not torch.is_grad_enabled():
        return decided
    # Of the values nothing changes: x - x.detach() is zero and carries the gradient.
    a, b = (_as_interval(context, v, decided) for v in (a, b))
    low, high = context.surrogate(a.lower, b.upper), context.surrogate(a.upper, b.lower)
    return replace(decided, lower=decided.lower + (low - low.detach()), upper=decided.upper + (high - high.detach()))


def _compared(context: Context, a: Operand, b: Operand, *, strict: bool) -> Interval:
    (low_a, high_a, error_a), (low_b, high_b, error_b) = _ends(context, a), _ends(context, b)
    slack = error_a + error_b
    if slack == 0.0:
        if strict:
            return _truth(_into(torch.gt, low_a, high_b), _into(torch.le, high_a, low_b))
        return _truth(_into(torch.ge, low_a, high_b), _into(torch.lt, high_a, low_b))
    # The differences round as well.
    size = sum(v.magnitude if isinstance(v, Interval) else abs(float(v)) for v in (a, b))
    slack = (slack + 2.0 * context.rounding.roundoff * size) * SAFETY
    if not isinstance(b, Interval):
        return _truth(_into(torch.gt, low_a, high_b + slack), _into(torch.lt, high_a, low_b - slack))
    if not isinstance(a, Interval):
        return _truth(_into(torch.lt, high_b, low_a - slack), _into(torch.gt, low_b, high_a + slack))
    return _truth((low_a - high_b).gt_(slack), (high_a - low_b).lt_(-slack))


def _into(function: Callable[..., Tensor], a: Any, b: Any) -> Tensor:
    """A comparison as numbers 0 and 1; to turn truth values into numbers takes longer than to compare."""
    like = a if isinstance(a, Tensor) else b
    if not isinstance(a, Tensor):
        a, b, function = b, a, MIRRORED[function]
    return function(a, b, out=like.new_empty(0))


MIRRORED = {torch.gt: torch.lt, torch.lt: torch.gt, torch.ge: torch.le, torch.le: torch.ge}


def _ends(context: Context, v: Operand) -> tuple[Any, Any, float]:
    """Lower end, upper end and slack of a tensor or a number."""
    if isinstance(v, Interval):
        return v.lower.detach(), v.upper.detach(), v.slack
    value = number(context, v)
    return value, value, literal_error(context, value)


def truth_values(context: Context, *operands: Operand) -> list[Interval]:
    """Truth values of the operands: whether they are other than 0.

    Raises:
        InputError: the operator works on the bits of whole numbers.
    """
    kind = context.kind
    if context.operation is not None and context.operation.dtype is not torch.bool:
        raise InputError(f"{context.where} works on the bits of a number; only truth values have a rule")
    types = kind.operands if kind is not None else ()
    return [
        v if isinstance(v, Interval) and (place >= len(types) or types[place] is torch.bool) else nonzero(context, v)
        for place, v in enumerate(operands)
    ]


def nonzero(context: Context, v: Operand) -> Interval:
    """Whether a value is other than 0."""
    if not isinstance(v, Interval):
        return truth(context, number(context, v))
    v = v.settled(context.rounding.roundoff)
    apart, zero = (v.lower > 0) | (v.upper < 0), (v.lower == 0) & (v.upper == 0)
    return _truth(apart.to(v.lower.dtype), zero.to(v.lower.dtype))


@rule("aten.logical_and.default", "aten.bitwise_and.Tensor", "aten.__and__.Tensor", elementwise=True, types="whole")
def logical_and(context: Context, a: Interval, b: Interval) -> Interval:
    """Both."""
    a, b = truth_values(context, a, b)
    return Interval(torch.minimum(a.lower, b.lower), torch.minimum(a.upper, b.upper), bound=1.0, nonnegative=True)


@rule("aten.logical_or.default", "aten.bitwise_or.Tensor", "aten.__or__.Tensor", elementwise=True, types="whole")
def logical_or(context: Context, a: Interval, b: Interval) -> Interval:
    """Either."""
    return either(*truth_values(context, a, b))


@rule("aten.logical_not.default", "aten.bitwise_not.default", types="whole")
def logical_not(context: Context, a: Interval) -> Interval:
    """Neither."""
    (a,) = truth_values(context, a)
    lower = 1.0 - a.upper
    upper = lower if a.is_point else 1.0 - a.lower
    return replace(a, lower=lower, upper=upper, bound=1.0, nonnegative=True, owned=False)


@rule("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar", elementwise=True,
      types="whole")  # a list of operators  # fmt: skip
def where(context: Context, condition: Interval, a: Operand, b: Operand) -> Interval:
    """``a`` where the condition holds, else ``b``; both where it is open."""
    roundoff = context.rounding.roundoff
    a, b = (_as_interval(context, v, condition).settled(roundoff) for v in (a, b))
    must, never = condition.lower >= 1, condition.upper <= 0
    lower = torch.where(must, a.lower, torch.where(never, b.lower, torch.minimum(a.lower, b.lower)))
    if a.is_point and b.is_point and bool((must | never).all()):
        return Interval.point(lower, nonnegative=a.nonnegative and b.nonnegative)
    upper = torch.where(must, a.upper, torch.where(never, b.upper, torch.maximum(a.upper, b.upper)))
    return Interval(lower, upper, nonnegative=a.nonnegative and b.nonnegative)


@rule("aten.maximum.default", elementwise=True, slack=True, types="whole")
def maximum(context: Context, a: Interval, b: Interval) -> Interval:
    """The larger, exact."""
    lower = torch.maximum(a.lower, b.lower)
    upper = lower if a.is_point and b.is_point else torch.maximum(a.upper, b.upper)
    return Interval(lower, upper, max(a.slack, b.slack), nonnegative=a.nonnegative or b.nonnegative)


@rule("aten.minimum.default", elementwise=True, slack=True, types="whole")
def minimum(context: Context, a: Interval, b: Interval) -> Interval:
    """The smaller, exact."""
    lower = torch.minimum(a.lower, b.lower)
    upper = lower if a.is_point and b.is_point else torch.minimum(a.upper, b.upper)
    return Interval(lower, upper, max(a.slack, b.slack), nonnegative=a.nonnegative and b.nonnegative)


@rule("aten.fmax.default", elementwise=True, slack=True, types="whole")
def fmax(context: Context, a: Interval, b: Interval) -> Interval:
    """The larger; where one may be no number nothing is known, though torch returns the other there."""
    return replace(maximum(context, a, b), nonnegative=a.nonnegative and b.nonnegative)


@rule("aten.fmin.default", elementwise=True, slack=True, types="whole")
def fmin(context: Context, a: Interval, b: Interval) -> Interval:
    """The smaller; where one may be no number nothing is known, though torch returns the other there."""
    return minimum(context, a, b)


@rule("aten.clamp.Tensor", elementwise=True, slack=True, types="whole")
def clamp_between(context: Context, a: Interval, min: Interval | None = None, max: Interval | None = None) -> Interval:
    """Cut at bounds that are values; the upper one everywhere where the two are the wrong way round."""
    a = a if min is None else maximum(context, a, min)
    return a if max is None else minimum(context, a, max)


@rule("aten.sign.default", slack=True, types="whole")
def sign(context: Context, a: Interval) -> Interval:
    """-1, 0 or 1."""
    positive = _compare(context, a, 0.0, strict=True)
    return positive if a.nonnegative else sub(context, positive, _compare(context, _flip(a), 0.0, strict=True))


def _flip(a: Interval) -> Interval:
    lower = -a.upper
    return replace(a, lower=lower, upper=lower if a.is_point else -a.lower, nonnegative=False)
