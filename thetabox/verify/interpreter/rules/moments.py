"""Mean and variance of a group of numbers in intervals, with what rounding may take of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.literals import literal_error

# Steps of the search for the constant nearest to a box; any number is sound.
STEPS = 24


@dataclass(frozen=True)
class NormGroup:
    """Numbers of a group in the last dimension, shifted and divided by their size: ``centre ± radius``.

    Attributes:
        centre, radius: of each number.
        centring_error: what a network's own subtraction of the mean may be off by.
        eps: what is added to the variance, at least and at most.
        variance_error: what a network's own variance may be off by.
        scale: what all are divided by.
    """

    centre: Tensor
    radius: Tensor
    centring_error: Tensor
    eps: tuple[Tensor, Tensor]
    variance_error: Tensor
    scale: Tensor


def scaled(context: Context, low: Tensor, high: Tensor, eps: tuple[float, float], centred: bool) -> NormGroup:
    r"""Numbers in ``[low, high]`` shifted by about the group's mean where ``centred``, and divided by their size.

    **Rounding** of the bounds: each number errs relative to the group's spread. **Of a float32 network**: kernels of
    torch take the variance from :math:`E[x^2] - \mu^2`, in two passes, or by Welford's and Chan's updates. All of them
    err by at most :math:`8(n + 8)u\,E[x^2]`: the first by :math:`\gamma_{n+2} E[x^2] + 2|\mu|\gamma_{n+2} E|x|`
    (Higham, Accuracy and Stability of Numerical Algorithms, ch. 3), updates by no more (Chan, Golub and LeVeque, The
    American Statistician 37, 1983, with :math:`\sqrt{v E[x^2]} \le E[x^2]`). The mean errs by
    :math:`2(n + 8)u E|x|`, and the difference, or the product with :math:`1/\sqrt{v + e}` taken apart as
    :math:`x s - \mu s`, by :math:`8u(|x| + |\mu|)`.
    """
    roundoff, unit, n = context.rounding.roundoff, context.rounding.of_operation(), low.shape[-1]
    size = torch.maximum(low.abs(), high.abs())
    shift = ((low + high) / 2).detach().mean(-1, keepdim=True) if centred else torch.zeros_like(low[..., :1])
    near, far = low - shift, high - shift
    limits = torch.finfo(low.dtype)
    scale = torch.maximum(near.detach().abs(), far.detach().abs()).amax(-1, keepdim=True)
    scale = scale.clamp(min=max(math.sqrt(eps[1]), limits.tiny**0.45), max=limits.max / 4.0)
    near, far, size = near / scale, far / scale, size / scale
    centre, radius = (near + far) / 2, (far - near) / 2
    # The shift rounds each end, by a relative error of what is left.
    radius = radius * (1.0 + 8.0 * roundoff) + centre.abs() * (8.0 * roundoff) + 4.0 * limits.tiny
    # What a network adds to the rounding of the bounds, which it covers twice over by itself.
    more = unit - roundoff if unit > 2.0 * roundoff else 0.0
    mean, square = size.mean(-1, keepdim=True), (size * size).mean(-1, keepdim=True)
    centring_error = (2.0 * (n + 8) * more) * mean + (8.0 * more) * (size + mean)
    held = (max(eps[0] - literal_error(context, eps[0]), 0.0), eps[1] + literal_error(context, eps[1]))
    least, greatest = (torch.full_like(scale, e) / scale / scale for e in held)
    ends = (least * (1.0 - 8.0 * unit), greatest * (1.0 + 8.0 * unit) + limits.tiny)
    variance_error = square * (8.0 * (n + 8) * more) + underflowed(context, scale)
    return NormGroup(centre, radius, centring_error, ends, variance_error, scale)


def underflowed(context: Context, scale: Tensor) -> Tensor:
    """What a float32 network's mean of squares may lose where squares underflow, in units of ``scale`` squared."""
    return (4.0 * context.rounding.flushed if context.rounding.network else 0.0) / scale / scale


class GroupMoments(NamedTuple):
    """Of a group's middle, as sums divided by n.

    Attributes:
        off: each number less the mean.
        mean_error: what the mean may be off by.
        every: the variance of the middle.
        wide: mean square of the radii.
        moved: how much the variance may fall within the radii, or rise by besides ``wide``.
        lost: what rounding may take of it.
        error: relative, of a sum.
    """

    off: Tensor
    mean_error: Tensor
    every: Tensor
    wide: Tensor
    moved: Tensor
    lost: Tensor
    error: float


def moments(context: Context, group: NormGroup) -> GroupMoments:
    """Mean and variance of a group, and what its radii and rounding may change of them."""
    error = 4.0 * (group.centre.shape[-1] + 16) * context.rounding.roundoff
    off, r = group.centre - group.centre.mean(-1, keepdim=True), group.radius
    mean_error = group.centre.abs().mean(-1, keepdim=True) * error
    every, wide = (off * off).mean(-1, keepdim=True), (r * r).mean(-1, keepdim=True)
    size = off.abs() + mean_error
    moved = 2.0 * (1.0 + error) * (size * r).mean(-1, keepdim=True)
    lost = (every + wide + moved) * error + 2.0 * mean_error * size.mean(-1, keepdim=True) + torch.finfo(off.dtype).tiny
    return GroupMoments(off, mean_error, every, wide, moved, lost, error)


def least_variance(group: NormGroup, wanted: Tensor) -> Tensor:
    r"""Least :math:`\sum_j \mathrm{dist}(t, [l_j, u_j])^2 / n` over t, where it is wanted; else 0.

    It is convex in t: with g its derivative at t and w the width of what holds the minimum, it is at least the value at
    t less :math:`|g| w`.
    """
    low, high = group.centre - group.radius, group.centre + group.radius
    if not bool(wanted.any()):
        return torch.zeros_like(low[..., :1])
    with torch.no_grad():
        left, right = low.amin(-1, keepdim=True), high.amax(-1, keepdim=True)
        for _ in range(STEPS):
            middle = (left + right) / 2
            slope = ((middle - high).clamp(min=0.0) - (low - middle).clamp(min=0.0)).sum(-1, keepdim=True)
            left, right = torch.where(slope <= 0, middle, left), torch.where(slope > 0, middle, right)
        place, width = (left + right) / 2, right - left
    above, under = (place - high).clamp(min=0.0), (low - place).clamp(min=0.0)
    slope = (above - under).mean(-1, keepdim=True).abs() + STEPS * torch.finfo(low.dtype).eps
    value = (above * above + under * under).mean(-1, keepdim=True) - 2.0 * slope * width
    return torch.where(wanted, value, 0.0).clamp(min=0.0)
