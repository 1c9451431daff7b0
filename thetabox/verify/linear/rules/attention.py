r"""Scaled dot-product attention backwards: its tangent at the middle of the box, less what is lost by bending.

With middles :math:`q, k, v` of the operands, :math:`p` their weights and :math:`W = A v^\top`,

.. math:: \langle A, \hat p \hat v \rangle = \langle A, p \hat v \rangle + \langle W, \hat p - p \rangle
          + \langle A, (\hat p - p)(\hat v - v) \rangle .

The first is linear in the values; the second goes through the tangent of the softmax (see
:mod:`~thetabox.verify.linear.rules.groups`) to the scores, and from them to queries and keys as
:math:`\hat q \hat k^\top = q \hat k^\top + \hat q k^\top - q k^\top + (\hat q - q)(\hat k - k)^\top`. What is left are
products of two deviations, bounded by products of radii: small of second order. After Shi et al., Robustness
Verification for Transformers, ICLR 2020, who bound the products by planes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.rules.attention import bounded_scores, factor_of, weights_error
from thetabox.verify.interpreter.rules.softmax import softmax_ends
from thetabox.verify.linear.constant import ROUNDOFF, gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.walk import Stop, Walk, backward, flat
from thetabox.verify.network.graph import Operation, Ref

FEW = 16


@backward("aten.scaled_dot_product_attention.default")
def attention(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """``softmax(q kᵀ scale + mask) v``."""
    samples, rounding = walk.samples, walk.samples.rounding
    indices = _checked(walk, operation)
    causal = len(operation.args) > 5 and bool(operation.args[5])
    mask = _mask(walk, operation)
    (q, rq), (k, rk), (v, rv) = (_middle(*walk.ends(i)) for i in indices)
    with samples.at(operation) as context:
        query, key = (Interval(*walk.ends(i), batch=0) for i in indices[:2])
        factor = factor_of(context, query, operation.kwargs.get("scale"))
        low, high = bounded_scores(context, query, key, mask, causal, factor)
        error = weights_error(context, low, high) + rounding.of_dot(k.shape[-2])
    ends = softmax_ends(rounding, low, high, -1)
    least, most = ends.lower, ends.upper
    gone = high == -torch.inf
    middle = torch.matmul(q, k.transpose(-1, -2)) * factor
    scores = (middle if mask is None or _of_truth(mask, operation, walk) else middle + mask.lower).masked_fill(
        gone, -torch.inf
    )
    share = scores.softmax(-1).nan_to_num(0.0)
    finite_scores = scores.masked_fill(gone, 0.0)
    radius = torch.maximum(high - finite_scores, finite_scores - low).masked_fill(gone, 0.0) * (1.0 + gamma_sum(FEW))
    radius = radius + finite_scores.abs() * gamma_sum(q.shape[-1] + FEW)
    off = torch.maximum(most - share, share - least).clamp(min=0.0)
    # The second term: weights, by the tangent or by their intervals.
    weight = torch.matmul(a, v[:, None].transpose(-1, -2))
    apart = weight - (weight * share[:, None]).sum(-1, keepdim=True)
    moved = (apart.abs() * off[:, None]).sum(-1, keepdim=True) * (1.0 + gamma_sum(k.shape[-2]))
    lost = ((apart.abs() * off[:, None] + moved * most[:, None]) * radius[:, None]).sum(-1)
    rise = apart * share[:, None] * factor
    crossed = (rise.abs() * torch.matmul(rq, rk.transpose(-1, -2))[:, None]).sum(-1)
    plain = (apart.clamp(min=0.0) * (least - share)[:, None] + apart.clamp(max=0.0) * (most - share)[:, None]).sum(-1)
    here = -(lost + crossed) * (1.0 + gamma_sum(k.shape[-2] + q.shape[-1] + FEW))
    use = here - (rise.abs() * (radius / max(abs(factor), 1e-300))[:, None]).sum(-1) > plain
    walk.constant.add(flat(torch.where(use, here, plain), 2).sum(2))
    rise = torch.where(use[..., None], rise, 0.0)
    # The third: deviations of weights and values together.
    both = torch.matmul(a.abs(), rv[:, None].transpose(-1, -2)) * off[:, None]
    count = a[0, 0].numel() * k.shape[-2]
    walk.constant.lose(flat(both, 2).sum(2), count)
    walk.constant.add(-2.0 * flat(rise * torch.matmul(q, k.transpose(-1, -2))[:, None], 2).sum(2))
    # Rounding: |rise| is at most p (|W| + <p, |W|>), its products with the scores at most those of the sizes.
    size = torch.matmul(q.abs() + rq, (k.abs() + rk).transpose(-1, -2)) * (abs(factor) * (1.0 + gamma_sum(FEW)))
    values = v.abs() + rv
    mean = torch.matmul(most, values)
    term_size = mean * (1.0 + (most * size).sum(-1, keepdim=True)) + torch.matmul(most * size, values)
    lost_by_network = torch.zeros_like(mean)
    if rounding.network:
        scored = size + (0.0 if mask is None else mask.lower.abs().masked_fill(gone, 0.0))
        wrong = (rounding.of_dot(q.shape[-1]) + rounding.of_operation(16)) * scored.masked_fill(gone, 0.0)
        lost_by_network = mean * (error + torch.expm1(2.0 * wrong.amax(-1, keepdim=True)))
    relative = gamma_sum(8 * count + FEW)
    tiny = (k.shape[-2] + 2) * 4.0 * rounding.flushed
    walk.penalty(a, term_size * (8.0 * relative) + lost_by_network + tiny * (1.0 + values.amax()), 1.0 + 1e-9)
    walk.give(indices[2], torch.matmul(share[:, None].transpose(-1, -2), a))
    walk.give(indices[0], torch.matmul(rise, k[:, None]))
    walk.give(indices[1], torch.matmul(rise.transpose(-1, -2), q[:, None]))


def _checked(walk: Walk, operation: Operation) -> list[int]:
    """Where query, key and value stand.

    Raises:
        Stop: other forms of attention, or operands that spread over the samples or heads of others.
    """
    if not walk.frame.whole or not set(operation.kwargs) <= {"scale"} or len(operation.args) > 6:
        raise Stop
    indices = [walk.operand(operation, place) for place in range(3)]
    if len({walk.samples.interval(i).lower.shape[:-2] for i in indices}) != 1:
        raise Stop
    return indices


def _middle(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and radius."""
    centre = (lower + upper) / 2
    return centre, (upper - lower) / 2 * (1.0 + 8.0 * ROUNDOFF) + centre.abs() * (8.0 * ROUNDOFF)


def _mask(walk: Walk, operation: Operation) -> Interval | None:
    """The mask as an exact tensor that is the same for all samples.

    Raises:
        Stop: it is none.
    """
    argument = operation.args[3] if len(operation.args) > 3 else None
    if argument is None:
        return None
    held = walk.samples.values[argument.index] if isinstance(argument, Ref) else None
    if isinstance(held, Parameter) and not held.factor and not held.theta_error:
        return Interval.point(held.theta)
    if isinstance(held, Interval) and held.is_point and held.slack == 0.0 and held.batch is None and not held.by_row:
        return held
    raise Stop


def _of_truth(mask: Interval, operation: Operation, walk: Walk) -> bool:
    """Whether a mask says what gets through, rather than being added."""
    return walk.samples.graph.dtypes.get(operation.args[3].index) is torch.bool
