r"""Weights that are given by their directions and their sizes (Salimans and Kingma, NeurIPS 2016).

:math:`w = g\, v / \lVert v \rVert`, with the norm over all dimensions but one. An entry of
:math:`v / \lVert v \rVert` is :math:`v_i / \sqrt{v_i^2 + r}` with :math:`r` the squares of the others: it rises with
:math:`v_i`, and comes nearer to 0 as :math:`r` grows, so that its ends are exact though :math:`v_i` stands in it twice.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.table import rule

# Sums of squares between these neither overflow nor lose squares that count, in float32 and in float64.
WITHIN = {True: (1e-28, 1e30), False: (1e-280, 1e300)}


@rule("aten._weight_norm.default")
def weight_norm(context: Context, v: Interval, g: Interval, dim: int = 0) -> Interval:
    """``v`` of unit length but for ``g``, over all dimensions but one (``dim = -1``: over all)."""
    over = [d for d in range(v.lower.dim()) if d != dim]
    terms = max(1, v.lower.numel() // (v.lower.shape[dim] if dim >= 0 else 1))
    error = context.rounding.of_dot(terms) + context.rounding.of_operation(8)
    near = torch.where((v.lower <= 0) & (v.upper >= 0), 0.0, torch.minimum(v.lower.abs(), v.upper.abs())).square()
    far = torch.maximum(v.lower.abs(), v.upper.abs()).square()
    least, most = near.sum(over, keepdim=True), far.sum(over, keepdim=True)
    low, high = WITHIN[bool(context.rounding.network)]
    valid = (least > low) & (most < high)
    # What is left of a sum without one of its terms is as exact as the sum.
    others_least = (least * (1.0 - error) - near).clamp(min=0.0)
    others_most = most * (1.0 + error) - far
    lower = _share(v.lower, torch.where(v.lower >= 0, others_most, others_least))
    upper = _share(v.upper, torch.where(v.upper >= 0, others_least, others_most))
    products = torch.stack(torch.broadcast_tensors(*(a * b for a in (lower, upper) for b in (g.lower, g.upper))))
    ends = products.amin(0), products.amax(0)
    rounding_error = torch.maximum(ends[0].abs(), ends[1].abs()) * error + context.rounding.flushed
    valid = valid & rounding_error.isfinite()
    # 0 / 0 is no number, and nothing behind it makes one.
    low_end, high_end = (
        end.masked_fill(~valid, torch.nan) for end in (ends[0] - rounding_error, ends[1] + rounding_error)
    )
    return replace(v, lower=low_end, upper=high_end, slack=0.0, bound=None, nonnegative=False, owned=False)


@rule("aten._weight_norm_interface.default")
def weight_norm_interface(context: Context, v: Interval, g: Interval, dim: int = 0) -> tuple[Interval, None]:
    """The form of a decomposed export."""
    return weight_norm(context, v, g, dim), None


def _share(v: Tensor, others: Tensor) -> Tensor:
    """``v / sqrt(v² + others)``, between -1 and 1; 0 of nothing is 0."""
    length = (v.square() + others).sqrt()
    return torch.where(length > 0, v / torch.where(length > 0, length, 1.0), 0.0).clamp(-1.0, 1.0)
