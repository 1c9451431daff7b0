"""Activations: increasing functions end by end, the two with a dip by its known minimum.

torch documents at most a few units in the last place for these functions (vectorised by SLEEF, 1 ulp); eight are
allowed for in the bounds, and eight of its own for a network in binary32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.context import Context
from thetabox.verify.interval import Interval
from thetabox.verify.rounding import SAFETY
from thetabox.verify.rules.arithmetic import literal
from thetabox.verify.rules.table import rule

Number = int | float
ULPS = 8
# Up to here the slack of an exponent may stay slack.
SMALL = 1e-6


@rule("aten.relu.default", "aten.relu_.default", slack=True)
def relu(context: Context, a: Interval) -> Interval:
    """``max(a, 0)``."""
    if a.nonnegative and a.slack == 0.0:
        return a
    out = a.fresh(lambda t, spare: torch.relu(t) if spare is None else torch.relu_(t))
    out.nonnegative = True
    return out


@rule("aten.leaky_relu.default", slack=True)
def leaky_relu(context: Context, a: Interval, negative_slope: Number = 0.01) -> Interval:
    """``a`` where positive, ``slope a`` elsewhere."""
    slope = float(negative_slope)
    if slope < 0:
        raise InputError(f"{context.where}: a leaky ReLU with a negative slope has no rule")
    out = a.map(lambda t: F.leaky_relu(t, slope))
    magnitude = a.magnitude * max(1.0, slope)
    tiny = context.rounding.subnormal * (1.0 + a.magnitude)
    out.slack = (a.slack * max(1.0, slope) + context.rounding.of_operation(2) * magnitude + tiny) * SAFETY
    out.slack += context.rounding.beyond(magnitude)
    out.bound = None if a.bound is None else a.bound * max(1.0, slope)
    return out


@rule("aten.hardtanh.default", "aten.clamp.default", slack=True)
def clamp(context: Context, a: Interval, low: Number | None = None, high: Number | None = None) -> Interval:
    """``min(max(a, low), high)``."""
    if context.operation is not None and context.operation.operator == "aten.hardtanh.default":
        low, high = (-1.0 if low is None else low), (1.0 if high is None else high)
    out = a.fresh(lambda t, spare: torch.clamp(t, low, high, out=spare))
    for end in (low, high):
        # Which of the two holds an entry is not known, so the literal's rounding adds to the slack.
        if end is not None and math.isfinite(end):
            out.slack += literal(context, float(end), (), a.lower.device).slack
    out.nonnegative = (low is not None and low >= 0) or (a.nonnegative and (high is None or high >= 0))
    out.bound = None
    return out


@rule("aten.clamp_min.default", slack=True)
def clamp_min(context: Context, a: Interval, low: Number) -> Interval:
    """``max(a, low)``."""
    return clamp(context, a, low, None)


@rule("aten.clamp_max.default", slack=True)
def clamp_max(context: Context, a: Interval, high: Number) -> Interval:
    """``min(a, high)``."""
    return clamp(context, a, None, high)


@rule("aten.relu6.default", slack=True)
def relu6(context: Context, a: Interval) -> Interval:
    """``min(max(a, 0), 6)``."""
    return clamp(context, a, 0.0, 6.0)


@rule("aten.abs.default", slack=True)
def absolute(context: Context, a: Interval) -> Interval:
    """``|a|``."""
    if a.nonnegative:
        return a
    if a.is_point:
        return replace(a.map(torch.abs), nonnegative=True)
    low = torch.maximum(torch.relu(a.lower), torch.relu(-a.upper))
    return replace(a, lower=low, upper=torch.maximum(a.lower.abs(), a.upper.abs()), nonnegative=True)


def _increasing(
    context: Context,
    a: Interval,
    function: Callable[[Tensor], Tensor],
    steepness: float,
    *,
    nonnegative: bool = False,
    ulps: int = ULPS,
) -> Interval:
    """An increasing function with a bounded derivative."""
    out = replace(a.map(function), nonnegative=nonnegative, bound=None, slack=0.0)
    out.slack = (
        a.slack * steepness + context.rounding.of_operation(ulps) * out.magnitude + 8 * context.rounding.subnormal
    ) * SAFETY
    return out


@rule("aten.sigmoid.default", slack=True)
def sigmoid(context: Context, a: Interval) -> Interval:
    """``1 / (1 + exp(-a))``."""
    return _increasing(context, a, torch.sigmoid, 0.25, nonnegative=True)


@rule("aten.tanh.default", slack=True)
def tanh(context: Context, a: Interval) -> Interval:
    """Hyperbolic tangent."""
    return replace(_increasing(context, a, torch.tanh, 1.0), nonnegative=a.nonnegative)


@rule("aten.exp.default", slack=True)
def exp(context: Context, a: Interval) -> Interval:
    """Exponential; a small slack stays one, times the largest result."""
    if a.slack > SMALL:
        a = a.settled(context.rounding.own)
    slack, a = a.slack, replace(a, slack=0.0)
    out = _increasing(context, a, torch.exp, 0.0, nonnegative=True)
    # exp(s) - 1 <= s (1 + s) for s below 1.
    out.slack = (out.slack + slack * (1.0 + slack) * out.magnitude) * SAFETY
    return out


@rule("aten.log1p.default")
def log1p(context: Context, a: Interval) -> Interval:
    """``log(1 + a)`` of a nonnegative argument."""
    if not a.nonnegative:
        raise InputError(f"{context.where}: log1p has a rule for nonnegative arguments only")
    return _increasing(context, a.map(lambda t: t.clamp(min=0.0)), torch.log1p, 1.0, nonnegative=True)


@rule("aten.softplus.default", slack=True)
def softplus(context: Context, a: Interval, beta: Number = 1, threshold: Number = 20) -> Interval:
    """``log(1 + exp(beta a)) / beta``; torch returns ``a`` above the threshold, which the slack covers."""
    if not beta > 0:
        raise InputError(f"{context.where}: softplus has a rule for beta above 0, not {beta}")
    # The rounding of beta a is magnified by exp; beyond 750 the result is 0 or a itself.
    ulps = 2 * ULPS + (0 if beta == 1 else 4 * math.ceil(min(a.magnitude * float(beta), 750.0)))
    out = _increasing(context, a, lambda t: F.softplus(t, beta, threshold), 1.0, nonnegative=True, ulps=ulps)
    out.slack += math.exp(-float(threshold)) / float(beta) * 1.01
    return out


@rule("aten.elu.default", slack=True)
def elu(context: Context, a: Interval, alpha: Number = 1, scale: Number = 1, input_scale: Number = 1) -> Interval:
    """``a`` where positive, ``alpha (exp(a) - 1)`` elsewhere."""
    if not (alpha >= 0 and scale > 0 and input_scale == 1):
        raise InputError(f"{context.where}: elu has a rule for alpha >= 0 and no input scale")
    out = _increasing(context, a, lambda t: F.elu(t, float(alpha)) * scale, max(1.0, float(alpha)) * scale)
    out.slack += context.rounding.of_operation(ULPS) * float(alpha) * scale
    return out


@rule("aten.selu.default", slack=True)
def selu(context: Context, a: Interval) -> Interval:
    """ELU of fixed constants (Klambauer et al., NeurIPS 2017)."""
    return elu(context, a, 1.6732632423543772, 1.0507009873554805)


def _dipped(
    context: Context,
    a: Interval,
    function: Callable[[Tensor], Tensor],
    place: float,
    least: float,
    error: float,
) -> Interval:
    """A function that falls to ``least`` at ``place`` and rises from there; its derivative is below 1.2."""
    low, high = function(a.lower), None
    if a.is_point:
        out = Interval.point(low)
    else:
        high = function(a.upper)
        through = (a.lower < place + 1e-5) & (a.upper > place - 1e-5)
        out = Interval(torch.where(through, least, torch.minimum(low, high)), torch.maximum(low, high))
    rounding = context.rounding
    scale = out.magnitude + error
    out.slack = (1.2 * a.slack + rounding.of_operation(2 * ULPS) * scale + 8 * rounding.subnormal) * SAFETY
    return replace(out, batch=a.batch, merged=a.merged)


@rule("aten.gelu.default", slack=True)
def gelu(context: Context, a: Interval, *, approximate: str = "none") -> Interval:
    """``a Φ(a)`` or its tanh form; least about -0.17 at -0.75 (Hendrycks and Gimpel, arXiv 1606.08415)."""
    place, least = (-0.7524614, -0.1700408) if approximate == "tanh" else (-0.7517916, -0.1699713)
    # 1 + erf cancels in the negative tail, where the result is below 1 in size.
    return _dipped(
        context, a, lambda t: F.gelu(t, approximate=approximate), place, least - 1e-6, min(a.magnitude, 40.0)
    )


@rule("aten.silu.default", slack=True)
def silu(context: Context, a: Interval) -> Interval:
    """``a sigmoid(a)``; least about -0.2785 at -1.2785."""
    return _dipped(context, a, F.silu, -1.2784645, -0.2784645428 - 1e-9, 0.0)


@rule("aten.hardsigmoid.default", slack=True)
def hardsigmoid(context: Context, a: Interval) -> Interval:
    """``clamp(a / 6 + 1/2, 0, 1)``."""
    return _increasing(context, a, F.hardsigmoid, 1.0, nonnegative=True)
