"""Padding of convolutions and pools, in the forms that ONNX has for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import InputError

Around = list[tuple[Any, Any]]
"""Numbers put before and behind each dimension."""


def pairs(pads: Sequence[Any] | None, dims: int) -> Around:
    """ONNX's list, all befores and then all behinds, as pairs.

    Raises:
        InputError: it has another length, or negative entries.
    """
    pads = list(pads) if pads is not None else [0] * 2 * dims
    if len(pads) != 2 * dims:
        raise InputError(f"its pads {pads} are not two numbers for each of {dims} dimensions")
    return list(zip(pads[:dims], pads[dims:], strict=True))


def apart(
    x: Tensor,
    auto_pad: str,
    pads: Sequence[int] | None,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Around:
    """The padding of a convolution or pool of these windows.

    Raises:
        InputError: an unknown kind, or sizes that are not known.
    """
    dims = len(kernel)
    if auto_pad in ("NOTSET", ""):
        return pairs(pads, dims)
    if auto_pad == "VALID":
        return [(0, 0)] * dims
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise InputError(f"padding {auto_pad!r} is not read")
    around: Around = []
    for size, window, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        missing = max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
        less = missing // 2
        around.append((less, missing - less) if auto_pad == "SAME_UPPER" else (missing - less, less))
    return around


def padded(x: Tensor, around: Around, value: float, mode: str = "constant") -> Tensor:
    """The last dimensions of a tensor padded; torch wants the last one first."""
    flat = [n for pair in reversed(around) for n in pair]
    return F.pad(x, flat, mode, value) if mode == "constant" else F.pad(x, flat, mode)
