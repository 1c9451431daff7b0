"""Batch norm in evaluation mode."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import SAFETY, Rounding
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.elementwise import add, mul, sub
from thetabox.verify.interpreter.rules.literals import literal_error
from thetabox.verify.interpreter.rules.powers import rsqrt
from thetabox.verify.interpreter.rules.table import rule
from thetabox.verify.network.graph import Layout

Operand = Interval | Parameter | None


@rule("aten.batch_norm.default", parameters=True, slack=True, honours=("cudnn_enabled",))
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
    cudnn: bool = False,
) -> Interval:
    r"""``(x - mean) / sqrt(variance + eps) * weight + bias``, each channel by its stored statistics."""
    if training or mean is None or variance is None:
        raise InputError(f"{context.where} uses the statistics of the batch; only evaluation mode has a rule")
    layout = context.layout
    if x.batch != 0:
        raise InputError(f"{context.where}: the first dimension of batch norm's input must be the samples'")
    rank = len(layout.shape)

    def channels(v: Operand) -> Interval | None:
        if v is None:
            return None
        v = context.interval(v) if isinstance(v, Parameter) else v
        v = v.moved(lambda t: t.reshape(*t.shape, *[1] * (rank - 2)))
        return v if not v.by_row else context.aligned([v], layout)[0]

    roundoff = context.rounding.roundoff
    network = context.rounding.network > 0.0
    size = size_of(x, roundoff) if network else None  # x itself may be written over
    centre, spread, scale, shift = channels(mean), channels(variance), channels(weight), channels(bias)
    assert centre is not None
    assert spread is not None
    # The real function first; what a float32 network makes of it depends on the order that it computes in.
    real = replace(context, rounding=Rounding(context.rounding.dtype)) if network else context
    shifted = add(real, spread, eps)
    if network:
        # The sum and eps itself may be rounded.
        shifted.slack += literal_error(context, eps)
    steepness = rsqrt(real, shifted.settled(roundoff))
    # Settled, and measured anew, so that one channel's size does not become every channel's error.
    factor = replace(steepness.settled(roundoff), bound=None)
    out = mul(real, *_matched(context, sub(real, *_matched(context, x, centre, layout)), factor, layout))
    out.bound = min(out.bound or 0.0, replace(out, bound=None, slack=0.0).magnitude)
    if scale is not None:
        out = mul(real, *_matched(context, out, scale, layout))
    if shift is not None:
        out = add(real, *_matched(context, out, shift, layout))
    if size is not None:
        rows = size if len(size) == len(out.lower) else torch.cat([size] * context.row_epsilon.per_sample)
        affine = [None if v is None else size_of(v, roundoff) for v in (scale, shift)]
        error = network_error(context.rounding, rows, size_of(centre, roundoff), size_of(factor, roundoff), *affine)
        out = widened(out, error, roundoff)
    return out


def network_error(
    rounding: Rounding,
    x: Tensor,
    mean: Tensor,
    factor: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
) -> Tensor:
    r"""What a float32 network adds to the real batch norm, in whichever order it computes; infinite where it overflows.

    ``(x - m) s w + b`` with its factors in any order, or the folded ``x (w s) + (b - m w s)``, whose terms need not be
    small. Every rounding errs relative to ``(|x| + |m|) |w| s + |b|``; every product that underflows is multiplied by
    at most one of the other factors.

    Args:
        rounding: of the network.
        x, mean, factor, scale, shift: absolute values, those of channels shaped to match; ``factor`` is
            :math:`1 / \sqrt{v + e}`.
    """
    times = torch.ones_like(factor) if scale is None else scale
    numerator, product = x + mean, times * factor
    terms = numerator * product if shift is None else numerator * product + shift
    error = 16.0 * rounding.network * terms + 4.0 * rounding.underflow * (2.0 + numerator + factor + times)
    largest = torch.stack(
        torch.broadcast_tensors(terms, product, numerator * factor, numerator * times, numerator)
    ).amax(0)
    fits = largest * 2.0 < rounding.overflow
    return torch.where(fits, error * (1.0 + 64.0 * rounding.roundoff), math.inf)


def size_of(v: Interval, roundoff: float) -> Tensor:
    """Absolute values of the ends, rounded up."""
    size = v.lower.abs() if v.is_point else torch.maximum(v.lower.abs(), v.upper.abs())
    return (size + v.slack) * (1.0 + 4.0 * roundoff)


def widened(out: Interval, error: Tensor, roundoff: float) -> Interval:
    """With an error of each number in its ends."""
    wide = error + out.slack
    wide = (wide + 4.0 * roundoff * (torch.maximum(out.lower.abs(), out.upper.abs()) + wide)) * SAFETY
    return replace(out, lower=out.lower - wide, upper=out.upper + wide, slack=0.0, bound=None, owned=False)


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
