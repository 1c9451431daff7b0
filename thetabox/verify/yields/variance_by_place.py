r"""Variance where each entry of a parameter multiplies single values, or is added to them: norms, scales, shifts.

Of :math:`z = w m + b` with a multiplicand m that knows nothing of w and b: the entry :math:`w_q` meets :math:`\sum_p
A_p m_p` over the places p at which it stands.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.walk import evaluate
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.rules import normalise
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop, Walk, flat
from thetabox.verify.network.graph import Operation, Ref
from thetabox.verify.yields.variance import Variance, both_ends, centred, middle_of, rounded_up

BATCH_NORMS = ("aten._native_batch_norm_legit_no_training.default", "aten.batch_norm.default")
# Norms of a sample by itself, and where they hold weight and bias.
NORMS = {
    "aten.layer_norm.default": (2, 3),
    "aten.rms_norm.default": (2,),
    "aten.group_norm.default": (2, 3),
    "aten.instance_norm.default": (1, 2),
}
SUMS = ("aten.add.Tensor", "aten.sub.Tensor")
PRODUCTS = ("aten.mul.Tensor",)
PRELU = "aten.prelu.default"
BY_PLACE = (*BATCH_NORMS, *NORMS, *SUMS, *PRODUCTS, PRELU)


def by_place(samples: Samples, sized: Samples, operation: Operation) -> Variance:
    """Variance of an operator of :data:`BY_PLACE`.

    Args:
        samples: with the operands' intervals.
        sized: the same, whose parameters are the sizes of their errors.
        operation: whose.

    Raises:
        Stop: another form of it.
    """
    weight, bias = factors(samples, sized, operation)
    return of_places(weight, bias, *multiplicand(samples, operation))


def factors(samples: Samples, held: Samples, operation: Operation) -> tuple[Tensor | None, Tensor | None]:
    """What ``held`` holds for weight and bias, shaped as it meets one sample's values; negative where subtracted."""
    name, rank = operation.operator, len(samples.shape(operation.index))
    channels = (-1, *[1] * (rank - 1))
    if name in BATCH_NORMS:
        weight, bias, _, _, _ = normalise.statistics(held, operation)
        return _shaped(weight, channels), _shaped(bias, channels)
    if name in NORMS:
        places = [operation.args[n] if len(operation.args) > n else None for n in NORMS[name]]
        parts = [held.values[p.index] if isinstance(p, Ref) else None for p in places]
        if not all(p is None or isinstance(p, Parameter) for p in parts):
            raise Stop
        over = channels if name in ("aten.group_norm.default", "aten.instance_norm.default") else None
        shaped = [_shaped(p, over) for p in parts]  # type: ignore[arg-type]  # looked at above
        return shaped[0], shaped[1] if len(shaped) > 1 else None
    if name == PRELU:
        slope = held.values[operation.args[1].index]
        if not isinstance(slope, Parameter):
            raise Stop
        return slope.theta.reshape(channels if slope.theta.numel() > 1 else [1] * rank), None
    place = _place(held, operation)
    tau = held.values[operation.args[place].index].theta  # type: ignore[union-attr]  # a parameter stands there
    if tau.dim() > rank:
        if tau.dim() > rank + 1 or tau.shape[0] != 1:
            raise Stop
        tau = tau[0]
    if name in PRODUCTS:
        return tau, None
    return None, -tau if name == "aten.sub.Tensor" and place == 1 else tau


def _shaped(parameter: Parameter | None, shape: tuple[int, ...] | None) -> Tensor | None:
    if parameter is None:
        return None
    return parameter.theta if shape is None else parameter.theta.reshape(shape)


def _place(held: Samples, operation: Operation) -> int:
    """Which of two operands is the parameter.

    Raises:
        Stop: not just one of them.
    """
    if operation.kwargs or len(operation.args) != 2 or not all(isinstance(t, Ref) for t in operation.args):
        raise Stop
    places = [n for n, t in enumerate(operation.args) if isinstance(held.values[t.index], Parameter)]
    if len(places) != 1:
        raise Stop
    return places[0]


def multiplicand(samples: Samples, operation: Operation) -> tuple[Tensor, Tensor]:
    """Centre and radius of what the weight multiplies, ``[samples, *shape]``."""
    name = operation.operator
    if name in BATCH_NORMS:
        return _normalised(samples, operation)
    if name in NORMS:
        # The same norm without weight and bias.
        args = [None if n in NORMS[name] else v for n, v in enumerate(operation.args)]
        values = dict(samples.values)
        plain = replace(operation, args=tuple(args), inputs=(operation.args[0].index,))
        evaluate(samples.context, samples.graph, values, [plain], keep=True)
        value = values[operation.index]
        if not isinstance(value, Interval):
            raise Stop
        value = value.settled(samples.rounding.roundoff)
        return middle_of(value.lower, value.lower if value.is_point else value.upper)
    if name == PRELU:
        lower, upper = both_ends(samples, operation.args[0].index)
        low = lower.clamp(max=0.0)
        return middle_of(low, low if lower is upper else upper.clamp(max=0.0))
    other = operation.args[1 - _place(samples, operation)].index
    if not samples.plain(other) or samples.shape(other) != samples.shape(operation.index):
        raise Stop
    return centred(samples, other)


def _normalised(samples: Samples, operation: Operation) -> tuple[Tensor, Tensor]:
    """Of a batch norm: ``(x - mean) / sqrt(variance + eps)``."""
    _, _, mean, spread, eps = normalise.statistics(samples, operation)
    centre, radius = centred(samples, operation.args[0].index)
    wide = (1, -1, *[1] * (centre.dim() - 2))
    steepness, shift = (spread.theta + eps).rsqrt().view(wide), mean.theta.view(wide)
    # Of x - mean and of the root, and of statistics held with an error.
    error = gamma_sum(16) + 4.0 * max(mean.theta_error, spread.theta_error)
    around = radius * steepness + error * (centre.abs() + radius + shift.abs()) * steepness
    return (centre - shift) * steepness, rounded_up(around, 8)


def of_places(weight: Tensor | None, bias: Tensor | None, centre: Tensor, radius: Tensor) -> Variance:
    """Of ``w m + b``, m in ``centre ± radius``, with sizes that are broadcast against the values of one sample."""
    outputs = torch.zeros_like(centre)
    for size, factor in ((weight, (centre.abs() + radius).square()), (bias, torch.ones_like(centre))):
        if size is not None:
            outputs = outputs + size.square() * factor
    outputs = rounded_up(outputs, 8)

    def rows(walk: Walk, a: Tensor, region: Region | None) -> Tensor:
        apart = any(s is not None and s.dim() > 1 and s.shape[-2:] != (1, 1) for s in (weight, bias))
        if region is not None and apart and not (walk.frame.whole or region.fixed):
            a, region = walk.frame.unfolded(a, region, (centre.shape[-2], centre.shape[-1])), None
        total = a.new_zeros(a.shape[:2])
        if weight is not None:
            middle, around = walk.cut(centre, region), walk.cut(radius, region)
            total = total + _summed(weight, a * middle[:, None], a.abs() * around[:, None], a[0, 0].numel())
        if bias is not None:
            total = total + _summed(bias, a, torch.zeros_like(a), a[0, 0].numel())
        return rounded_up(total, a[0, 0].numel() + 8)

    return Variance(outputs, rows)


def _summed(size: Tensor, inner: Tensor, around: Tensor, terms: int) -> Tensor:
    """``Σ_q τ_q² (|Σ inner| + Σ around)²`` with the rounding of the sums."""
    around = rounded_up(around + gamma_sum(terms) * inner.abs(), 4)
    rank = inner.dim() - 2
    shape = (*inner.shape[:2], *[1] * (rank - size.dim()), *size.shape)
    most = inner.sum_to_size(shape).abs() + rounded_up(around.sum_to_size(shape), terms)
    return flat(most, 2).square() @ size.reshape(-1).square()
