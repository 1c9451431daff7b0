"""What the measurements are given, checked: data, levels, device, and a copy of the network to work on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thetabox import checks
from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.models.copies import Logits, working_copy
from thetabox.models.failure import failure
from thetabox.models.plain import plain
from thetabox.models.twins import RUNNING

__all__ = [
    "Levels",
    "Logits",
    "boxed",
    "checked",
    "class_count",
    "levels",
    "numbers_for",
    "own_precision",
    "working_copy",
]

Levels = float | Sequence[float] | np.ndarray | Tensor


def levels(values: Levels, what: str) -> list[float]:
    """A number or several as a list.

    Raises:
        InputError: empty, not numbers, negative, NaN or infinite.
    """
    numbers: list[float] = checks.numbers(values, what).tolist()
    return numbers


def checked(model: nn.Module, x: Any, y: Any) -> tuple[nn.Module, Tensor, Tensor]:
    """The network as one that returns logits, inputs and labels as CPU tensors, in memory of their own.

    Raises:
        InputError: no network, weights or inputs that are not finite, no samples, a network that fails on them or
            returns no logits, lengths that differ, or labels that are not integers.
    """
    with RUNNING:
        asked = plain(model, x, keep_indices=True, stacklevel=4)
    return asked.model, asked.x, checks.labels(y, len(asked.x))


def boxed(model: nn.Module, box: Box) -> dict[str, tuple[Tensor, Tensor]]:
    """(θ, its radius at ε = 1) in float64 of every tensor in the box, by its name in ``model``.

    Raises:
        InputError: nothing is in the box or moves in it, or a pattern matches nothing.
    """
    with RUNNING:
        return _boxed(model, box)


def _boxed(model: nn.Module, box: Box) -> dict[str, tuple[Tensor, Tensor]]:
    box.check(model)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = {}
    for name, factor in box.factors(model).items():
        theta = tensors[name].detach().cpu().double()
        values[name] = (theta, box.unit_radius(theta) * factor)
    return values


def class_count(model: nn.Module, example: Tensor, labels: Tensor) -> int:
    """Number of logits, from one sample; a forward pass that fails is the user's to know about.

    Raises:
        InputError: the network does not take such inputs, returns no [N, K] logits, or labels lie outside 0 … K − 1.
    """
    try:
        output = model(example)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise failure(model, example.shape, error) from None
    if output.ndim != 2 or output.shape[1] < 2:
        raise InputError(f"the network returns shape {list(output.shape)}; logits must be [batch, classes ≥ 2]")
    classes = output.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"labels run from {labels.min()} to {labels.max()}; the network knows 0 to {classes - 1}")
    return classes


def precise_copy(model: nn.Module, x: Tensor, y: Tensor, device: torch.device) -> Logits:
    """A copy in float64, to judge in, that takes such inputs and knows these classes.

    Raises:
        InputError: as :func:`class_count`.
    """
    copy = working_copy(model, device, torch.float64)
    class_count(copy, numbers_for(x[:1], device, torch.float64), y)
    return copy


def own_precision(model: nn.Module) -> torch.dtype:
    """The precision that a network computes in: float64 if any of its weights has that, else float32."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return torch.float64 if torch.float64 in kinds else torch.float32


def numbers_for(x: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """``x`` on the device; floating inputs in the network's precision."""
    return x.to(device=device, dtype=dtype if x.is_floating_point() else None)
