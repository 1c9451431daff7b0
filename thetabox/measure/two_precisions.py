"""A network in two precisions, its own, to search in, and float64, to judge in; the box of its weights; its margins."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.measure.inputs import boxed, own_precision, working_copy


class TwoPrecisions:
    """A network to search and to judge weights of the box with.

    Args:
        model: the network; it stays as it is.
        box: which tensors move and how far.
        device: where it is computed.

    Attributes:
        dtype: the network's own precision.
        fast, precise: copies in that precision and in float64.
        tensors: name → (θ, its radius at ε = 1), float64, of every tensor in the box.
    """

    def __init__(self, model: nn.Module, box: Box, device: torch.device) -> None:
        self.dtype = own_precision(model)
        self.device = device
        self.fast, self.precise = working_copy(model, device, self.dtype), working_copy(model, device, torch.float64)
        self.tensors = {name: (t.to(device), r.to(device)) for name, (t, r) in boxed(model, box).items()}


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """Min over k ≠ y of logit_y − logit_k, row by row."""
    right = torch.arange(logits.shape[1], device=y.device) == y[:, None]
    return torch.where(right, logits, 0).sum(1) - torch.where(right, -torch.inf, logits).amax(1)
