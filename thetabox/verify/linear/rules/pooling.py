r"""Max-pool backwards, in front of a ReLU that it commutes with.

With :math:`j` the place of a window's largest centre and :math:`d_i = z_i - z_j`, the maximum lies above :math:`z_j`
and below :math:`z_j + \sum_i \max(d_i, 0)`, each term of which is nothing where :math:`d_i \le 0`, :math:`d_i` where it
is at least 0, else at most its chord; or below the largest upper end, where that is smaller at the centre. A
convolution's differences are bounded by what its patches differ in, so that noise common to both drops out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region, pair
from thetabox.verify.linear.rules.activation import FEW, lines, through
from thetabox.verify.linear.rules.window import PoolWindow, apart
from thetabox.verify.linear.rules.windows import any_max_pool
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop, Walk, backward, dot
from thetabox.verify.network.graph import Operation
from thetabox.verify.network.operators import MAX_POOLS_2D, RELU


class PoolRelaxation(NamedTuple):
    """``z_j <= max_i z_i <= sum_i above_i z_i + offset`` of all samples; windows before the last two dimensions.

    Attributes:
        reference: the place j in its window.
        above: of each place of the window.
        offset: of each window.
        lower, upper: of the largest value.
        term_size: size of all terms, for their rounding.
    """

    reference: Tensor
    above: Tensor
    offset: Tensor
    lower: Tensor
    upper: Tensor
    term_size: Tensor


def window(operation: Operation) -> PoolWindow:
    """Settings of a pool.

    Raises:
        Stop: padding, dilation or another form without a rule.
    """
    args = [*operation.args[1:], *[None] * 5]
    kernel, stride, padding, dilation, ceil = args[:5]
    settings = operation.kwargs
    if settings or any(pair(padding or 0)) or pair(dilation or 1) != (1, 1) or ceil:
        raise Stop
    return PoolWindow(pair(kernel), pair(stride or kernel))


def source(samples: Samples, operation: Operation) -> tuple[int, bool]:
    """The value that is pooled, and whether a ReLU that only the pool reads stands between."""
    index = operation.args[0].index
    before = samples.makers.get(index)
    if before is not None and before.operator in RELU:
        under = before.args[0].index
        if samples.graph.readers[index] == 1 and samples.plain(under):
            return under, True
    return index, False


def by_window(t: Tensor, pool: PoolWindow) -> Tensor:
    """Values by window: ``[..., places, h, w]``."""
    patches = t.unfold(-2, pool.kernel[0], pool.stride[0]).unfold(-2, pool.kernel[1], pool.stride[1])
    return patches.flatten(-2).movedim(-1, -3)


def placed_back(chosen: Tensor, pool: PoolWindow, like: Tensor) -> Tensor:
    """Which numbers of an image, of the shape of ``like``, some window chooses; undoes :func:`by_window`."""
    back = torch.zeros_like(like, dtype=torch.bool)
    height, width = chosen.shape[-2:]
    for position in range(chosen.shape[-3]):
        row, column = divmod(position, pool.kernel[1])
        rows = slice(row, row + (height - 1) * pool.stride[0] + 1, pool.stride[0])
        columns = slice(column, column + (width - 1) * pool.stride[1] + 1, pool.stride[1])
        back[..., rows, columns] |= chosen[..., position, :, :]
    return back


def relaxed(samples: Samples, operation: Operation) -> PoolRelaxation:
    """Lines below and above every maximum; computed once."""

    def compute() -> PoolRelaxation:
        pool = window(operation)
        index, _ = source(samples, operation)
        value = samples.interval(index)
        low, high = by_window(value.lower, pool), by_window(value.upper, pool)
        centre = (low + high) / 2
        reference = centre.argmax(-3, keepdim=True)
        own_low, own_high = low.gather(-3, reference), high.gather(-3, reference)
        least, most = low - own_high, high - own_low
        differences = apart(samples, index, pool, reference)
        if differences is not None:
            least, most = torch.maximum(least, differences[0]), torch.minimum(most, differences[1])
        itself = torch.zeros_like(low, dtype=torch.bool).scatter_(-3, reference, True)
        size = torch.maximum(low.abs(), high.abs())
        # The ends of a difference are themselves rounded.
        rounding_error = gamma_sum(FEW) * (size + size.gather(-3, reference))
        least, most = least - rounding_error, most + rounding_error
        _, above, offset = lines(least, most)
        above, offset = above.masked_fill(itself, 0.0), offset.masked_fill(itself, 0.0).sum(-3)
        remainder = 1.0 - above.sum(-3, keepdim=True)
        offset = offset + gamma_sum(2 * low.shape[-3]) * (size.sum(-3) * (1.0 + above.sum(-3)) + offset)
        above = above.scatter(-3, reference, remainder)
        highest = high.amax(-3)
        flat = (above * centre).sum(-3) + offset > highest
        above = torch.where(flat.unsqueeze(-3), 0.0, above)
        offset = torch.where(flat, highest, offset)
        term_size = ((above.abs() + itself.double()) * size).sum(-3) + offset.abs()
        return PoolRelaxation(reference.squeeze(-3), above, offset, low.amax(-3), highest, term_size)

    relaxation: PoolRelaxation = samples.once(("pool", operation.index), compute)
    return relaxation


@backward(*MAX_POOLS_2D)
def max_pool(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """Largest of each window."""
    samples = walk.samples
    try:
        pool = window(operation)
    except Stop:
        any_max_pool(walk, operation, a, region)
        return
    index, rectified = source(samples, operation)
    relaxation = relaxed(samples, operation)
    count = a[0, 0].numel()
    overlap = pool.kernel[0] * pool.kernel[1]
    most = walk.cut(relaxation.term_size, region)
    if rectified:
        # The lines' slopes are at most 1, so the rows do not grow in front of the ReLU.
        lower, upper = walk.cut(relaxation.lower, region), walk.cut(relaxation.upper, region)
        most = most + torch.maximum(lower.abs(), upper.abs())
    walk.penalty(a, most, 6.0 * gamma_sum(count + overlap))
    if rectified:
        a = through(walk, a, lines(lower, upper))
    falling = a.clamp(max=0.0)
    walk.constant.add(dot(falling, walk.cut(relaxation.offset, region)))
    reference, above = walk.cut(relaxation.reference, region), walk.cut(relaxation.above, region)
    there = region or Region((0, 0), (0, 0), (a.shape[-2], a.shape[-1]))
    seen = there.before(pool.kernel, pool.stride, (0, 0))
    tiled = pool.kernel == pool.stride
    out = (torch.empty if tiled else torch.zeros)(*a.shape[:-2], *seen.size, dtype=a.dtype, device=a.device)
    for position in range(overlap):
        row, column = divmod(position, pool.kernel[1])
        chosen = (reference == position).double()
        rows = slice(row, row + (a.shape[-2] - 1) * pool.stride[0] + 1, pool.stride[0])
        columns = slice(column, column + (a.shape[-1] - 1) * pool.stride[1] + 1, pool.stride[1])
        here = out[..., rows, columns]
        if tiled:
            torch.mul(a, chosen[:, None], out=here)
        else:
            here.addcmul_(a, chosen[:, None])
        here.addcmul_(falling, (above[..., position, :, :] - chosen)[:, None])
    walk.give(index, out, seen)
