"""Pools, and what makes images larger."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.onnx.numbers import is_known, whole
from thetabox.models.onnx.padding import Around, apart, padded
from thetabox.models.onnx.table import onnx_operator

MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOLS: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@onnx_operator("MaxPool")
def max_pool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    storage_order: int = 0,
    strides: list[int] | None = None,
    outputs: int = 1,
) -> Tensor:
    """Largest number of each window."""
    if outputs > 1:
        raise InputError("the indices of a MaxPool are not read")
    dims = _dims(kernel_shape, MAX_POOLS)
    strides, dilations = strides or [1] * dims, dilations or [1] * dims
    around = apart(x, auto_pad, pads, kernel_shape, strides, dilations)
    inside = all(a == b and 2 * a <= k for (a, b), k in zip(around, kernel_shape, strict=True))
    _check_same(x, auto_pad, kernel_shape, strides, dilations)
    if not inside:
        if ceil_mode:
            around = _reached(x, around, kernel_shape, strides, dilations)
            ceil_mode = 0
        x, around = padded(x, around, -math.inf), [(0, 0)] * dims
    return MAX_POOLS[dims](x, kernel_shape, strides, [a for a, _ in around], dilations, bool(ceil_mode))


def _check_same(x: Tensor, auto_pad: str, kernel: list[int], strides: list[int], dilations: list[int]) -> None:
    """Raise InputError for automatic padding of pools that runtimes count in two ways."""
    if not auto_pad.startswith("SAME"):
        return
    over = any(
        (-(-size // stride) - 1) * stride + window < size
        for size, window, stride in zip(x.shape[2:], kernel, strides, strict=True)
    )
    if over or any(d != 1 for d in dilations):
        raise InputError(f"padding {auto_pad!r} of windows that are dilated or leave numbers out is not read")


def _reached(x: Tensor, around: Around, kernel: list[int], strides: list[int], dilations: list[int]) -> Around:
    """Padding up to the end of the last window, which begins before what is padded behind."""
    more: Around = []
    for size, (before, behind), window, stride, dilation in zip(
        x.shape[2:], around, kernel, strides, dilations, strict=True
    ):
        extent = (window - 1) * dilation + 1
        last = -(-(size + before + behind - extent) // stride) * stride
        if last >= size + before:
            last -= stride
        more.append((before, last + extent - size - before))
    return more


@onnx_operator("AveragePool")
def average_pool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Mean of each window, in which padding counts or not."""
    dims = _dims(kernel_shape, AVERAGE_POOLS)
    if ceil_mode or any(d != 1 for d in dilations or []):
        raise InputError("an AveragePool whose windows reach over the edge, or are dilated, is not read")
    strides = strides or [1] * dims
    _check_same(x, auto_pad, kernel_shape, strides, [1] * dims)
    around = apart(x, auto_pad, pads, kernel_shape, strides, [1] * dims)
    nothing = all(pair == (0, 0) for pair in around)
    if not nothing and count_include_pad:
        x, around = padded(x, around, 0.0), [(0, 0)] * dims
    elif any(a != b for a, b in around):
        raise InputError(f"an AveragePool padded by {around}, of which the mean knows nothing, is not read")
    before = [a for a, _ in around]
    return AVERAGE_POOLS[dims](x, kernel_shape, strides, before, False, bool(count_include_pad))


def _dims(kernel: list[int], functions: dict[int, Any]) -> int:
    if len(kernel) not in functions:
        raise InputError(f"a pool of {len(kernel)} dimensions is not read")
    return len(kernel)


@onnx_operator("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    """Mean of each channel."""
    return x.mean(list(range(2, x.dim())), True)


@onnx_operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """Largest number of each channel."""
    return x.amax(list(range(2, x.dim())), True)


@onnx_operator("Upsample", factors=(1,))
def upsample(x: Tensor, factors: Any = None, *, mode: str = "nearest", scales: list[float] | None = None) -> Tensor:
    """Each number repeated."""
    ratios = _floats(scales if factors is None else factors)
    if mode != "nearest" or ratios is None:
        raise InputError(f"Upsample in mode {mode!r} is not read; export with opset 11 or newer, which writes Resize")
    return _nearest(x, ratios)


@onnx_operator("Resize", factors=(2,))
def resize(
    x: Tensor,
    roi: Any = None,
    scales: Any = None,
    sizes: Any = None,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Images made larger by whole factors: each number repeated, or lines between them."""
    dims = x.dim() - 2
    ratios = _floats(scales)
    if not ratios:
        want = whole(sizes, "the sizes of a Resize") if sizes is not None else []
        if len(want) != x.dim():
            raise InputError("it names neither factors nor sizes")
        ratios = [1.0, 1.0] + [w / n for w, n in zip(want[2:], x.shape[2:], strict=True)]
    if mode == "nearest":
        halves = coordinate_transformation_mode in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
        repeats = nearest_mode.startswith("round") if halves else nearest_mode == "floor"
        if any(f != 1 for f in ratios) and not (repeats and (halves or coordinate_transformation_mode == "asymmetric")):
            raise InputError(
                f"nearest numbers by coordinates {coordinate_transformation_mode!r} and {nearest_mode!r}, which repeat "
                "not each as often, are not read"
            )
        return _nearest(x, ratios)
    aligned = coordinate_transformation_mode == "align_corners"
    if mode != "linear" or coordinate_transformation_mode not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise InputError(f"mode {mode!r} with coordinates {coordinate_transformation_mode!r} is not read")
    out = [math.floor(n * s) for n, s in zip(x.shape[2:], ratios[2:], strict=True)]
    if (
        dims not in LINEAR
        or ratios[:2] != [1.0, 1.0]
        or any(o != n * s for o, n, s in zip(out, x.shape[2:], ratios[2:], strict=True))
    ):
        raise InputError(f"factors {ratios}, which give no whole sizes, are not read")
    return F.interpolate(x, out, mode=LINEAR[dims], align_corners=aligned)


def _nearest(x: Tensor, factors: list[float]) -> Tensor:
    """Each as often as its whole factor says."""
    if len(factors) != x.dim() or factors[:2] != [1.0, 1.0] or any(f != int(f) or f < 1 for f in factors):
        raise InputError(f"nearest numbers by factors {factors} are not read, only by whole ones behind the channels")
    return F.interpolate(x, scale_factor=[float(f) for f in factors[2:]], mode="nearest")


def _floats(value: Any) -> list[float] | None:
    if value is None or (isinstance(value, list) and all(isinstance(v, float) for v in value)):
        return value
    if is_known(value):
        return [float(v) for v in whole(value)]
    raise InputError("its factors are computed from the network's input, where they must be known")


@onnx_operator("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Channels moved into the image."""
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    n, c, h, w = x.shape
    rows = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return rows.reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


@onnx_operator("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    """Parts of the image moved into channels."""
    n, c, h, w = x.shape
    b = blocksize
    rows = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return rows.reshape(n, c * b * b, h // b, w // b)


@onnx_operator("LpNormalization")
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Divided by its norm along an axis."""
    return x / torch.linalg.vector_norm(x, p, axis, True)
