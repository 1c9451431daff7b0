r"""Max-pool backwards, in front of a ReLU that it commutes with.

With :math:`j` the place of a window's largest centre and :math:`d_i = z_i - z_j`, the maximum lies above :math:`z_j`
and below :math:`z_j + \sum_i \max(d_i, 0)`, each term of which is nothing where :math:`d_i \le 0`, :math:`d_i` where it
is at least 0, else at most its chord; or below the largest upper end, where that is smaller at the centre. A
convolution's differences are bounded by what its patches differ in, so that noise common to both drops out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Frame, Pair, Region
from thetabox.verify.linear.rules import convolution as convolutions
from thetabox.verify.linear.rules.activation import FEW, lines, through
from thetabox.verify.linear.samples import Samples, radius
from thetabox.verify.linear.walk import Stop, Walk, backward, dot
from thetabox.verify.network.graph import Operation
from thetabox.verify.network.operators import MAX_POOLS_2D, RELU

# Windows of more places are bounded by differences of intervals.
FEW_PLACES = 4


class Window(NamedTuple):
    """Kernel and stride of a pool."""

    kernel: Pair
    stride: Pair


class Pool(NamedTuple):
    """``z_j <= max_i z_i <= sum_i above_i z_i + rest`` of all samples; windows before the last two dimensions."""

    reference: Tensor
    above: Tensor
    rest: Tensor
    lower: Tensor
    upper: Tensor
    reach: Tensor


def window(operation: Operation) -> Window:
    """Settings of a pool.

    Raises:
        Stop: padding, dilation or another form without a rule.
    """
    args = [*operation.args[1:], *[None] * 5]
    kernel, stride, padding, dilation, ceil = args[:5]
    settings = operation.kwargs
    if settings or any(_two(padding or 0)) or _two(dilation or 1) != (1, 1) or ceil:
        raise Stop
    return Window(_two(kernel), _two(stride or kernel))


def _two(value: Any) -> Pair:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values * 2 if len(values) == 1 else values


def source(samples: Samples, operation: Operation) -> tuple[int, bool]:
    """The value that is pooled, and whether a ReLU that only the pool reads stands between."""
    index = operation.args[0].index
    before = samples.makers.get(index)
    if before is not None and before.operator in RELU:
        under = before.args[0].index
        if samples.graph.readers[index] == 1 and samples.plain(under):
            return under, True
    return index, False


def places(t: Tensor, pool: Window) -> Tensor:
    """Values by window: ``[..., places, h, w]``."""
    patches = t.unfold(-2, pool.kernel[0], pool.stride[0]).unfold(-2, pool.kernel[1], pool.stride[1])
    return patches.flatten(-2).movedim(-1, -3)


def relaxed(samples: Samples, operation: Operation) -> Pool:
    """Lines below and above every maximum; computed once."""

    def compute() -> Pool:
        pool = window(operation)
        index, _ = source(samples, operation)
        value = samples.interval(index)
        low, high = places(value.lower, pool), places(value.upper, pool)
        centre = (low + high) / 2
        reference = centre.argmax(-3, keepdim=True)
        own_low, own_high = low.gather(-3, reference), high.gather(-3, reference)
        least, most = low - own_high, high - own_low
        near, far = _apart(samples, index, pool, reference)
        if near is not None and far is not None:
            least, most = torch.maximum(least, near), torch.minimum(most, far)
        itself = torch.zeros_like(low, dtype=torch.bool).scatter_(-3, reference, True)
        size = torch.maximum(low.abs(), high.abs())
        # The ends of a difference are themselves rounded.
        room = gamma_sum(FEW) * (size + size.gather(-3, reference))
        least, most = least - room, most + room
        _, above, rest = lines(least, most)
        above, rest = above.masked_fill(itself, 0.0), rest.masked_fill(itself, 0.0).sum(-3)
        own = 1.0 - above.sum(-3, keepdim=True)
        rest = rest + gamma_sum(2 * low.shape[-3]) * (size.sum(-3) * (1.0 + above.sum(-3)) + rest)
        above = above.scatter(-3, reference, own)
        highest = high.amax(-3)
        flat = (above * centre).sum(-3) + rest > highest
        above = torch.where(flat.unsqueeze(-3), 0.0, above)
        rest = torch.where(flat, highest, rest)
        reach = ((above.abs() + itself.double()) * size).sum(-3) + rest.abs()
        return Pool(reference.squeeze(-3), above, rest, low.amax(-3), highest, reach)

    found: Pool = samples.once(("pool", operation.index), compute)
    return found


def _apart(samples: Samples, index: int, pool: Window, reference: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Ends of ``z_i - z_j`` for the window's reference ``j``, from what the patches of a convolution differ in."""
    maker = samples.makers.get(index)
    count = pool.kernel[0] * pool.kernel[1]
    # A float32 network rounds each place by itself, and the bias of each.
    if maker is None or "conv2d" not in maker.operator or count > FEW_PLACES or samples.rounding.network:
        return None, None
    try:
        conv = convolutions.layer(samples, maker)
    except Stop:
        return None, None
    height, width = reference.shape[-2:]
    step = (pool.stride[0] * conv.stride[0], pool.stride[1] * conv.stride[1])
    whole = Frame(slice(None))
    value = samples.interval(conv.x)
    spots = [(i, j) for i in range(pool.kernel[0]) for j in range(pool.kernel[1])]
    middle, spread = (value.lower + value.upper) / 2, (value.upper - value.lower) / 2
    windows = []
    for i, j in spots:
        # The window's place (i, j) of every window, as the output of a convolution of a larger stride.
        spot = Region((0, 0), (0, 0), (height, width))
        seen = spot.before(conv.kernel, step, conv.padding, conv.dilation)
        seen = Region(seen.jump, (seen.offset[0] + i * conv.stride[0], seen.offset[1] + j * conv.stride[1]), seen.size)
        windows.append((whole.cut(middle, seen), whole.cut(spread, seen)))
    theta, unit = conv.weight.theta, radius(conv.weight)
    epsilon = samples.factor(conv.weight).view(-1, 1, 1, 1)
    known = value.is_point

    def product(x: Tensor, w: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, w, None, step, 0, conv.dilation, conv.groups)

    shape = (*reference.shape[:-3], count, *reference.shape[-2:])
    near = reference.new_zeros(shape, dtype=torch.float64)
    far = torch.zeros_like(near)
    error = gamma_sum(4 * conv.inputs) + 4.0 * conv.weight.theta_error
    for first in range(count):
        for second in range(first):
            (ca, ra), (cb, rb) = windows[first], windows[second]
            difference = ca - cb
            middle_d = product(difference, theta)
            around = torch.zeros_like(middle_d)
            if not known:
                around = _shared_radius(conv, spread, spots[first], spots[second], step, (height, width))
            reach = product(difference.abs() + ra + rb, unit) * epsilon if conv.weight.factor else 0.0
            size = product(ca.abs() + cb.abs() + ra + rb, conv.weight.magnitude) * (error * 4.0)
            around = around * (1.0 + error) + reach * (1.0 + error) + size
            for one, two, sign in ((first, second, 1.0), (second, first, -1.0)):
                chosen = reference.squeeze(-3) == two
                d = sign * middle_d
                near[..., one, :, :] = torch.where(chosen, d - around, near[..., one, :, :])
                far[..., one, :, :] = torch.where(chosen, d + around, far[..., one, :, :])
    return near, far


def _shared_radius(
    conv: convolutions.Convolution, spread: Tensor, one: Pair, two: Pair, step: Pair, size: Pair
) -> Tensor:
    """``|kernel shifted by one - kernel shifted by two|`` times the radius of the input."""
    theta = conv.weight.theta
    shifts = [(p[0] * conv.stride[0], p[1] * conv.stride[1]) for p in (one, two)]
    span = [max(s[d] for s in shifts) + (conv.kernel[d] - 1) * conv.dilation[d] + 1 for d in range(2)]
    both = theta.new_zeros(*theta.shape[:2], *span)
    for (top, left), sign in zip(shifts, (1.0, -1.0), strict=True):
        rows = slice(top, top + (conv.kernel[0] - 1) * conv.dilation[0] + 1, conv.dilation[0])
        columns = slice(left, left + (conv.kernel[1] - 1) * conv.dilation[1] + 1, conv.dilation[1])
        both[..., rows, columns] += sign * theta
    seen = Region((0, 0), (0, 0), size).before((span[0], span[1]), step, conv.padding)
    x = Frame(slice(None)).cut(spread, seen)
    return torch.nn.functional.conv2d(x, both.abs(), None, step, 0, 1, conv.groups)


@backward(*MAX_POOLS_2D)
def max_pool(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """Largest of each window."""
    samples = walk.samples
    pool = window(operation)
    index, rectified = source(samples, operation)
    found = relaxed(samples, operation)
    count = a[0, 0].numel()
    overlap = pool.kernel[0] * pool.kernel[1]
    most = walk.cut(found.reach, region)
    if rectified:
        # The lines' slopes are at most 1, so the rows do not grow in front of the ReLU.
        lower, upper = walk.cut(found.lower, region), walk.cut(found.upper, region)
        most = most + torch.maximum(lower.abs(), upper.abs())
    walk.penalty(a, most, 6.0 * gamma_sum(count + overlap))
    if rectified:
        a = through(walk, a, lines(lower, upper))
    falling = a.clamp(max=0.0)
    walk.constant.add(dot(falling, walk.cut(found.rest, region)))
    reference, above = walk.cut(found.reference, region), walk.cut(found.above, region)
    there = region or Region((0, 0), (0, 0), (a.shape[-2], a.shape[-1]))
    seen = there.before(pool.kernel, pool.stride, (0, 0))
    tiled = pool.kernel == pool.stride
    out = (torch.empty if tiled else torch.zeros)(*a.shape[:-2], *seen.size, dtype=a.dtype, device=a.device)
    for place in range(overlap):
        row, column = divmod(place, pool.kernel[1])
        chosen = (reference == place).double()
        rows = slice(row, row + (a.shape[-2] - 1) * pool.stride[0] + 1, pool.stride[0])
        columns = slice(column, column + (a.shape[-1] - 1) * pool.stride[1] + 1, pool.stride[1])
        here = out[..., rows, columns]
        if tiled:
            torch.mul(a, chosen[:, None], out=here)
        else:
            here.addcmul_(a, chosen[:, None])
        here.addcmul_(falling, (above[..., place, :, :] - chosen)[:, None])
    walk.give(index, out, seen)
