"""Convolutions and average pools written out as matrices, for a tool that takes dense layers only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from thetabox.errors import InputError

# Entries of the largest matrix that is written out.
LARGEST = 1 << 25


@dataclass
class FlatLayer:
    """A layer on flat values.

    Attributes:
        module: Linear or ReLU, or a max-pool between its own reshapes.
        radii: radius of each of its tensors that are in the box, ``weight`` and ``bias``.
    """

    module: nn.Module
    radii: dict[str, Tensor] = field(default_factory=dict)


class _Reshape(nn.Module):
    """A view of fixed shape, which auto_LiRPA knows; it does not know unflatten."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, *self.shape)


def lowered(module: nn.Module, radii: dict[str, Tensor], shape: torch.Size) -> tuple[FlatLayer, torch.Size]:
    """The layer for flat inputs, and the shape of its output without the batch.

    A kernel stands in the matrix once for every position, and each copy gets a noise of its own: the box of the lowered
    layer holds the true one, where all copies move together, and is larger.

    Args:
        module: Linear, ReLU, Conv2d, AvgPool2d or MaxPool2d.
        radii: of its tensors, by name; what is absent is exact.
        shape: of its input, without the batch.

    Raises:
        InputError: the matrix would be too large.
    """
    if isinstance(module, nn.Conv2d):
        return _convolution(module, radii, shape)
    if isinstance(module, nn.AvgPool2d):
        dense, output_shape = _matrix(module, shape, torch.get_default_dtype())
        return FlatLayer(_linear(dense, None)), output_shape
    if isinstance(module, nn.MaxPool2d):
        output_shape = module(torch.zeros(1, *shape)).shape[1:]
        return FlatLayer(nn.Sequential(_Reshape(*shape), module, _Reshape(math.prod(output_shape)))), output_shape
    if isinstance(module, nn.Linear):
        bias = None if module.bias is None else module.bias.detach()
        return FlatLayer(_linear(module.weight.detach(), bias), radii), torch.Size([module.out_features])
    return FlatLayer(module), shape


def _convolution(module: nn.Conv2d, radii: dict[str, Tensor], shape: torch.Size) -> tuple[FlatLayer, torch.Size]:
    def apply(kernel: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: module._conv_forward(x, kernel, None)

    weight = module.weight.detach()
    dense, output_shape = _matrix(apply(weight), shape, weight.dtype)
    positions = math.prod(output_shape[1:])
    bias = None if module.bias is None else module.bias.detach().repeat_interleave(positions)
    spread = {}
    if "weight" in radii:
        # The radius of an entry is that of its own kernel value, 0 where the matrix has no entry.
        spread["weight"] = _matrix(apply(radii["weight"]), shape, weight.dtype)[0]
    if "bias" in radii:
        spread["bias"] = radii["bias"].repeat_interleave(positions)
    return FlatLayer(_linear(dense, bias), spread), output_shape


def _matrix(function: Callable[[Tensor], Tensor], shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, torch.Size]:
    """The matrix of a linear function of images, ``[outputs, inputs]``, and the shape of its output."""
    with torch.no_grad():
        output_shape = function(torch.zeros(1, *shape, dtype=dtype)).shape[1:]
        inputs = math.prod(shape)
        if inputs * math.prod(output_shape) > LARGEST:
            raise InputError(f"a convolution from {list(shape)} to {list(output_shape)} is too large for auto_LiRPA")
        images = torch.eye(inputs, dtype=dtype).view(inputs, *shape)
        return torch.cat([function(part).flatten(1) for part in images.split(256)]).T.contiguous(), output_shape


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A dense layer; auto_LiRPA takes those without a bias another way, in which not all of its methods work."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(weight.new_zeros(len(weight)) if bias is None else bias, requires_grad=False)
    return layer
