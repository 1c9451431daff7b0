"""Share of samples that a network gets right."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thetabox.measure.inputs import numbers_for


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, device: torch.device, dtype: torch.dtype, chunk: int) -> float:
    """Right classes of a plain ``model(x) -> logits``, over all samples, ``chunk`` of them in one pass."""
    right = 0
    for start in range(0, len(x), chunk):
        logits = model(numbers_for(x[start : start + chunk], device, dtype))
        right += int((logits.argmax(1).cpu() == y[start : start + chunk]).sum())
    return right / len(x)
