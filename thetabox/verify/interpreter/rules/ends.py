"""From the centre and radius of a layer's outputs to their ends."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context

# product(input, weight, bias or None): linear in both operands, adds the bias.
Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def ends(
    context: Context,
    middle: Tensor,
    around: Tensor,
    relative: float,
    scale: float = 1.0,
    *,
    keep: bool = False,
    sizes: tuple[float, float] | None = None,
) -> Interval:
    """``middle ± scale around``; where either overflowed nothing is known, and what is no number stays none.

    Written over ``middle`` where it fits, unless that is to be kept. With ``sizes``, the largest absolute values of
    both, the ends are not looked at.
    """
    limit = context.rounding.overflow
    # A partial sum of the network may overflow once Σ|w||x| does; around holds at least relative times it.
    if limit < math.inf:
        largest = float(around.detach().max()) if sizes is None else sizes[1]
        if not largest * scale < relative * limit:
            around, sizes = torch.where(around * scale < relative * limit, around, torch.inf), None
    lower = torch.sub(middle, around, alpha=scale)
    if keep or middle.shape != lower.shape:
        upper = torch.add(middle, around, alpha=scale)
    else:
        upper = middle.add_(around, alpha=scale)
    if not lower.numel():
        return Interval(lower, upper)
    if sizes is None:
        least, greatest = float(lower.detach().amin()), float(upper.detach().amax())
        size = max(-least, greatest, 0.0) if math.isfinite(least) and math.isfinite(greatest) else math.inf
    else:
        size = (sizes[0] + scale * sizes[1]) * (1.0 + 4.0 * context.rounding.roundoff) * SAFETY
        size = size if size < torch.finfo(lower.dtype).max else math.inf
    if math.isfinite(size):
        return Interval(lower, upper, bound=size, owned=True)
    finite = torch.isfinite(lower) & torch.isfinite(upper)
    # Of no number, nor of infinity less infinity, a sum is none, whatever is computed from it.
    known = ~(lower.isnan() & upper.isnan())
    infinite = Interval(torch.where(finite, lower, -torch.inf), torch.where(finite, upper, torch.inf))
    return infinite.map(lambda t: torch.where(known, t, torch.nan))


def centre_radius(x: Interval, roundoff: float, floor: float) -> tuple[Tensor, Tensor]:
    """The other way: both computed with relative error ``roundoff``, which the radius covers."""
    if x.is_point:
        return x.lower, torch.zeros_like(x.lower)
    centre = (x.lower + x.upper) / 2
    return centre, (x.upper - x.lower) / 2 * (1.0 + 4.0 * roundoff) + centre.abs() * (4.0 * roundoff) + floor


def samples(x: Interval, rank: int) -> int:
    """The samples' dimension of a product with ``x`` that has ``rank`` dimensions.

    The last ones of both are the same: a stack of matrices puts its own in front.
    """
    assert x.batch is not None
    return x.batch + rank - x.lower.dim()
