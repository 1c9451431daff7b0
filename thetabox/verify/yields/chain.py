"""A network that is one layer after the other, read from its graph: what the entropic proofs are about."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Pair = tuple[int, int]
# Up to here squares of a proof's numbers do not overflow, and those that underflow are made up for.
LARGEST = 1e40
# Of an error, in deviations, with some room.
FAR = 50.0


@dataclass(frozen=True)
class Dense:
    """``x Wᵀ + b``.

    Attributes:
        weight, bias: ``[outputs, inputs]`` and ``[outputs]`` (zeros where there is none), float64, as stored.
        weight_size, bias_size: of their errors at σ = 1 (square root of the variance proxy), same shapes, at least 0.
    """

    weight: Tensor
    bias: Tensor
    weight_size: Tensor
    bias_size: Tensor


@dataclass(frozen=True)
class ChainConvolution:
    """A 2d convolution of one group, dilation 1; zeros around the image.

    Attributes:
        weight, bias: ``[channels, inputs, height, width]`` and ``[channels]``, float64.
        weight_size, bias_size: of their errors at σ = 1.
        stride: of rows and columns.
        padding: zeros left, right, above, below (the order of ``torch.nn.functional.pad``).
    """

    weight: Tensor
    bias: Tensor
    weight_size: Tensor
    bias_size: Tensor
    stride: Pair
    padding: tuple[int, int, int, int]


@dataclass(frozen=True)
class ChainPool:
    """Pool of windows without padding.

    Attributes:
        largest: whether the largest value is taken (else the average).
        kernel, stride: of rows and columns.
    """

    largest: bool
    kernel: Pair
    stride: Pair


@dataclass(frozen=True)
class ChainStage:
    """A layer, then perhaps an average pool, then perhaps a ReLU with perhaps a max-pool (which commutes with it).

    Attributes:
        layer: dense or convolution; a dense one behind a convolution reads its output flattened, channels first.
        average: pool between the layer and its ReLU, if any.
        relu: whether a ReLU follows (always, but for the last stage).
        largest: max-pool before or behind the ReLU, if any.
    """

    layer: Dense | ChainConvolution
    average: ChainPool | None = None
    relu: bool = True
    largest: ChainPool | None = None


@dataclass(frozen=True)
class Chain:
    """The stages in order; the last one returns the logits.

    Every parameter is read once (a reader that sees otherwise returns no chain).
    """

    stages: tuple[ChainStage, ...]

    def products(self, places: Pair) -> int:
        """Products of weights and numbers in a pass of one sample, for an image of so many rows and columns."""
        total = 0
        for stage in self.stages:
            layer, across = stage.layer, 1
            if isinstance(layer, ChainConvolution):
                left, right, above, below = layer.padding
                padded = (places[0] + above + below, places[1] + left + right)
                places = _along(padded, (layer.weight.shape[2], layer.weight.shape[3]), layer.stride)
                across = places[0] * places[1]
                for pool in (stage.average, stage.largest):
                    places = places if pool is None else _along(places, pool.kernel, pool.stride)
            total += layer.weight.numel() * across
        return total

    def largest(self, x: Float[Tensor, "samples ..."], sigma: float) -> Float[Tensor, " samples"]:
        """About the largest number that a proof may meet: by absolute sums of weights and their errors; at least 1."""
        total = x.flatten(1).abs().amax(1).clamp(min=1.0)
        for layer in (stage.layer for stage in self.stages):
            sums = (layer.weight.abs() + FAR * sigma * layer.weight_size).flatten(1).sum(1)
            total = total * (sums + layer.bias.abs() + FAR * sigma * layer.bias_size).amax().clamp(min=1.0)
        return total.nan_to_num(torch.inf)


def _along(places: Pair, kernel: Pair, stride: Pair) -> Pair:
    """How many places a kernel has among others."""
    rows, columns = ((n - k) // step + 1 for n, k, step in zip(places, kernel, stride, strict=True))
    return rows, columns
