"""Batch norm in evaluation mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from thetabox.errors import InputError
from thetabox.verify.context import Context
from thetabox.verify.graph import Layout
from thetabox.verify.interval import Interval
from thetabox.verify.parameter import Parameter
from thetabox.verify.rounding import SAFETY
from thetabox.verify.rules.arithmetic import add, mul, rsqrt, sub
from thetabox.verify.rules.table import rule

Operand = Interval | Parameter | None


@rule("aten.batch_norm.default", parameters=True, slack=True)
def batch_norm(
    context: Context,
    x: Interval,
    weight: Operand,
    bias: Operand,
    mean: Operand,
    variance: Operand,
    training: bool,
    momentum: float,
    eps: float,
    *cudnn: Any,
) -> Interval:
    r"""``(x - mean) / sqrt(variance + eps) * weight + bias``, each channel by its stored statistics."""
    if training or mean is None or variance is None:
        raise InputError(f"{context.where} uses the statistics of the batch; only evaluation mode has a rule")
    assert context.operation is not None
    layout = context.operation.layout
    layout = layout[0] if isinstance(layout, tuple) else layout
    assert isinstance(layout, Layout)
    if x.batch != 0:
        raise InputError(f"{context.where}: the first dimension of batch norm's input must be the samples'")
    rank = len(layout.shape)

    def channels(v: Operand) -> Interval | None:
        if v is None:
            return None
        v = context.interval(v) if isinstance(v, Parameter) else v
        v = v.map(lambda t: t.reshape(*t.shape, *[1] * (rank - 2)))
        return v if not v.by_row else context.aligned([v], layout)[0]

    own = context.rounding.own
    size = x.magnitude if context.rounding.network else 0.0  # x itself may be written over
    centre, spread, scale, shift = channels(mean), channels(variance), channels(weight), channels(bias)
    assert centre is not None
    assert spread is not None
    steepness = rsqrt(context, add(context, spread, eps).settled(own))
    # Settled, and measured anew, so that one channel's size does not become every channel's error.
    factor = replace(steepness.settled(own), bound=None)
    out = mul(context, *_matched(context, sub(context, *_matched(context, x, centre, layout)), factor, layout))
    out.bound = min(out.bound or 0.0, replace(out, bound=None, slack=0.0).magnitude)
    if scale is not None:
        out = mul(context, *_matched(context, out, scale, layout))
    if shift is not None:
        out = add(context, *_matched(context, out, shift, layout))
    if context.rounding.network:
        # An implementation may fold the statistics: x * (w s) + (b - mean w s), whose terms need not be small.
        terms = (size + centre.magnitude) * factor.magnitude * (scale.magnitude if scale is not None else 1.0)
        out.slack += 12 * context.rounding.network * (terms + (shift.magnitude if shift is not None else 0.0)) * SAFETY
    return out


@rule("aten._native_batch_norm_legit_no_training.default", parameters=True, slack=True)
def native_batch_norm(
    context: Context,
    x: Interval,
    weight: Operand,
    bias: Operand,
    mean: Operand,
    variance: Operand,
    momentum: float,
    eps: float,
) -> tuple[Interval, None, None]:
    """The form that an export in evaluation mode holds."""
    return batch_norm(context, x, weight, bias, mean, variance, False, momentum, eps), None, None


def _matched(context: Context, a: Interval, b: Interval, layout: Layout) -> list[Interval]:
    a = replace(a, batch=layout.batch, merged=layout.merged)
    return context.aligned([a, b], layout)
