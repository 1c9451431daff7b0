"""Few histories out of many: those that are most alike are hulled."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def merged(
    children: Float[Tensor, "ends neurons many"],
    there: Bool[Tensor, "neurons many"],
    key: Float[Tensor, "neurons many"],
    most: int,
) -> Float[Tensor, "ends neurons most"]:
    """At most ``most`` histories that cover all that are there, in the first slots; the other slots are infinite.

    They are put in the order of their keys and cut at the widest gaps between neighbours.

    Args:
        children: lower ends, and upper ends negated, so that a hull is a minimum.
        there: which of them there are.
        key: where each lies on a line.
        most: slots of the result.
    """
    key, order = torch.where(there, key, math.inf).sort(1)
    count = there.sum(1, keepdim=True)
    many = key.shape[1]
    segment = torch.arange(many, device=key.device).expand(len(key), many)
    if many > most:
        gap = torch.where(segment[:, 1:] < count, key[:, 1:] - key[:, :-1], -math.inf)
        cut = torch.zeros_like(gap, dtype=torch.long)
        if most > 1:
            cut.scatter_(1, gap.topk(most - 1, 1).indices, 1)
        by_gap = torch.nn.functional.pad(cut.cumsum(1), (1, 0))
        segment = torch.where(count > most, by_gap, segment.clamp(max=most - 1))
    # Where each child goes, in the order in which they came; those that are not there to one slot more.
    segment = torch.empty_like(order).scatter_(1, order, segment).masked_fill_(~there, most)
    out = children.new_full((len(children), len(key), most + 1), math.inf)
    return out.scatter_reduce_(2, segment.expand_as(children), children, "amin")[..., :most]
