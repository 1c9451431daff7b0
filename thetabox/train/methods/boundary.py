"""How far the outputs of a disturbed network are from the clean ones: the boundary losses of the weight attack."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax


def kl(clean: Float[Tensor, "batch classes"], other: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    r"""Mean over the batch of :math:`\mathrm{KL}(p \| q)` in nats.

    .. math:: \mathrm{KL}(p \| q) = \sum_k p_k \ln(p_k/q_k)

    with p the softmax of the clean logits, q that of the others.
    """
    return _divergence(log_softmax(clean, 1), log_softmax(other, 1))


def reverse_kl(clean: Float[Tensor, "batch classes"], other: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    r"""Mean of :math:`\mathrm{KL}(q \| p)`."""
    return kl(other, clean)


def js(clean: Float[Tensor, "batch classes"], other: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    r"""Mean of the Jensen-Shannon divergence :math:`(\mathrm{KL}(p \| m) + \mathrm{KL}(q \| m))/2, m = (p + q)/2`."""
    p, q = log_softmax(clean, 1), log_softmax(other, 1)
    middle = torch.logaddexp(p, q) - math.log(2)
    return (_divergence(p, middle) + _divergence(q, middle)) / 2


def l2(clean: Float[Tensor, "batch classes"], other: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    r"""Mean of :math:`\|z - z^*\|_2`, the Euclidean distance of the logits."""
    return torch.linalg.vector_norm(clean - other, dim=1).mean()


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(1).mean()


BOUNDARY_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": kl,
    "reverse-kl": reverse_kl,
    "js": js,
    "l2": l2,
}
"""Name → loss(clean logits, disturbed logits); the four of the code beside arXiv 2106.05009."""
