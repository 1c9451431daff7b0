"""Checks of what the user gave, before any work starts."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thetabox import checks
from thetabox.box import Box
from thetabox.checks import check_weights as check_weights
from thetabox.device import choose_device
from thetabox.errors import InputError
from thetabox.models.fold import folded
from thetabox.models.twins import RUNNING
from thetabox.verify import domains
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import ARITHMETICS, PRECISIONS, Rounding

CRITERIA = ("margin", "logits")
FILE = "file"
"""Kind of a model whose ``source`` in a certificate is a path; otherwise it may be the name of a class."""

Array = Tensor | np.ndarray[Any, Any]


@dataclass(frozen=True)
class Settings:
    """How to bound: box, rounding, device, domain and its options."""

    box: Box
    rounding: Rounding
    device: torch.device
    domain: str
    precision: str
    options: Mapping[str, Any] = field(default_factory=dict)


def settings(
    domain: str, box: Box | None, arithmetic: str, precision: str, device: str, options: dict[str, Any] | None = None
) -> Settings:
    """Checked settings.

    Raises:
        InputError: unknown domain, arithmetic, precision or option, or a device that is not there.
    """
    given = domains.check(domain, options)
    if arithmetic not in ARITHMETICS:
        raise InputError(f"unknown arithmetic {arithmetic!r}; choose one of {', '.join(ARITHMETICS)}")
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if box is not None and not isinstance(box, Box):
        raise InputError("box must be a thetabox.Box")
    rounding = Rounding(PRECISIONS[precision], arithmetic)
    return Settings(box or Box(), rounding, choose_device(device), domain, precision, given)


def beside(
    resume: str | Path | None, model_info: Mapping[str, Any] | None, data_info: Mapping[str, Any] | None
) -> None:
    """Raise unless what a certification is given beside its question is of its kind.

    Raises:
        InputError: a folder that is no path, entries that are no dictionary.
    """
    if not isinstance(resume, str | os.PathLike | None):
        raise InputError(f"resume must be the path of a folder, not {type(resume).__name__}")
    for what, entries in (("model_info", model_info), ("data_info", data_info)):
        if not isinstance(entries, Mapping | None):
            raise InputError(f"{what} must be a dictionary, not {type(entries).__name__}")


def epsilons(epsilon: float | Sequence[float] | Array) -> Tensor:
    """A sweep of ε, ``[E]`` float64.

    Raises:
        InputError: empty, negative, not finite, or not a number.
    """
    return checks.numbers(epsilon, "epsilon")


def seconds(timeout: Any) -> float | None:
    """A limit of time; ``None`` for none.

    Raises:
        InputError: not a number, or negative.
    """
    endless = isinstance(timeout, float) and timeout == math.inf
    return None if timeout is None or endless else checks.number(timeout, "timeout")


def inputs(x: Array) -> Tensor:
    """Inputs as a CPU tensor of finite floats, in memory of their own."""
    return checks.inputs(x)


def labels(y: Array, samples: int) -> Tensor:
    """Labels as int64 ``[N]``."""
    return checks.labels(y, samples)


def check_labels(y: Tensor, classes: int) -> None:
    """Raise unless every label is one of ``classes``."""
    if classes < 2:
        raise InputError(f"the network must tell at least 2 classes apart, not {classes}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise InputError(f"y has label {low if low < 0 else high}; the network has classes 0 to {classes - 1}")


def margins_of(logits: Tensor, y: Tensor) -> Tensor:
    """``logit_y`` less the largest other logit, ``[N]``."""
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return logits.gather(1, y[:, None]).squeeze(1) - others


def check_arithmetic(model: nn.Module, rounding: Rounding) -> None:
    """Raise for a network that does not compute in float32 though the claim is for that arithmetic.

    Raises:
        InputError: a parameter or buffer in a type of fewer digits.
    """
    if not rounding.network:
        return
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        if t.is_floating_point() and t.dtype.itemsize < torch.float32.itemsize:
            kind = str(t.dtype).removeprefix("torch.")
            raise InputError(
                f"the model's {name} is in {kind}, whose rounding arithmetic='float32' does not cover; "
                "convert the model with .float(), or use arithmetic='real'"
            )


def input_interval(x: Tensor, settings: Settings, *, nonnegative: bool = False) -> Interval:
    """The inputs as the network sees them: exact where the dtype holds them, else rounded outward."""
    rounding = settings.rounding
    x = x.to(settings.device)
    if rounding.network or rounding.dtype == torch.float32:
        largest = float(x.abs().max())
        if largest > torch.finfo(torch.float32).max:
            raise InputError(f"x has a value of size {largest:g}, which float32 cannot hold")
    value = x.to(rounding.dtype)
    exact = value.dtype == torch.float64 or x.dtype == value.dtype or bool((value.double() == x.double()).all())
    in_float32 = rounding.network == 0.0 or x.dtype == torch.float32 or bool((x.float().double() == x).all())
    if exact and in_float32:
        out = Interval.point(value, nonnegative=nonnegative)
    else:
        wide = value.abs() * (4.0 * (2.0**-24)) + 4.0 * rounding.subnormal
        out = Interval(value - wide, value + wide)
    out.batch = 0
    return out


def model_facts(model: nn.Module, box: Box) -> dict[str, Any]:
    """Counts for the certificate, and a hash of the parameters."""
    with RUNNING:
        return _facts(model, box)


def _facts(model: nn.Module, box: Box) -> dict[str, Any]:
    tensors = dict(model.named_parameters())
    certified = folded(model) if box.fold else model
    factors = box.factors(certified)
    held = {**dict(certified.named_buffers()), **dict(certified.named_parameters())}
    perturbed = sum(held[name].numel() for name in factors)
    return {
        "source": type(model).__name__,
        "sha256": tensor_hash([t for _, t in sorted([*tensors.items(), *model.named_buffers()])]),
        "parameters": sum(t.numel() for t in tensors.values()),
        "perturbed": perturbed,
    }


def tensor_hash(tensors: Sequence[Tensor]) -> str:
    """SHA-256 over dtype, shape and bytes."""
    digest = hashlib.sha256()
    for t in tensors:
        t = t.detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(f"{t.dtype}{list(t.shape)}".encode())
        # The stride of a single number may be anything, and torch reads the bytes of rows without gaps alone.
        flat = t.reshape(-1).as_strided((t.numel(),), (1,))
        digest.update(flat.view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return digest.hexdigest()
