"""What the measurements are given, checked: data, levels, device, and a copy of the network to work on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thetabox import checks
from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.models.copies import Logits, working_copy
from thetabox.models.failure import failure
from thetabox.models.fold import folded
from thetabox.models.plain import plain
from thetabox.models.precision import computing_in
from thetabox.models.running import running
from thetabox.models.twins import RUNNING
from thetabox.workers.pickled import pickled, unpickled

__all__ = [
    "Levels",
    "Logits",
    "boxed",
    "checked",
    "class_count",
    "levels",
    "numbers_for",
    "of_box",
    "own_precision",
    "working_copy",
]

# Samples by which a copy is compared, and how near it comes, relative to the largest logit of a sample.
FEW, NEAR = 4, 1e-6

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
    output = _answer(model, example)
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


def of_box(model: nn.Module, box: Box, x: Tensor, executor: Any = None) -> nn.Module:
    """The network whose weights a box speaks of, folded if the box says so; copies of it compute what ``model`` does,
    and so does what an executor would be sent.

    Classes may have a way of their own to be copied, and those of ``torch.compile`` and ``torch.fx`` lose what was put
    into an object. So a copy is run beside the network itself, both in double precision.

    Raises:
        InputError: it cannot be folded or copied, or a copy fails or returns other logits.
    """
    instead, few = folded(model) if box.fold else model, x[:FEW]
    try:
        with computing_in(torch.float64), torch.no_grad(), running(model, few) as run:
            own, again = run(few), run(few)
    except InputError:  # it does not run in double precision, or no logits come of it, as will be said
        return instead
    cpu = torch.device("cpu")
    copies = [instead]
    if executor is not None:
        with suppress(Exception):  # what cannot be pickled the pool reports
            copies.append(unpickled(pickled(instead)))
    for one in copies:
        with computing_in(torch.float64):
            answer = _answer(working_copy(one, cpu, torch.float64), numbers_for(few, cpu, torch.float64))
        if _near(own, again) and not _near(answer, own):
            raise InputError(
                "a copy of the network returns other logits than the network itself, and measurements are made on "
                "copies; what an object was given (a forward of its own), or what its class leaves out of copies and "
                "pickles, belongs into the code of its class"
            )
    return instead


def _answer(model: nn.Module, x: Tensor) -> Tensor:
    try:
        output: Tensor = model(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise failure(model, x.shape, error) from None
    return output


def _near(one: Tensor, other: Tensor) -> bool:
    """Whether runs in double precision return the same but for rounding, relative to the largest logit of a sample."""
    size = other.abs().amax(1, keepdim=True).nan_to_num(0.0, 0.0)
    return one.shape == other.shape and bool(((one - other).abs() > NEAR * size).logical_not().all())


def own_precision(model: nn.Module) -> torch.dtype:
    """The precision that a network computes in: float64 if any of its weights has that, else float32."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return torch.float64 if torch.float64 in kinds else torch.float32


def numbers_for(x: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """``x`` on the device; floating inputs in the network's precision."""
    return x.to(device=device, dtype=dtype if x.is_floating_point() else None)
