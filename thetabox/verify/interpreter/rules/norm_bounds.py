"""Numbers over the moments of a group of them, as layer, group, instance and root-mean-square norm take them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.moments import NormGroup, least_variance, moments, scaled, underflowed

# Groups of more numbers are not worth all pairs of them.
MANY = 256


class Sizes(NamedTuple):
    """What a network forms on the way to a norm, of each number, at most.

    Attributes:
        steep: ``1 / sqrt(variance + eps)``.
        numerator: a number and the mean of its group, as sizes, added.
    """

    steep: Interval
    numerator: Interval


def grouped(context: Context, x: Interval, eps: tuple[float, float], first: int, *, centred: bool = True) -> Interval:
    """The ends of :func:`grouped_with_sizes` alone."""
    return grouped_with_sizes(context, x, eps, first, centred=centred)[0]


def grouped_with_sizes(
    context: Context, x: Interval, eps: tuple[float, float], first: int, *, centred: bool = True
) -> tuple[Interval, Sizes | None]:
    """All numbers from dimension ``first`` on as one group; with ``centred`` their mean is subtracted.

    ``eps`` is the least and greatest number that is added to the variance. Sizes are of a network that rounds.
    """
    if not (math.isfinite(eps[1]) and eps[0] >= 0.0):
        raise InputError(f"{context.where} adds {eps[0]} to a variance; give it a finite number of at least 0")
    x = x.settled(context.rounding.roundoff)
    shape = x.shape
    low, high = (t.reshape(*shape[:first], -1) for t in (x.lower, x.upper))
    group = scaled(context, low, high, eps, centred)
    lower, upper, floor = _centred(context, group) if centred else _uncentred(context, group)
    if centred and 1 < low.shape[-1] <= MANY:
        lower, upper = _by_tangent(context, group, lower, upper)
    lower, upper = lower - context.rounding.flushed, upper + context.rounding.flushed
    valid, sizes = _valid(context, low, high), None
    if context.rounding.network:
        steep = (floor.rsqrt() / group.scale) * (1.0 + context.rounding.of_operation(8))
        numerator = torch.maximum(low.abs(), high.abs()).amax(-1, keepdim=True) * (
            2.0 + context.rounding.of_operation(8)
        )
        # Some kernels multiply the numbers and their mean by it apart.
        valid = valid & (steep * numerator * 2.0 < context.rounding.overflow)
        sizes = Sizes(*(replace(x, **_both(t.expand_as(low).reshape(shape))) for t in (steep, numerator)))
    lower, upper = (torch.where(valid, t, torch.nan).reshape(shape) for t in (lower, upper))
    out = Interval(lower, upper, batch=x.batch, merged=x.merged)
    if not centred:
        out.nonnegative = x.nonnegative
    return out, sizes


def _both(t: Tensor) -> dict[str, Any]:
    return {"lower": t, "upper": t, "slack": 0.0, "bound": None, "nonnegative": True, "owned": False}


class Normalised(NamedTuple):
    """A norm over the last dimension around the middle of its operands.

    Attributes:
        least, most: ends of ``(x - mean) / sqrt(variance + eps)``, a network's rounding in them.
        middle: its value in the middle.
        steep: ``1 / sqrt(variance + eps)`` there.
        off: how far that may be from it elsewhere.
        error: what a network's own value may be off by; infinite where it loses as much as the variance.
    """

    least: Tensor
    most: Tensor
    middle: Tensor
    steep: Tensor
    off: Tensor
    error: Tensor


def normalised(context: Context, low: Tensor, high: Tensor, eps: float) -> Normalised:
    """What tangents of a norm of operands in ``[low, high]`` need; not finite where little is known."""
    x = grouped(context, Interval(low, high), (eps, eps), low.dim() - 1)
    roundoff = context.rounding.roundoff
    group = scaled(context, low, high, (eps, eps), centred=True)
    scale = group.scale
    off, _, every, wide, moved, lost, error = moments(context, group)
    steep = (every + group.eps[1]).rsqrt()
    floor = (every - moved - lost).clamp(min=0.0) + group.eps[0]
    steepest, flattest = floor.rsqrt(), (every + moved + wide + lost + group.eps[1]).rsqrt()
    apart = torch.maximum(steepest - steep, steep - flattest) * (1.0 + error) + steep * (8.0 * roundoff)
    largest = torch.maximum(x.lower.abs(), x.upper.abs())
    network = torch.zeros_like(group.centre)
    if bool((group.variance_error > 0).any()):
        network = _network_error(context, group, largest, floor)
    return Normalised(x.lower, x.upper, off * steep, steep / scale, apart / scale, network)


def _valid(context: Context, low: Tensor, high: Tensor) -> Tensor:
    """Groups whose numbers are all known, and of which no network's sum of squares overflows."""
    valid = (low.isfinite() & high.isfinite()).all(-1, keepdim=True)
    if context.rounding.network:
        largest = torch.maximum(low.detach().abs(), high.detach().abs()).amax(-1, keepdim=True)
        valid = valid & (largest * largest * (4.0 * low.shape[-1]) < context.rounding.overflow)
    return valid


def _network_error(context: Context, group: NormGroup, largest: Tensor, floor: Tensor) -> Tensor:
    """What a network's own quotient may be off by; infinite where it loses as much as the variance."""
    few = context.rounding.of_operation(16)
    left = floor - group.variance_error
    steeper = torch.where(left > 0, left, 1.0).rsqrt()
    return (group.centring_error * steeper + largest * (group.variance_error / left)).where(
        left > 0, torch.inf
    ) + few * largest


def _by_tangent(context: Context, group: NormGroup, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    r"""The same ends by the mean value theorem, which for narrow intervals counts every operand once.

    .. math:: |y_i(x) - y_i(c)| \le \sum_j r_j \sup |\delta_{ij} - (1 + y_i y_j) / n| / \sqrt{v + e} ,

    with :math:`y_j` in the ends that are known already.
    """
    n = group.centre.shape[-1]
    off, mean_error, every, _, moved, lost, error = moments(context, group)
    r = group.radius
    floor = (every - moved - lost).clamp(min=0.0) + group.eps[0]
    flat, steep = (every + lost + group.eps[1]).rsqrt(), ((every - lost).clamp(min=0.0) + group.eps[0]).rsqrt()
    few = context.rounding.of_operation(16)
    middle = off * (flat + steep) / 2
    middle_error = (off.abs() + mean_error) * (steep - flat) + mean_error * steep + few * off.abs() * steep
    apart = torch.maximum(upper - middle, middle - lower).clamp(min=0.0)
    sums = torch.matmul((middle[..., :, None] * middle[..., None, :] + 1.0).abs(), r[..., None])[..., 0]
    others = sums * (1.0 + error) - (1.0 + middle * middle) * r * (1.0 - error)
    size = middle.abs()
    bent = size * (apart * r).sum(-1, keepdim=True) + apart * ((size + apart) * r).sum(-1, keepdim=True)
    diagonal = (n - 1.0 - (size - apart).clamp(min=0.0).square()).clamp(min=0.0) * r
    radius = floor.rsqrt() / n * (others + bent + diagonal) * (1.0 + 2.0 * error + few) + middle_error
    if context.rounding.of_operation() > 2.0 * context.rounding.roundoff:
        radius = radius + _network_error(context, group, size + apart, floor)
    better = radius.isfinite() & middle.isfinite() & lower.isfinite() & upper.isfinite()
    low, high = torch.maximum(lower, middle - radius), torch.minimum(upper, middle + radius)
    return torch.where(better, low, lower), torch.where(better, high, upper)


def _centred(context: Context, group: NormGroup) -> tuple[Tensor, Tensor, Tensor]:
    r"""Ends of ``(x - mean) / sqrt(variance + eps)``, and the least of what the root is taken of.

    With :math:`\mu, v` the mean and variance of the n numbers of a group, :math:`N_i = x_i - \mu` and :math:`v'_i` the
    variance of the others, :math:`v = N_i^2/(n-1) + \frac{n-1}{n} v'_i`, so

    .. math:: y_i = \frac{N_i}{\sqrt{v + e}} = q(N_i, W_i), \quad q(a, W) = \frac{a}{\sqrt{a^2/(n-1) + W}},
              \quad W_i = \tfrac{n-1}{n} v'_i + e .

    :math:`q` rises in a and falls in size with W, so the range of :math:`N_i` (the own operand counted once) and of
    :math:`W_i` give bounds that are exact but for what both share, and never leave :math:`\pm\sqrt{n-1}`. Intervals
    :math:`c \pm r` of the others, whose mean of centres is :math:`m_i`, give

    .. math:: \Big|\, nW_i - ne - \sum_{j \ne i} (c_j - m_i)^2 \Big| \le 2 \sum_{j \ne i} |c_j - m_i| r_j
              \;(+ \sum_{j \ne i} r_j^2 \text{ above}),

    below because a sum of squares is convex and lies above its tangent, above because the sum of squares around any
    number is at least that around the mean. :math:`|c_j - m_i| \le |c_j - m| + |c_i - m|/(n-1)` makes it one pass.
    Besides, :math:`v` is at least the least of :math:`\sum_j \mathrm{dist}(t, [l_j, u_j])^2 / n` over t, which is exact
    over a box of all operands (a projection onto the constant vectors): the better of both is taken.
    """
    n = group.centre.shape[-1]
    if n == 1:
        # A number less itself; but a network may multiply both first.
        gone, floor = group.eps[0] <= 0.0, group.eps[0]
        bound = torch.where(
            gone, torch.nan, group.centring_error * floor.rsqrt() * (1.0 + context.rounding.of_operation(16))
        )
        return -bound, bound, floor
    off, mean_error, every, wide, moved, lost, error = moments(context, group)
    r, size, lost = group.radius, off.abs() + mean_error, lost + group.variance_error
    spread = (1.0 - 1.0 / n) * r + (r.sum(-1, keepdim=True) - r) / n
    spread = spread * (1.0 + error) + off.abs() * error + mean_error
    # What the variance of the others leaves of that of all, as sums divided by n.
    alone = every - off * off / (n - 1)
    apart = moved + (2.0 * (1.0 + error) / n) * (size * (r.sum(-1, keepdim=True) - r) / (n - 1) - size * r)
    below = (alone - apart).clamp(min=0.0) - lost + group.eps[0]
    above = alone + apart + (wide - r * r / n) * (1.0 + error) + lost + group.eps[1]
    least = torch.maximum(every - moved, least_variance(group, every - moved < 0.5 * every))
    floor = (least - lost).clamp(min=0.0) + group.eps[0]
    few = context.rounding.of_operation(16)
    # No quotient is larger, whatever the variance, but for what a network loses of it.
    cap = ((n - 1) * (1.0 + group.variance_error / floor)).sqrt()

    def most(numerator: Tensor) -> Tensor:
        """The largest quotient whose numerator, before a network's rounding of it, is at most ``numerator``."""
        top, rounded = numerator.clamp(min=0.0), numerator + group.centring_error
        whole = torch.where(below >= 0, torch.maximum(numerator * numerator / (n - 1) + below, floor), floor)
        positive = torch.minimum(top / whole.sqrt(), cap) + (rounded.clamp(min=0.0) - top) / floor.sqrt()
        negative = rounded / (numerator * numerator / (n - 1) + above).sqrt()
        return torch.where(rounded >= 0, positive * (1.0 + few), negative * (1.0 - few))

    upper, lower = most(off + spread), -most(spread - off)
    gone = floor <= 0.0
    return torch.where(gone, torch.nan, lower), torch.where(gone, torch.nan, upper), floor


def _uncentred(context: Context, group: NormGroup) -> tuple[Tensor, Tensor, Tensor]:
    """Ends of ``x / sqrt(mean(x ** 2) + eps)``, exact (own and other operands are independent), and as above."""
    n = group.centre.shape[-1]
    error = 4.0 * (n + 16) * context.rounding.roundoff
    low, high = group.centre - group.radius, group.centre + group.radius
    inner = torch.maximum(low.clamp(min=0.0), (-high).clamp(min=0.0)).square()
    outer = torch.maximum(low.abs(), high.abs()).square()
    least, most = (t.mean(-1, keepdim=True) for t in (inner, outer))
    below = (least * (1.0 - error) - inner / n).clamp(min=0.0) + group.eps[0]
    above = most * (1.0 + error) - outer / n + group.eps[1]
    # A network's mean of squares errs relatively, in any order.
    few = context.rounding.of_sum(n) + context.rounding.of_operation(16)
    under = underflowed(context, group.scale)
    below, above = (below - under).clamp(min=0.0), above + under

    def end(numerator: Tensor) -> Tensor:
        size = numerator / (numerator * numerator / n + torch.where(numerator >= 0, below, above)).sqrt()
        return torch.where(numerator > 0, size * (1.0 + few), torch.where(numerator < 0, size * (1.0 - few), 0.0))

    upper, lower = end(high), -end(-low)
    floor = (least * max(1.0 - error - few, 0.0) - under).clamp(min=0.0) + group.eps[0]
    gone = (least * (1.0 - error) - under).clamp(min=0.0) + group.eps[0] <= 0.0
    return torch.where(gone, torch.nan, lower), torch.where(gone, torch.nan, upper), floor
