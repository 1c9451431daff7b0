"""PReLU, whose slope is a parameter of the box."""

from __future__ import annotations

from dataclasses import replace

import torch

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.table import rule


@rule("aten.prelu.default", parameters=True, slack=True)
def prelu(context: Context, x: Interval | Parameter, weight: Interval | Parameter) -> Interval:
    """``a`` where positive, ``w a`` elsewhere, one slope for all channels or one each (He et al., ICCV 2015)."""
    layout = context.layout
    x, weight = (context.interval(v) if isinstance(v, Parameter) else v for v in (x, weight))
    if x.batch is None or weight.batch is not None:
        raise InputError(f"{context.where}: PReLU has a rule for values of samples and slopes that are parameters")
    slopes = weight.shape[-1] if weight.shape else 1
    after = max(len(layout.shape) - 2, 0) if slopes > 1 else 0
    if slopes > 1 and x.batch != 0:
        raise InputError(f"{context.where}: the first dimension of PReLU's input must be the samples'")
    weight = weight.moved(lambda t: t.reshape(*t.shape, *[1] * after))
    roundoff = context.rounding.roundoff
    x, weight = context.aligned([x, weight], layout)
    return _sloped(context, x.settled(roundoff), weight.settled(roundoff))


@rule("aten._prelu_kernel.default", elementwise=True)
def prelu_kernel(context: Context, x: Interval, weight: Interval) -> Interval:
    """PReLU with a slope that has the shape of the values."""
    return _sloped(context, x, weight)


def _sloped(context: Context, x: Interval, weight: Interval) -> Interval:
    """Of values and slopes that broadcast and have no slack."""
    rounding = context.rounding
    positive, negative = x.lower >= 0, x.upper <= 0
    low = x.lower.clamp(max=0.0)
    high = low if x.is_point else x.upper.clamp(max=0.0)
    corners = [
        w * v for w in ((weight.lower,) if weight.is_point else (weight.lower, weight.upper)) for v in (low, high)
    ]
    least = most = corners[0]
    for corner in corners[1:]:
        least, most = torch.minimum(least, corner), torch.maximum(most, corner)
    lower = torch.where(positive, x.lower, least)
    upper = torch.where(positive, x.upper, torch.where(negative, most, torch.maximum(most, x.upper)))
    size = x.magnitude * max(1.0, weight.magnitude)
    out = Interval(lower, upper, nonnegative=x.nonnegative)
    if x.is_point and weight.is_point:
        out = replace(out, upper=out.lower)
    out.slack = rounding.of_operation(2) * x.magnitude * weight.magnitude + rounding.subnormal + rounding.beyond(size)
    return out
