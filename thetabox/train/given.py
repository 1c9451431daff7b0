"""Training data as they are given, and whether a network takes them."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from thetabox import checks
from thetabox.errors import InputError
from thetabox.models import logits


class Labelled(Protocol):
    """Anything with inputs ``x [N, ...]`` and labels ``y [N]``, such as ``thetabox.data.Dataset``."""

    @property
    def x(self) -> Any: ...

    @property
    def y(self) -> Any: ...


Data = Labelled | tuple[Any, Any]


def arrays(data: Data, name: str, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Inputs and labels on the device, in the type in which the network computes.

    Args:
        data: of the caller.
        name: of these data, for messages.
        device, dtype: of the training.

    Raises:
        InputError: no pair of them, none at all, NaN, or labels that are no classes.
    """
    try:
        x, y = data if isinstance(data, tuple | list) else (data.x, data.y)
    except (AttributeError, ValueError):
        raise InputError(f"the {name} data must have x and y, or be a pair of them") from None
    # Not copied: every batch is, and a data set may be large.
    x = checks.array(x, f"x of the {name} data", copy=False)
    if x.ndim == 0 or x.numel() == 0:
        raise InputError(f"the {name} data is empty")
    if x.is_floating_point():
        x = x.to(dtype)  # as the network computes; nothing is claimed of the samples of a training
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"the {name} inputs hold NaN or infinite values")
    y = checks.labels(y, len(x), f"y of the {name} data")
    if int(y.min()) < 0:
        raise InputError(f"the {name} labels must be integers of at least 0")
    return x.to(device), y.to(device)


def check_fits(model: nn.Module, x: Tensor, y: Tensor, held_out: tuple[Tensor, Tensor]) -> None:
    """One forward pass before anything is trained: input shape and number of classes."""
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            output: Any = logits(model, x[:1])
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        detail = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"the network does not take inputs of shape {list(x.shape[1:])}: {detail}") from None
    finally:
        model.train(mode)
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != 1:
        held = f"{list(output.shape)} for one sample" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise InputError(f"training takes networks that return logits [samples, classes], and this one returns {held}")
    classes = output.shape[1]
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError("the network has no parameter that is trained (requires_grad), so there is nothing to train")
    if held_out[0].shape[1:] != x.shape[1:]:
        shapes = f"{list(x.shape[1:])} and {list(held_out[0].shape[1:])}"
        raise InputError(f"training and validation inputs have different shapes: {shapes}")
    largest = max(int(y.max()), int(held_out[1].max()))
    if largest >= classes:
        raise InputError(f"labels go up to {largest}, but the network has {classes} classes")
