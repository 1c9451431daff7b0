"""Layer, group, instance and root-mean-square norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.elementwise import add, mul
from thetabox.verify.interpreter.rules.norm_bounds import Sizes, grouped, grouped_with_sizes
from thetabox.verify.interpreter.rules.normalise import batch_norm, size_of, widened
from thetabox.verify.interpreter.rules.table import rule

Operand = Interval | Parameter | None


@rule("aten.layer_norm.default", parameters=True, slack=True, honours=("cudnn_enable",))
def layer_norm(
    context: Context,
    x: Interval | Parameter,
    shape: Sequence[int],
    weight: Operand = None,
    bias: Operand = None,
    eps: float = 1e-5,
) -> Interval:
    """``(x - mean) / sqrt(variance + eps) * weight + bias`` over the last dimensions (Ba et al., arXiv 1607.06450)."""
    x = _value(context, x)
    first = x.lower.dim() - len(shape)
    if x.batch is not None and x.batch >= first:
        raise InputError(f"{context.where} mixes samples")
    return _affine(context, grouped(context, x, (eps, eps), first), weight, bias, 0)


@rule("aten.native_layer_norm.default", parameters=True, slack=True)
def native_layer_norm(
    context: Context, x: Interval | Parameter, shape: Sequence[int], weight: Operand, bias: Operand, eps: float
) -> tuple[Interval, None, None]:
    """The form of a decomposed export."""
    return layer_norm(context, x, shape, weight, bias, eps), None, None


@rule("aten.group_norm.default", parameters=True, slack=True, honours=("cudnn_enabled",))
def group_norm(
    context: Context,
    x: Interval | Parameter,
    groups: int,
    weight: Operand = None,
    bias: Operand = None,
    eps: float = 1e-5,
) -> Interval:
    """``(x - mean) / sqrt(variance + eps) * weight + bias`` over groups of channels (Wu and He, ECCV 2018)."""
    x = _samples_first(context, x)
    shape = x.shape
    apart = x.moved(lambda t: t.reshape(t.shape[0], groups, -1))
    out, sizes = grouped_with_sizes(context, apart, (eps, eps), 2)

    def together(v: Interval) -> Interval:
        return replace(v.moved(lambda t: t.reshape(shape)), batch=0, merged=x.merged)

    sizes = None if sizes is None else Sizes(*map(together, sizes))
    return _affine(context, together(out), weight, bias, len(shape) - 2, sizes)


@rule("aten.native_group_norm.default", parameters=True, slack=True, honours=("N", "C", "HxW"))
def native_group_norm(
    context: Context,
    x: Interval | Parameter,
    weight: Operand,
    bias: Operand,
    samples: Any,
    channels: Any,
    positions: Any,
    groups: int,
    eps: float,
) -> tuple[Interval, None, None]:
    """The form of a decomposed export."""
    return group_norm(context, x, groups, weight, bias, eps), None, None


@rule("aten.instance_norm.default", parameters=True, slack=True, honours=("momentum", "cudnn_enabled"))
def instance_norm(
    context: Context,
    x: Interval | Parameter,
    weight: Operand,
    bias: Operand,
    mean: Operand,
    variance: Operand,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = False,
) -> Interval:
    """Each channel of a sample by its own statistics, or by stored ones (Ulyanov et al., arXiv 1607.08022)."""
    if not use_input_stats:
        return batch_norm(context, _value(context, x), weight, bias, mean, variance, False, momentum, eps)
    if mean is not None or variance is not None:
        raise InputError(f"{context.where} writes to its statistics; only evaluation mode has a rule")
    x = _samples_first(context, x)
    return group_norm(context, x, x.shape[1], weight, bias, eps)


@rule("aten.rms_norm.default", parameters=True, slack=True)
def rms_norm(
    context: Context, x: Interval | Parameter, shape: Sequence[int], weight: Operand = None, eps: float | None = None
) -> Interval:
    """``x / sqrt(mean(x ** 2) + eps) * weight`` over the last dimensions (Zhang and Sennrich, NeurIPS 2019)."""
    x = _value(context, x)
    first = x.lower.dim() - len(shape)
    if x.batch is not None and x.batch >= first:
        raise InputError(f"{context.where} mixes samples")
    least = greatest = eps
    if least is None or greatest is None:
        # The distance of 1 to the next number of the type: whichever the network runs in.
        kind = None if context.kind is None else context.kind.result
        least, greatest = torch.finfo(torch.float64).eps, torch.finfo(kind or torch.float32).eps
    out = grouped(context, x, (least, greatest), first, centred=False)
    return _affine(context, out, weight, None, 0)


def _affine(
    context: Context, out: Interval, weight: Operand, bias: Operand, after: int, sizes: Sizes | None = None
) -> Interval:
    """``out * weight + bias``, parameters with ``after`` dimensions behind the channels.

    With ``sizes`` for a network that multiplies the weight by the norm's own factor first, as torch's group norm does.
    """
    layout = context.layout

    def aligned(v: Interval | Parameter, *beside: Interval) -> list[Interval]:
        v = context.interval(v) if isinstance(v, Parameter) else v
        v = v.moved(lambda t: t.reshape(*t.shape, *[1] * after))
        held = [replace(o, batch=layout.batch, merged=layout.merged) for o in (out, *beside)]
        return context.aligned([*held, v], layout)

    lost = 0.0
    if weight is not None:
        left, *beside, right = aligned(weight, *(sizes or ()))
        shift = None if bias is None else aligned(bias)[-1]
        network = None if sizes is None else _factor_first(context, Sizes(*beside), right, shift)
        out = mul(context, left, right)
        if network is not None:
            out = widened(out, network, context.rounding.roundoff)
        # A network may multiply the mean by the weight before it subtracts it.
        lost = context.rounding.of_operation(4) * out.magnitude + context.rounding.subnormal
    if bias is not None:
        left, right = aligned(bias)
        lost += context.rounding.of_operation(4) * right.magnitude
        out = add(context, left, right)
    out.slack += lost
    return out


def _factor_first(context: Context, sizes: Sizes, weight: Interval, bias: Interval | None) -> Tensor:
    """What ``weight * steep`` may lose by underflow, and what overflows, before it is multiplied by the numbers."""
    rounding, (steep, numerator) = context.rounding, sizes
    product = size_of(weight, rounding.roundoff) * steep.upper
    terms = product * numerator.upper
    if bias is not None:
        terms = terms + size_of(bias, rounding.roundoff)
    fits = torch.maximum(product, terms) * 2.0 < rounding.overflow
    return torch.where(fits, 4.0 * rounding.underflow * (2.0 + numerator.upper), torch.inf)


def _value(context: Context, x: Interval | Parameter) -> Interval:
    return context.interval(x) if isinstance(x, Parameter) else x


def _samples_first(context: Context, x: Interval | Parameter) -> Interval:
    x = _value(context, x)
    if x.batch != 0 or x.by_row:
        raise InputError(f"{context.where}: the first dimension of its input must be the samples'")
    return x
