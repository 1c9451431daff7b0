"""Activations: increasing functions end by end, those of two pieces also at the kink, the two with a dip at its least.

torch documents at most a few units in the last place for these functions (vectorised by SLEEF, 1 ulp); eight are
allowed for in the bounds, and eight of its own for a network in binary32. Where the result is below the normal numbers,
or something on the way to it (the ``exp(-a)`` of a sigmoid) above the largest, torch may return 0.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.elementwise import neg
from thetabox.verify.interpreter.rules.literals import Number, coefficient_of, literal_error
from thetabox.verify.interpreter.rules.monotone import (
    ULPS,
    dipped,
    increasing,
    of_each_number,
    rounded,
    two_parts,
    within_range,
)
from thetabox.verify.interpreter.rules.table import rule

# Up to here the slack of an exponent may stay slack.
SMALL = 1e-6
# Beyond this size of an exponent in float64, and before it in float32, exp returns 0 or overflows.
EXPONENT = 750.0


@rule("aten.relu.default", "aten.relu_.default", slack=True, types="whole")
def relu(context: Context, a: Interval) -> Interval:
    """``max(a, 0)``."""
    if a.nonnegative and a.slack == 0.0:
        return a
    out = a.fresh(lambda t, spare: torch.relu(t) if spare is None else torch.relu_(t))
    out.bound, out.nonnegative = a.bound, True
    return out


@rule("aten.leaky_relu.default", slack=True)
def leaky_relu(context: Context, a: Interval, negative_slope: Number = 0.01) -> Interval:
    """``a`` where positive, ``slope a`` elsewhere."""
    slope = coefficient_of(context, negative_slope)
    steepness = max(1.0, abs(slope))
    out = two_parts(a, lambda t: F.leaky_relu(t, slope), increasing=slope >= 0)
    magnitude = a.magnitude * steepness
    tiny = context.rounding.subnormal + literal_error(context, slope) * a.magnitude
    out.slack = (a.slack * steepness + context.rounding.of_operation(2) * magnitude + tiny) * SAFETY
    out.slack += context.rounding.beyond(magnitude)
    out.bound = None if a.bound is None else a.bound * steepness
    return out


@rule("aten.hardtanh.default", "aten.clamp.default", slack=True, types="whole")
def clamp(context: Context, a: Interval, low: Number | None = None, high: Number | None = None) -> Interval:
    """``min(max(a, low), high)``; ``high`` everywhere where the two are the wrong way round."""
    if context.operation is not None and context.operation.operator == "aten.hardtanh.default":
        low, high = (-1.0 if low is None else low), (1.0 if high is None else high)
    if low is not None and high is not None and low > high:
        low = high
    out = a.fresh(lambda t, spare: torch.clamp(t, low, high, out=spare))
    for end in (low, high):
        # Which of the two holds an entry is not known, so the literal's rounding adds to the slack.
        if end is not None and math.isfinite(end):
            out.slack += literal_error(context, float(end))
    out.nonnegative = (low is not None and low >= 0) or (a.nonnegative and (high is None or high >= 0))
    return out


@rule("aten.clamp_min.default", slack=True, types="whole")
def clamp_min(context: Context, a: Interval, low: Number) -> Interval:
    """``max(a, low)``."""
    return clamp(context, a, low, None)


@rule("aten.clamp_max.default", slack=True, types="whole")
def clamp_max(context: Context, a: Interval, high: Number) -> Interval:
    """``min(a, high)``."""
    return clamp(context, a, None, high)


@rule("aten.relu6.default", slack=True, types="whole")
def relu6(context: Context, a: Interval) -> Interval:
    """``min(max(a, 0), 6)``."""
    return clamp(context, a, 0.0, 6.0)


@rule("aten.abs.default", slack=True, types="whole")
def absolute(context: Context, a: Interval) -> Interval:
    """``|a|``."""
    if a.nonnegative:
        return a
    if a.is_point:
        return replace(a.moved(torch.abs), nonnegative=True)
    low = torch.maximum(torch.relu(a.lower), torch.relu(-a.upper))
    return replace(a, lower=low, upper=torch.maximum(a.lower.abs(), a.upper.abs()), nonnegative=True)


@rule("aten.sigmoid.default", slack=True)
def sigmoid(context: Context, a: Interval) -> Interval:
    """``1 / (1 + exp(-a))``."""
    return increasing(context, a, torch.sigmoid, 0.25, nonnegative=True)


@rule("aten.tanh.default", slack=True)
def tanh(context: Context, a: Interval) -> Interval:
    """Hyperbolic tangent."""
    return replace(increasing(context, a, torch.tanh, 1.0), nonnegative=a.nonnegative)


@rule("aten.exp.default", slack=True)
def exp(context: Context, a: Interval) -> Interval:
    """Exponential; a small slack of what belongs to no sample stays one, times the largest result."""
    if a.slack > SMALL:
        a = a.settled(context.rounding.roundoff)
    # exp(s) - 1 <= s (1 + s) for s below 1.
    out = replace(a.map(torch.exp), nonnegative=True, slack=0.0)
    return of_each_number(context, out, a.slack * (1.0 + a.slack))


@rule("aten.log1p.default")
def log1p(context: Context, a: Interval) -> Interval:
    """``log(1 + a)`` of a nonnegative argument."""
    if not a.nonnegative:
        raise InputError(f"{context.where}: log1p has a rule for nonnegative arguments only")
    return increasing(context, a.map(lambda t: t.clamp(min=0.0)), torch.log1p, 1.0, nonnegative=True)


@rule("aten.softplus.default")
def softplus(context: Context, a: Interval, beta: Number = 1, threshold: Number = 20) -> Interval:
    r"""``log(1 + exp(beta a)) / beta``, and ``a`` itself where ``beta a`` is above the threshold, as torch does.

    Of a negative beta it is that of ``-beta``, turned round: :math:`-\log(1 + e^{-|\beta| a}) / |\beta|`.
    """
    beta, threshold = coefficient_of(context, beta), coefficient_of(context, threshold)
    if beta == 0.0 or literal_error(context, beta) > SMALL * abs(beta):
        raise InputError(f"{context.where}: softplus has no rule for beta {beta}; it is 0 or beyond what float32 holds")
    if beta < 0.0:
        return neg(context, softplus(context, neg(context, a), -beta, threshold))
    rounding = context.rounding
    # On which side of the threshold beta a lies is computed too: beta, threshold and their product are rounded.
    error = (rounding.of_operation(ULPS) + 2.0 * literal_error(context, beta) / beta) * abs(threshold)
    error += literal_error(context, threshold) + rounding.subnormal
    kink, kink_error = threshold / beta, (error / beta) * SAFETY
    if not math.isfinite(kink + kink_error):
        raise InputError(f"{context.where}: softplus has no rule for threshold {threshold} with beta {beta}")

    def curve(t: Tensor) -> Tensor:
        return t.clamp(min=0.0) + torch.log1p(torch.exp(-(t * beta).abs())) / beta

    curved, straight = a.lower <= kink + kink_error, a.upper > kink - kink_error
    end = a.upper.clamp(max=kink + kink_error)
    low, high = curve(a.lower), curve(end)
    if bool(straight.any()):
        start = a.lower.clamp(min=kink - kink_error)
        low = torch.where(straight, torch.where(curved, torch.minimum(low, start), start), low)
        high = torch.where(straight, torch.where(curved, torch.maximum(high, a.upper), a.upper), high)
    if rounding.network:
        # exp(beta a) overflows before the threshold is reached.
        lost = curved & (end > math.log(rounding.largest) * (1.0 - SMALL) / beta)
        low, high = low.masked_fill(lost, -torch.inf), high.masked_fill(lost, torch.inf)
    gone = a.lower.isnan() | a.upper.isnan()
    low, high = low.masked_fill(gone, torch.nan), high.masked_fill(gone, torch.nan)
    out = Interval(low, low if a.is_point and torch.equal(low, high) else high, nonnegative=threshold >= 0.0)
    # The rounding of beta a is magnified by exp.
    ulps = 2 * ULPS + (0 if beta == 1 else 4 * math.ceil(min(a.magnitude * beta, EXPONENT)))
    return rounded(context, replace(out, batch=a.batch, merged=a.merged), rounding.flushed / beta, ulps)


@rule("aten.elu.default", slack=True)
def elu(context: Context, a: Interval, alpha: Number = 1, scale: Number = 1, input_scale: Number = 1) -> Interval:
    """``scale a`` where positive, ``scale alpha (exp(input_scale a) - 1)`` elsewhere."""
    alpha, scale, inner = (coefficient_of(context, v) for v in (alpha, scale, input_scale))
    outer, rounding = alpha * scale, context.rounding
    growing = inner < 0.0  # the exponential, with no bound of its derivative
    if growing:
        a = a.settled(rounding.roundoff)

    def function(t: Tensor) -> Tensor:
        return torch.where(t <= 0, torch.expm1(t.clamp(max=0.0) * inner) * outer, t * scale)

    out = two_parts(a, function, increasing=scale >= 0 and outer * inner >= 0)
    gain = max(1.0, 1.0 / abs(outer)) if growing and outer else 1.0
    out = within_range(context, replace(out, bound=None, slack=0.0), gain)
    most = 1.0 if not growing else 1.0 + (out.magnitude / abs(outer) if outer else math.inf)  # of the exponential
    # exp(x) - 1 may be computed as it is written, and outer as the product of two rounded numbers.
    held = literal_error(context, alpha) * abs(scale) + literal_error(context, scale) * abs(alpha)
    held = (held * (1.0 + SMALL) + literal_error(context, outer) + rounding.subnormal) * most
    error = rounding.of_operation(ULPS) * abs(outer) + held + rounding.flushed * abs(outer)
    error += literal_error(context, scale) * a.magnitude
    off = literal_error(context, inner) / abs(inner) if inner else 0.0
    if off < SMALL:
        error += off * (EXPONENT if growing else 1.0) * most * abs(outer)
    else:  # anything from 0 to -1
        error += math.inf if growing else abs(outer)
    ulps = 2 * ULPS + (4 * math.ceil(min(a.magnitude * abs(inner), EXPONENT)) if growing else 0)
    slack = a.slack * max(abs(scale), abs(outer * inner))
    out = rounded(context, out, (slack + error) * SAFETY, ulps, gain)
    out.slack += rounding.beyond(abs(alpha), abs(scale), abs(outer), abs(inner))
    return out


@rule("aten.selu.default", slack=True)
def selu(context: Context, a: Interval) -> Interval:
    """ELU of fixed constants (Klambauer et al., NeurIPS 2017)."""
    return elu(context, a, 1.6732632423543772, 1.0507009873554805)


@rule("aten.gelu.default", slack=True)
def gelu(context: Context, a: Interval, *, approximate: str = "none") -> Interval:
    """``a Φ(a)`` or its tanh form; least about -0.17 at -0.75 (Hendrycks and Gimpel, arXiv 1606.08415)."""
    place, least = (-0.7524614, -0.1700408) if approximate == "tanh" else (-0.7517916, -0.1699713)
    # 1 + erf cancels in the negative tail, where the result is below 1 in size.
    return dipped(context, a, lambda t: F.gelu(t, approximate=approximate), place, least - 1e-6, min(a.magnitude, 40.0))


@rule("aten.silu.default", slack=True)
def silu(context: Context, a: Interval) -> Interval:
    """``a sigmoid(a)``; least about -0.2785 at -1.2785."""
    return dipped(context, a, F.silu, -1.2784645, -0.2784645428 - 1e-9, 0.0)


@rule("aten.hardsigmoid.default", slack=True)
def hardsigmoid(context: Context, a: Interval) -> Interval:
    """``clamp(a / 6 + 1/2, 0, 1)``."""
    return increasing(context, a, F.hardsigmoid, 1.0, nonnegative=True)
