"""Checks of what the user gave, before any work starts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thetabox import checks
from thetabox.box import Box
from thetabox.device import choose_device
from thetabox.errors import InputError
from thetabox.models.plain import Plain, plain
from thetabox.models.several import Several
from thetabox.models.twins import RUNNING
from thetabox.verify import domains
from thetabox.verify.arithmetic.rounding import ARITHMETICS, PRECISIONS, Rounding
from thetabox.verify.problem import Settings, check_arithmetic

CRITERIA = ("margin", "logits")
FILE = "file"
"""Kind of a model whose ``source`` in a certificate is a path; otherwise it may be the name of a class."""

Array = Tensor | np.ndarray[Any, Any]
Inputs = Array | Several


def settings(
    domain: str, box: Box | None, arithmetic: str, precision: str, device: str, options: dict[str, Any] | None = None
) -> Settings:
    """Checked settings.

    Raises:
        InputError: unknown domain, arithmetic, precision or option, or a device that is not there.
    """
    checked = domains.check(domain, options)
    if arithmetic not in ARITHMETICS:
        raise InputError(f"unknown arithmetic {arithmetic!r}; choose one of {', '.join(ARITHMETICS)}")
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if box is not None and not isinstance(box, Box):
        raise InputError("box must be a thetabox.Box")
    rounding = Rounding(PRECISIONS[precision], arithmetic)
    return Settings(box or Box(), rounding, choose_device(device), domain, precision, checked)


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


def check_criterion(criterion: str) -> None:
    """Raise unless a proof may go by it.

    Raises:
        InputError: an unknown one.
    """
    if criterion not in CRITERIA:
        raise InputError(f"unknown criterion {criterion!r}; choose one of {', '.join(CRITERIA)}")


def check_progress(progress: Any) -> None:
    """Raise unless it can be told how far a run has come.

    Raises:
        InputError: it is no function.
    """
    if progress is not None and not callable(progress):
        raise InputError(f"progress must be a function of two counts, done and in all, not {type(progress).__name__}")


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


def network(model: nn.Module, x: Inputs, chosen: Settings, *, as_classes: bool = True) -> Plain:
    """The network as one of one tensor and logits, and its inputs; see :func:`thetabox.models.plain.plain`.

    Raises:
        InputError: it is none, computes in a type that the arithmetic does not cover, or fails on the inputs.
    """
    with RUNNING:  # else weights are read while another thread has put others there
        checks.check_weights(model)
        check_arithmetic(model, chosen.rounding)
        return plain(model, x, as_classes=as_classes, stacklevel=4)


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
