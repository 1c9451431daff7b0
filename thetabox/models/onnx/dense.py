"""Layers with weights: dense, convolutions, normalisations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.onnx.padding import apart, padded, pairs
from thetabox.models.onnx.table import onnx_operator

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@onnx_operator("Gemm", weights=(0, 1, 2))
def gemm(
    a: Tensor, b: Tensor, c: Any = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0
) -> Tensor:
    """Alpha · a b + beta · c, either factor transposed."""
    a = a.t() if transA else a
    row = c is None or (isinstance(c, Tensor) and c.dim() == 1)
    if alpha == 1 and beta == 1 and row:
        if transB:
            return F.linear(a, b, c)
        return a @ b if c is None else torch.addmm(c, a, b)
    product = a @ (b.t() if transB else b)
    product = product if alpha == 1 else alpha * product
    return product if c is None else product + (c if beta == 1 else beta * c)


@onnx_operator("MatMul", weights=(0, 1))
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Product of matrices, or of batches of them."""
    return torch.matmul(a, b)


@onnx_operator("Einsum", weights=tuple(range(8)))
def einsum(*operands: Tensor, equation: str) -> Tensor:
    """Sum of products by an equation of indices."""
    return torch.einsum(equation, *operands)


def _spatial(w: Tensor, functions: dict[int, Any], what: str) -> int:
    if w.dim() - 2 not in functions:
        raise InputError(f"{what} of {w.dim() - 2} dimensions is not read")
    return w.dim() - 2


@onnx_operator("Conv", weights=(1, 2))
def conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Convolution in one, two or three dimensions."""
    dims = _spatial(w, CONVOLUTIONS, "a convolution")
    kernel = list(w.shape[2:])
    if kernel_shape is not None and list(kernel_shape) != kernel:
        raise InputError(f"its kernel_shape {kernel_shape} is not that of its weights {kernel}")
    strides, dilations = strides or [1] * dims, dilations or [1] * dims
    around = apart(x, auto_pad, pads, kernel, strides, dilations)
    if all(before == after for before, after in around):
        return CONVOLUTIONS[dims](x, w, b, strides, [before for before, _ in around], dilations, group)
    return CONVOLUTIONS[dims](padded(x, around, 0.0), w, b, strides, [0] * dims, dilations, group)


@onnx_operator("ConvTranspose", weights=(1, 2))
def conv_transpose(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    output_padding: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Transposed convolution with the same padding on both sides."""
    dims = _spatial(w, TRANSPOSED, "a transposed convolution")
    if kernel_shape is not None and list(kernel_shape) != list(w.shape[2:]):
        raise InputError(f"its kernel_shape {kernel_shape} is not that of its weights {list(w.shape[2:])}")
    around = pairs(pads, dims) if auto_pad in ("NOTSET", "VALID") else None
    if around is None or any(before != after for before, after in around):
        raise InputError(f"padding {auto_pad if around is None else around} of a transposed convolution is not read")
    strides, dilations = strides or [1] * dims, dilations or [1] * dims
    more = output_padding or [0] * dims
    return TRANSPOSED[dims](x, w, b, strides, [before for before, _ in around], more, group, dilations)


@onnx_operator("BatchNormalization", weights=(1, 2))
def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    training_mode: int = 0,
    spatial: int = 1,
) -> Tensor:
    """Batch norm by stored statistics."""
    if training_mode:
        raise InputError("it was exported in training mode; call model.eval() before the export")
    if not spatial:
        raise InputError("a batch norm with statistics of each position is not read")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)


@onnx_operator("InstanceNormalization", weights=(1, 2))
def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Each channel of a sample by its own mean and variance."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@onnx_operator("LayerNormalization", weights=(1, 2))
def layer_normalization(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5
) -> Tensor:
    """The last dimensions of a sample by their mean and variance."""
    shape = list(x.shape[axis % x.dim() :])
    if list(scale.shape) != shape or (bias is not None and list(bias.shape) != shape):
        normal = F.layer_norm(x, shape, eps=epsilon) * scale
        return normal if bias is None else normal + bias
    return F.layer_norm(x, shape, scale, bias, epsilon)


@onnx_operator("GroupNormalization", weights=(1, 2))
def group_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, opset: int = 21
) -> Tensor:
    """Groups of channels of a sample by their mean and variance."""
    if opset < 21:  # one number a group, not a channel
        each = x.shape[1] // num_groups
        scale, bias = (t.repeat_interleave(each) for t in (scale, bias))
    return F.group_norm(x, num_groups, scale, bias, epsilon)
