"""A spike and its pseudo-derivative, by which networks of spiking neurons are trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SURROGATE_HEIGHT = 0.3


class Spike(torch.autograd.Function):
    r"""Spike :math:`H(v - A)` with :math:`H(0) = 0`, and a triangular pseudo-derivative.

    Backward: :math:`\partial z/\partial u = 0.3 \max(1 - |u|, 0)` with :math:`u = (v - A)/A`
    (Bellec et al. 2018, Long short-term memory and learning-to-learn in networks of spiking neurons).
    Forward compares v with A themselves: the quotient would flip the sign where A ≤ 0.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, threshold: Tensor) -> Tensor:
        return (v > threshold).to(v.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        (grad,) = grad_outputs
        v, threshold = ctx.saved_tensors
        ratio = v / threshold
        slope = grad * surrogate(ratio) / threshold
        return slope, -slope * ratio


def surrogate(ratio: Tensor) -> Tensor:
    """Slope of the spike over u = ratio − 1, ratio = v/A."""
    return SURROGATE_HEIGHT * (1 - (ratio - 1).abs()).clamp(min=0)
