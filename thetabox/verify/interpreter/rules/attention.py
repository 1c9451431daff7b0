r"""Scaled dot-product attention: scores, their softmax, and a mean of values weighted by it.

The weights of a mean add up to 1, so for any :math:`\lambda` (here the mean of the centres of all values of a column)
:math:`\sum_j p_j v_j = \lambda + \sum_j p_j (v_j - \lambda)`, and with :math:`p_j \in [p_j^-, p_j^+]`

.. math:: \sum_j p_j v_j \le \lambda + \sum_j p_j^+ (u_j - \lambda)^+ - p_j^- (u_j - \lambda)^- ,

two products whatever the shapes, by what the weights may move only times how far values lie apart. (The same identity
holds back the loss of a sum of products in Shi et al., Robustness Verification for Transformers, ICLR 2020.)

**A network's own rounding.** Scores err as dot products do, whether the scale is applied to the factors, by its root,
or to the product; the exponential by 32 units in the last place, for the fused kernel of torch has one of 20. The fused
kernels go through the keys in blocks and rescale what they have at each: an exponential of the rise of the maximum and
a product more for each block of 64, and rises add up to no more than the exponents themselves.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.activation import EXPONENT
from thetabox.verify.interpreter.rules.affine import product_of_values
from thetabox.verify.interpreter.rules.elementwise import scaled
from thetabox.verify.interpreter.rules.literals import literal_error
from thetabox.verify.interpreter.rules.softmax import softmax_ends, sum_error
from thetabox.verify.interpreter.rules.table import rule

# Of the exponential of a fused kernel, and keys that one goes through at once.
ULPS = 32
BLOCK = 64


@rule("aten.scaled_dot_product_attention.default")
def attention(
    context: Context,
    query: Interval,
    key: Interval,
    value: Interval,
    attn_mask: Interval | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> Interval:
    """``softmax(q kᵀ scale + mask) v``; the weights add up to 1, which their intervals alone do not say."""
    if dropout_p:
        raise InputError(f"{context.where} drops weights at random; only evaluation mode has a rule")
    if any(v.batch is not None and v.batch >= v.lower.dim() - 2 for v in (query, key, value)):
        raise InputError(f"{context.where} mixes samples")
    low, high = bounded_scores(context, query, key, attn_mask, is_causal, factor_of(context, query, scale))
    return _weighted(context, low, high, value)


def factor_of(context: Context, query: Interval, scale: float | None) -> float:
    """What products are multiplied by.

    Raises:
        InputError: it is no finite number.
    """
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    if not math.isfinite(factor):
        raise InputError(f"{context.where} scales by {factor}; give it a finite number")
    return factor


def bounded_scores(
    context: Context, query: Interval, key: Interval, mask: Interval | None, is_causal: bool, factor: float
) -> tuple[Tensor, Tensor]:
    """Ends of ``q kᵀ factor + mask``; minus infinity at both where nothing gets through."""
    transposed = replace(key.moved(lambda t: t.transpose(-1, -2)), owned=False)
    scores = _scores(context, product_of_values(context, query, transposed), factor)
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.lower.device).tril()
        return scores.lower.masked_fill(~allowed, -torch.inf), scores.upper.masked_fill(~allowed, -torch.inf)
    return (scores.lower, scores.upper) if mask is None else _masked(context, scores, mask)


def _scores(context: Context, product: Interval, factor: float) -> Interval:
    """Scaled, all rounding in the ends; products of factors that its root was applied to have four more roundings."""
    rounding, size = context.rounding, product.magnitude
    out = scaled(context, replace(product, batch=None), factor)
    out.slack += (rounding.of_operation(8) * abs(factor) + literal_error(context, factor)) * size
    # A factor may underflow before it meets the other.
    out.slack += rounding.subnormal * (1.0 + abs(factor)) * (1.0 + size)
    return out.settled(rounding.roundoff)


def _masked(context: Context, scores: Interval, mask: Interval) -> tuple[Tensor, Tensor]:
    """Scores of what a mask of truth values lets through, or with a mask of numbers added to them."""
    kinds = () if context.kind is None else context.kind.operands
    if len(kinds) > 3 and kinds[3] is torch.bool:
        may, must = mask.upper > 0, mask.lower >= 1
        low, high = torch.where(must, scores.lower, -torch.inf), torch.where(may, scores.upper, -torch.inf)
        gone = scores.lower.isnan() | scores.upper.isnan()
        return low.masked_fill(gone, torch.nan), high.masked_fill(gone, torch.nan)
    unit = context.rounding.of_operation(2)
    low, high = scores.lower + mask.lower, scores.upper + mask.upper
    least = torch.minimum(low, low - unit * low.abs()).where(low.isfinite(), low)
    most = torch.maximum(high, high + unit * high.abs()).where(high.isfinite(), high)
    return least, most


def _weighted(context: Context, low: Tensor, high: Tensor, value: Interval) -> Interval:
    """Values weighted by the softmax of scores in ``[low, high]``."""
    rounding, keys = context.rounding, low.shape[-1]
    roundoff = rounding.roundoff
    exact = replace(rounding, arithmetic="real") if rounding.network else rounding
    weights = softmax_ends(exact, low, high, -1)
    least, most = weights.lower, weights.upper
    centre = value.lower if value.is_point else (value.lower + value.upper) / 2
    middle = centre.detach().mean(-2, keepdim=True)
    down, up = value.lower - middle, value.upper - middle
    size = torch.maximum(value.lower.abs(), value.upper.abs()) + middle.abs()
    lower = torch.matmul(least, down.clamp(min=0.0)) + torch.matmul(most, down.clamp(max=0.0))
    upper = torch.matmul(most, up.clamp(min=0.0)) + torch.matmul(least, up.clamp(max=0.0))
    relative = weights_error(context, low, high) + (rounding.of_dot(keys) + 16.0 * roundoff)
    radius = torch.matmul(most, size * (1.0 + 4.0 * roundoff)) * relative + (keys + 2) * 4.0 * rounding.flushed * (
        1.0 + size.detach().amax()
    )
    if rounding.network:
        radius = torch.where(radius < relative * rounding.overflow / 4.0, radius, torch.nan)
    return Interval(lower + middle - radius, upper + middle + radius)


def weights_error(context: Context, low: Tensor, high: Tensor) -> Tensor:
    """What a network's own weights err by, relatively, ``[..., queries, 1]``."""
    rounding, keys = context.rounding, low.shape[-1]
    least = low.detach().masked_fill(low == -torch.inf, torch.inf).amin(-1, keepdim=True)
    spread = (high.detach().amax(-1, keepdim=True) - least).clamp(min=0.0, max=EXPONENT)
    blocks = math.ceil(keys / BLOCK) - 1
    few = rounding.of_operation(2 * ULPS + 16 + 2 * (ULPS + 8) * blocks)
    return spread * rounding.of_operation(4) + (2.0 * sum_error(rounding, keys, ULPS) + few)
