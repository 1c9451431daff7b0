"""Functions of one value beside the activations: increasing, with a dip, or periodic.

As in :mod:`~thetabox.verify.interpreter.rules.monotone`, eight units in the last place are allowed for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.overflow import nowhere_infinite
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.activation import elu
from thetabox.verify.interpreter.rules.literals import Number, coefficient_of, literal_error
from thetabox.verify.interpreter.rules.monotone import ULPS, dipped, increasing, rounded
from thetabox.verify.interpreter.rules.table import rule

# Where a library's sine may no longer know its argument modulo a period to the last digits.
FAR = 1e4
# More than the rounding of a quotient by 2 pi below FAR, in periods.
NEAR_CREST = 1e-9


@rule("aten.hardswish.default", slack=True)
def hardswish(context: Context, a: Interval) -> Interval:
    """``a clamp(a + 3, 0, 6) / 6``; least -3/8 at -3/2, steepest 3/2 at 3 (Howard et al., ICCV 2019)."""
    # A network rounds a + 3, and a multiplies its error: by |a||a + 3|u / 6 <= 3u, where the clamp does not hold.
    return dipped(context, a, F.hardswish, -1.5, -0.375 - 1e-9, 1.0, steepness=1.5, grown=6.0)


@rule("aten.mish.default", slack=True)
def mish(context: Context, a: Interval) -> Interval:
    """``a tanh(log(1 + exp(a)))``; least about -0.3088 at -1.1924 (Misra, BMVC 2020)."""
    return dipped(context, a, F.mish, -1.1924312, -0.3088402 - 1e-6, 0.0, ulps=4 * ULPS)


@rule("aten.atan.default", slack=True)
def atan(context: Context, a: Interval) -> Interval:
    """Arc tangent."""
    return replace(increasing(context, a, torch.atan, 1.0), nonnegative=a.nonnegative)


@rule("aten.erf.default", slack=True)
def erf(context: Context, a: Interval) -> Interval:
    """The error function."""
    return replace(increasing(context, a, torch.erf, 1.13), nonnegative=a.nonnegative)


@rule("aten.log_sigmoid.default", slack=True)
def log_sigmoid(context: Context, a: Interval) -> Interval:
    """``-log(1 + exp(-a))``."""
    return increasing(context, a, F.logsigmoid, 1.0)


@rule("aten.log_sigmoid_forward.default", slack=True)
def log_sigmoid_forward(context: Context, a: Interval) -> tuple[Interval, None]:
    """The form of a decomposed export."""
    return log_sigmoid(context, a), None


@rule("aten.logit.default")
def logit(context: Context, a: Interval, eps: Number | None = None) -> Interval:
    """``log(p / (1 - p))`` of ``p`` cut off to lie between eps and 1 - eps; nothing is known outside of 0 to 1.

    A quotient that is off by some units in the last place makes its logarithm off by as many roundoffs, whatever its
    size: ``1 - p`` is exact from 1/2 on (Sterbenz), and off by one roundoff below.

    Raises:
        InputError: float32 does not hold eps and 1 - eps, which a network would cut off elsewhere.
    """
    low = 0.0 if eps is None or eps < 0.0 else float(eps)
    if context.rounding.network and not all(float(np.float32(end)) == end for end in (low, 1.0 - low)):
        raise InputError(f"{context.where} cuts off at {low:g}, which float32 does not hold; use arithmetic='real'")
    outside = (a.lower < 0.0) | (a.upper > 1.0) if eps is None or eps < 0.0 else torch.zeros_like(a.lower).bool()
    ends = [torch.logit(t.clamp(low, 1.0 - low)) for t in (a.lower, a.upper)]
    size = torch.stack([end.abs() for end in ends]).amax(0)
    rounding_error = context.rounding.of_operation(ULPS) * (size + 1.0) + context.rounding.flushed
    nothing = outside | rounding_error.isinf() | rounding_error.isnan()
    lower, upper = ends[0] - rounding_error, ends[1] + rounding_error
    # The result may be no number, which nothing behind it makes one.
    lower, upper = lower.masked_fill(nothing, torch.nan), upper.masked_fill(nothing, torch.nan)
    return replace(a, lower=lower, upper=upper, slack=0.0, bound=None, nonnegative=False, owned=False)


@rule("aten.log.default")
def log(context: Context, a: Interval) -> Interval:
    """The natural logarithm; nothing is known where the argument may be 0 or below."""
    inside = a.lower > 0
    if a.is_point:
        end = torch.where(inside, a.lower, torch.nan).log()
        out = Interval(end, end)
    else:
        lower, upper = (torch.where(inside, t, torch.nan).log() for t in (a.lower, a.upper))
        out = Interval(lower, upper)
    out = rounded(context, replace(out, batch=a.batch, merged=a.merged), 0.0)
    return nowhere_infinite(out)


@rule("aten.celu.default", slack=True)
def celu(context: Context, a: Interval, alpha: Number = 1.0) -> Interval:
    """``a`` where positive, ``alpha (exp(a / alpha) - 1)`` elsewhere (Barron, arXiv 1704.07483)."""
    alpha = coefficient_of(context, alpha)
    out = elu(context, a, alpha, 1.0, 1.0 / alpha)
    # 1 / alpha is rounded.
    out.slack += context.rounding.of_operation(4) * abs(alpha) + literal_error(context, 1.0 / alpha) * alpha * alpha
    return out


@rule("aten.sin.default", slack=True)
def sin(context: Context, a: Interval) -> Interval:
    """Sine; where a crest or a trough may lie inside, 1 or -1."""
    return _periodic(context, a, torch.sin, 0.25)


@rule("aten.cos.default", slack=True)
def cos(context: Context, a: Interval) -> Interval:
    """Cosine; where a crest or a trough may lie inside, 1 or -1."""
    return _periodic(context, a, torch.cos, 0.0)


def _periodic(context: Context, a: Interval, function: Callable[[Tensor], Tensor], crest: float) -> Interval:
    """A wave of height 1 with a crest every period, first at ``crest`` periods; its derivative is at most 1."""
    first = function(a.lower)
    second = first if a.is_point else function(a.upper)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    slack = (a.slack + context.rounding.of_operation(2 * ULPS) + context.rounding.flushed) * (1.0 + 1e-12)
    far = (a.lower.abs() > FAR) | (a.upper.abs() > FAR)
    if not a.is_point:
        start, stop = (t.detach().double() / (2 * math.pi) - crest for t in (a.lower, a.upper))
        tops = torch.floor(stop + NEAR_CREST) >= torch.ceil(start - NEAR_CREST)
        bottoms = torch.floor(stop + 0.5 + NEAR_CREST) >= torch.ceil(start + 0.5 - NEAR_CREST)
        low, high = low.masked_fill(bottoms | far, -1.0), high.masked_fill(tops | far, 1.0)
    elif bool(far.any()):
        low, high = low.masked_fill(far, -1.0), high.masked_fill(far, 1.0)
    gone = a.lower.isnan() | a.upper.isnan() | a.lower.isinf() | a.upper.isinf()
    low, high = low.masked_fill(gone, torch.nan), high.masked_fill(gone, torch.nan)
    if a.is_point and torch.equal(low, high):
        high = low
    return Interval(low, high, slack)
