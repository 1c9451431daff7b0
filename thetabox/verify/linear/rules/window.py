r"""Places of a pool's window that a convolution makes: what their patches of its input differ in.

Noise that two places share, of the weights and of the input, drops out of their difference.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Frame, Pair, Region
from thetabox.verify.linear.rules import convolution as convolutions
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop

# Windows of more places are bounded by differences of intervals.
FEW_PLACES = 4


class PoolWindow(NamedTuple):
    """Kernel and stride of a pool."""

    kernel: Pair
    stride: Pair


def apart(samples: Samples, index: int, pool: PoolWindow, reference: Tensor) -> tuple[Tensor, Tensor] | None:
    """Ends of ``z_i - z_j`` for the window's reference ``j``; ``None`` where no convolution tells more than intervals.

    Args:
        samples: whose.
        index: of the value that is pooled.
        pool: its windows.
        reference: ``j`` of each, ``[..., 1, h, w]``.
    """
    maker = samples.makers.get(index)
    known = None if maker is None else samples.apart(maker, pool, reference)
    if known is not None:
        return known
    count = pool.kernel[0] * pool.kernel[1]
    # A float32 network rounds each place by itself, and the bias of each.
    if maker is None or "conv2d" not in maker.operator or count > FEW_PLACES or samples.rounding.network:
        return None
    try:
        conv = convolutions.layer(samples, maker)
    except Stop:
        return None
    patches = _Patches(samples, conv, pool, reference.shape[-2:])
    shape = (*reference.shape[:-3], count, *reference.shape[-2:])
    near = reference.new_zeros(shape, dtype=torch.float64)
    far = torch.zeros_like(near)
    for second, first in combinations(range(count), 2):
        middle, around = patches.difference(first, second)
        for one, two, sign in ((first, second, 1.0), (second, first, -1.0)):
            chosen = reference.squeeze(-3) == two
            d = sign * middle
            near[..., one, :, :] = torch.where(chosen, d - around, near[..., one, :, :])
            far[..., one, :, :] = torch.where(chosen, d + around, far[..., one, :, :])
    return near, far


class _Patches:
    """Of a convolution's input, one of every window for each of its places.

    Args:
        samples: whose.
        conv: the convolution.
        pool: windows of its output.
        size: how many of them.
    """

    def __init__(self, samples: Samples, conv: convolutions.Convolution, pool: PoolWindow, size: torch.Size) -> None:
        self.conv, self.size = conv, (size[0], size[1])
        self.step = (pool.stride[0] * conv.stride[0], pool.stride[1] * conv.stride[1])
        self.offsets = [(i, j) for i in range(pool.kernel[0]) for j in range(pool.kernel[1])]
        value = samples.interval(conv.x)
        middle, self.spread = (value.lower + value.upper) / 2, (value.upper - value.lower) / 2
        self.exact = value.is_point
        self.epsilon = samples.factor(conv.weight).view(-1, 1, 1, 1)
        whole = Frame(slice(None))
        self.patches = []
        for i, j in self.offsets:
            # The window's place (i, j) of every window, as the output of a convolution of a larger stride.
            spot = Region((0, 0), (0, 0), self.size).before(conv.kernel, self.step, conv.padding, conv.dilation)
            offset = (spot.offset[0] + i * conv.stride[0], spot.offset[1] + j * conv.stride[1])
            seen = Region(spot.jump, offset, spot.size)
            self.patches.append((whole.cut(middle, seen), whole.cut(self.spread, seen)))

    def difference(self, first: int, second: int) -> tuple[Tensor, Tensor]:
        """Centre and radius of one place less another, of every window."""
        weight = self.conv.weight
        (ca, ra), (cb, rb) = self.patches[first], self.patches[second]
        error = gamma_sum(4 * self.conv.inputs) + 4.0 * weight.theta_error
        apart = ca - cb
        middle = self._product(apart, weight.theta)
        around = torch.zeros_like(middle) if self.exact else self._shared_radius(first, second)
        noise = self._product(apart.abs() + ra + rb, weight.unit_radius) * self.epsilon if weight.factor else 0.0
        size = self._product(ca.abs() + cb.abs() + ra + rb, weight.magnitude) * (error * 4.0)
        return middle, around * (1.0 + error) + noise * (1.0 + error) + size

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, weight, None, self.step, 0, self.conv.dilation, self.conv.groups)

    def _shared_radius(self, first: int, second: int) -> Tensor:
        """``|kernel shifted by one - kernel shifted by two|`` times the radius of the input."""
        conv = self.conv
        theta = conv.weight.theta
        pair = (self.offsets[first], self.offsets[second])
        shifts = [(p[0] * conv.stride[0], p[1] * conv.stride[1]) for p in pair]
        span = [max(s[d] for s in shifts) + (conv.kernel[d] - 1) * conv.dilation[d] + 1 for d in range(2)]
        both = theta.new_zeros(*theta.shape[:2], *span)
        for (top, left), sign in zip(shifts, (1.0, -1.0), strict=True):
            rows = slice(top, top + (conv.kernel[0] - 1) * conv.dilation[0] + 1, conv.dilation[0])
            columns = slice(left, left + (conv.kernel[1] - 1) * conv.dilation[1] + 1, conv.dilation[1])
            both[..., rows, columns] += sign * theta
        seen = Region((0, 0), (0, 0), self.size).before((span[0], span[1]), self.step, conv.padding)
        x = Frame(slice(None)).cut(self.spread, seen)
        return torch.nn.functional.conv2d(x, both.abs(), None, self.step, 0, 1, conv.groups)
