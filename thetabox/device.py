"""Where to compute."""

from __future__ import annotations

import torch

from thetabox.errors import InputError


def choose_device(name: str) -> torch.device:
    """The device meant by ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.

    Raises:
        InputError: CUDA asked for where there is none, or another name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"unknown device {name!r}; choose auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"unknown device {name!r}; choose auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda was asked for, but torch sees no CUDA device; choose cpu")
    return device
