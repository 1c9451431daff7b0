"""PReLU, fills by a constant mask, and embeddings backwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.rules.affine import parameter
from thetabox.verify.linear.rules.curves import Curve, parallels
from thetabox.verify.linear.walk import Stop, Walk, backward, dot, flat
from thetabox.verify.network.graph import Operation, Ref

FEW = 16


@backward("aten.prelu.default")
def prelu(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    r"""Lines around the unperturbed slope, less :math:`\varepsilon u |A| |\min(x, 0)|`, below its chord."""
    weight = parameter(walk.samples, operation, 1)
    index = walk.operand(operation, 0)
    if weight is None or operation.kwargs:
        raise Stop
    lower, upper = walk.ends(index, region)
    shape = [-1] + [1] * (lower.dim() - 2) if weight.theta.numel() > 1 else []
    theta, radius = weight.theta.reshape(shape), weight.unit_radius.reshape(shape)
    lines = parallels(
        Curve(lambda t: torch.where(t > 0, t, theta * t), 0.0, (0.0,)),
        lower,
        upper,
        torch.full_like(lower, -torch.inf),
        torch.full_like(lower, torch.inf),
    )
    crossing = (lower < 0) & (upper > 0)
    slope = torch.where(crossing, lower / (upper - lower), torch.where(upper <= 0, -1.0, 0.0))
    low, high = lower.clamp(max=0.0), upper.clamp(max=0.0)
    offset = torch.maximum(-low - slope * lower, -high - slope * upper).clamp(min=0.0)
    spread = radius * walk.epsilon(walk.samples.factor(weight), lower.dim())
    size, count = a.abs(), a[0, 0].numel()
    walk.constant.add(dot(a.clamp(min=0.0), lines.below) + dot(a.clamp(max=0.0), lines.above))
    walk.constant.lose(dot(size, (offset * spread).expand_as(lower)), count)
    most = torch.maximum(lower.abs(), upper.abs())
    term_size = most * (1.0 + lines.slope.abs() + theta.abs() + 2.0 * spread) + lines.below.abs() + lines.above.abs()
    rounding = walk.samples.rounding
    relative = gamma_sum(2 * count + FEW) + rounding.of_operation(2) + 4.0 * weight.theta_error
    walk.penalty(a, term_size, relative, rounding.subnormal)
    walk.give(index, a * lines.slope[:, None] - size * (slope * spread)[:, None], region)


@backward("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """The rest of the value; the fill, which may be infinite where no coefficient stands, is a constant."""
    samples = walk.samples
    index = walk.operand(operation, 0)
    mask, value = (_constant(walk, operation, place) for place in (1, 2))
    if not walk.frame.whole or samples.shape(index) != samples.shape(operation.index):
        raise Stop
    shape = (1, *samples.shape(index))
    held = mask.expand(shape)[:, None] > 0
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise Stop
    inside = torch.where(held & (a != 0), a, 0.0)
    fill = torch.where((inside != 0).any(1), value, 0.0)
    walk.constant.add(dot(inside, fill))
    count = a[0, 0].numel()
    walk.penalty(inside, fill.abs(), gamma_sum(count) + samples.rounding.of_operation(2), samples.rounding.subnormal)
    walk.give(index, a.masked_fill(held, 0.0))


def _constant(walk: Walk, operation: Operation, index: int) -> Tensor:
    """An exact number or tensor that is the same for all samples.

    Raises:
        Stop: it is none.
    """
    argument: Any = operation.args[index]
    if isinstance(argument, (int, float)):
        return torch.tensor(float(argument), dtype=torch.float64, device=walk.samples.epsilon.device)
    held = walk.samples.values[argument.index] if isinstance(argument, Ref) else None
    if isinstance(held, Parameter) and not held.factor:
        return held.theta
    if isinstance(held, Interval) and held.is_point and held.slack == 0.0 and held.batch is None and not held.by_row:
        return held.lower
    raise Stop


@backward("aten.embedding.default")
def embedding(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    r"""A table at known places: :math:`\langle A, \theta \rangle - \varepsilon u |\sum_t A_t|` over equal places t."""
    samples = walk.samples
    table, places = parameter(samples, operation, 0), operation.args[1]
    value = samples.values[places.index] if isinstance(places, Ref) else None
    if table is None or not walk.frame.whole or not isinstance(value, Interval) or not value.is_point:
        raise Stop
    at = flat(walk.cut(value.lower, None).long(), 1)
    theta, radius = table.theta[at], table.unit_radius[at]
    rows = a.reshape(*a.shape[:2], at.shape[1], -1)
    count = a[0, 0].numel()
    walk.constant.add(dot(rows, theta))
    if table.factor:
        same = at[:, :, None] == at[:, None, :]
        first = ~(same & torch.ones_like(same[0]).tril(-1)).any(2)
        together = torch.einsum("stu,sruf->srtf", same.double(), rows)
        together = together * first[:, None, :, None]
        spread = flat(together.abs() * radius[:, None], 2).sum(2)
        walk.constant.lose(spread * walk.epsilon(samples.factor(table), 2), count)
    epsilon = walk.epsilon(samples.factor(table), 3)
    walk.penalty(rows, theta.abs() + radius * epsilon, gamma_sum(2 * count) + 4.0 * table.theta_error)
