r"""Max-pools of any windows backwards: padded, dilated, overlapping, adaptive, of signals and volumes.

With :math:`j` the place of a window's largest centre, :math:`x_j \le \max_i x_i \le x_j + \sum_i \max(x_i - x_j, 0)`,
each term below its chord, or the largest upper end where that is smaller at the centre; as in :mod:`.pooling`.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.rules.activation import FEW, lines
from thetabox.verify.linear.walk import NeedsImages, Stop, Walk, backward, dot
from thetabox.verify.network.graph import Operation, arguments

# Windows of more places are left to their intervals.
MOST_PLACES = 64


class Relaxation(NamedTuple):
    """``x_j <= max_i x_i <= sum_i above_i x_i + offset`` of all samples; a window's places in the last dimension."""

    reference: Tensor
    above: Tensor
    offset: Tensor
    term_size: Tensor


def window_places(operation: Operation, sizes: tuple[int, ...], outputs: tuple[int, ...]) -> Tensor:
    """Where the windows lie, ``[windows, places]``: flat positions, -1 beyond the edges.

    Raises:
        Stop: they hold too many places.
    """
    named, rank = arguments(operation), len(sizes)
    axes = []
    for d, (size, count) in enumerate(zip(sizes, outputs, strict=True)):
        here = torch.arange(count)
        if "adaptive" in operation.operator:
            first, last = here * size // count, -(-(here + 1) * size // count)
            axis = first[:, None] + torch.arange(int((last - first).max()))
            axis = torch.where(axis < last[:, None], axis, -1)
        else:
            kernel, padding, dilation = (_of(named[n], d, rank) for n in ("kernel_size", "padding", "dilation"))
            stride = _of(named["stride"] or named["kernel_size"], d, rank)
            axis = (here * stride - padding)[:, None] + torch.arange(kernel) * dilation
            axis = torch.where((axis >= 0) & (axis < size), axis, -1)
        axes.append(axis)
    if prod(axis.shape[1] for axis in axes) > MOST_PLACES:
        raise Stop
    table = torch.zeros(1, 1, dtype=torch.long)
    for axis, size in zip(axes, sizes, strict=True):
        beyond = (table < 0)[:, None, :, None] | (axis < 0)[None, :, None, :]
        table = table[:, None, :, None] * size + axis[None, :, None, :]
        table = table.masked_fill(beyond, -1).flatten(2).flatten(0, 1)
    return table


def _of(value: Any, d: int, rank: int) -> int:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return int((values * rank if len(values) == 1 else values)[d])


@backward("aten.max_pool1d.default", "aten.max_pool3d.default", "aten.max_pool3d_with_indices.default",
          "aten.adaptive_max_pool1d.default", "aten.adaptive_max_pool2d.default",
          "aten.adaptive_max_pool3d.default")  # a list of operators  # fmt: skip
def any_max_pool(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """Largest of each window."""
    samples = walk.samples
    if not walk.frame.whole:
        raise NeedsImages
    index = walk.operand(operation, 0)
    rank = next(n for n in (1, 2, 3) if f"{n}d" in operation.operator)
    shape = samples.shape(index)
    if len(shape) != rank + 1:
        raise Stop

    def compute() -> tuple[Tensor, Relaxation]:
        table = window_places(operation, shape[1:], samples.shape(operation.index)[1:]).to(a.device)
        value = samples.interval(index)
        return table, _relaxed(value.lower.flatten(2), value.upper.flatten(2), table)

    table, relaxation = samples.once(("windows", operation.index), compute)
    reference, above, offset, term_size = (walk.cut(t, None) for t in relaxation)
    rows = a.flatten(3)
    walk.penalty(rows, term_size, 6.0 * gamma_sum(a[0, 0].numel() + table.shape[1]))
    falling = rows.clamp(max=0.0)
    walk.constant.add(dot(falling, offset))
    first = a.new_zeros(*a.shape[:3], prod(shape[1:]))
    for position in range(table.shape[1]):
        mine = (reference == position).double()[:, None]
        part = rows * mine + falling * (above[..., position][:, None] - mine)
        first.index_add_(3, table[:, position].clamp(min=0), part)
    walk.give(index, first.unflatten(3, shape[1:]))


def _relaxed(lower: Tensor, upper: Tensor, table: Tensor) -> Relaxation:
    inside = table >= 0
    if not bool(inside.any(1).all()):
        raise Stop  # a window of nothing but padding has no largest value
    at = table.clamp(min=0)
    low, high = lower[..., at], upper[..., at]
    centre = ((low + high) / 2).masked_fill(~inside, -torch.inf)
    reference = centre.argmax(-1, keepdim=True)
    size = torch.maximum(low.abs(), high.abs()).masked_fill(~inside, 0.0)
    rounding_error = gamma_sum(FEW) * (size + size.gather(-1, reference))
    least, most = low - high.gather(-1, reference) - rounding_error, high - low.gather(-1, reference) + rounding_error
    none = ~inside | torch.zeros_like(low, dtype=torch.bool).scatter_(-1, reference, True)
    _, above, offset = lines(least, most)
    above, offset = above.masked_fill(none, 0.0), offset.masked_fill(none, 0.0).sum(-1)
    offset = offset + gamma_sum(2 * table.shape[1]) * (size.sum(-1) * (1.0 + above.sum(-1)) + offset)
    above = above.scatter(-1, reference, 1.0 - above.sum(-1, keepdim=True))
    highest = high.masked_fill(~inside, -torch.inf).amax(-1)
    flat = (above * centre.masked_fill(~inside, 0.0)).sum(-1) + offset > highest
    above = above.masked_fill(flat.unsqueeze(-1), 0.0)
    offset = torch.where(flat, highest, offset)
    is_reference = torch.zeros_like(low).scatter_(-1, reference, 1.0)
    return Relaxation(
        reference.squeeze(-1), above, offset, ((above.abs() + is_reference) * size).sum(-1) + offset.abs()
    )
