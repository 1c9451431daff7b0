"""Chains of convolutions, pools and dense layers, and what a chip answers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from thetabox.verify.yields.chain import Chain, ChainConvolution, ChainPool, ChainStage, Dense

Noise = list[tuple[Tensor, Tensor]]


def convolution(
    g: torch.Generator,
    inputs: int,
    channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> ChainConvolution:
    weight = torch.randn(channels, inputs, *kernel, generator=g, dtype=torch.float64) / (inputs * kernel[0]) ** 0.5
    bias = torch.randn(channels, generator=g, dtype=torch.float64) / 4
    # Sizes that are not those of the weights, one of them 0.
    size, bias_size = weight.abs() * 0.7 + 0.1, bias.abs() + 0.05
    size[0, 0, 0, 0] = 0.0
    return ChainConvolution(weight, bias, size, bias_size, stride, padding)


def dense(g: torch.Generator, inputs: int, outputs: int) -> Dense:
    weight = torch.randn(outputs, inputs, generator=g, dtype=torch.float64) * (2.0 / inputs) ** 0.5
    bias = torch.randn(outputs, generator=g, dtype=torch.float64) / 4
    return Dense(weight, bias, weight.abs() * 0.7 + 0.05, bias.abs() + 0.05)


def stage(layer: ChainConvolution | Dense, z: Tensor, own: ChainStage) -> Tensor:
    """What follows a layer's output."""
    if own.average is not None:
        z = F.avg_pool2d(z, own.average.kernel, own.average.stride)
    z = z.relu() if own.relu else z
    return z if own.largest is None else F.max_pool2d(z, own.largest.kernel, own.largest.stride)


def draws(chain: Chain, x: Tensor, sigma: float, count: int, g: torch.Generator) -> list[Tensor]:
    """Outputs of all stages on many chips, ``[count, samples, ...]``."""
    sizes = [(s.layer.weight_size, s.layer.bias_size) for s in chain.stages]
    errors = [
        tuple(sigma * t * torch.randn(count, *t.shape, generator=g, dtype=t.dtype) for t in pair) for pair in sizes
    ]
    return torch.func.vmap(lambda e: forward(chain, x, e), chunk_size=2000)(errors)


def forward(chain: Chain, x: Tensor, errors: Noise | None = None) -> list[Tensor]:
    """Outputs of all stages, of samples ``[n, channels, height, width]``, on one chip."""
    h, found = x, []
    for n, s in enumerate(chain.stages):
        layer = s.layer
        weight, bias = layer.weight, layer.bias
        if errors is not None:
            weight, bias = weight + errors[n][0], bias + errors[n][1]
        if isinstance(layer, ChainConvolution):
            h = stage(layer, F.conv2d(F.pad(h, layer.padding), weight, bias, stride=layer.stride), s)
        else:
            h = stage(layer, h.flatten(1) @ weight.T + bias, s)
        found.append(h)
    return found


def chain(name: str, seed: int = 0) -> tuple[Chain, tuple[int, int, int]]:
    """A random chain, and the shape of its samples."""
    g = torch.Generator().manual_seed(seed)
    two = ChainPool(True, (2, 2), (2, 2))
    if name == "plain":
        stages = [ChainStage(convolution(g, 1, 3, (3, 3), padding=(1, 1, 1, 1)), largest=two)]
        shape, flat = (1, 6, 6), 27
    elif name == "two":
        stages = [
            ChainStage(convolution(g, 1, 3, (3, 3), padding=(1, 1, 1, 1)), largest=two),
            ChainStage(convolution(g, 3, 4, (2, 2), padding=(1, 0, 0, 1)), largest=two),
        ]
        shape, flat = (1, 8, 8), 16
    elif name == "strides":
        stages = [
            ChainStage(convolution(g, 2, 3, (3, 2), (2, 1), (0, 1, 2, 0)), largest=ChainPool(True, (3, 2), (1, 2))),
            ChainStage(convolution(g, 3, 3, (1, 2), (1, 2)), average=ChainPool(False, (2, 1), (1, 1))),
        ]
        shape, flat = (2, 9, 7), 6
    elif name == "average":
        stages = [
            ChainStage(
                convolution(g, 1, 3, (3, 3)),
                average=ChainPool(False, (3, 3), (1, 2)),
                largest=ChainPool(True, (2, 1), (2, 1)),
            ),
            ChainStage(convolution(g, 3, 4, (2, 1))),
        ]
        shape, flat = (1, 10, 8), 16
    elif name == "three":
        stages = [
            ChainStage(convolution(g, 1, 2, (2, 2)), largest=two),
            ChainStage(convolution(g, 2, 3, (2, 2), padding=(1, 1, 0, 0))),
            ChainStage(convolution(g, 3, 3, (2, 2)), largest=ChainPool(True, (1, 2), (1, 2))),
        ]
        shape, flat = (1, 9, 9), 12
    else:
        raise ValueError(name)
    hidden = [] if name == "average" else [ChainStage(dense(g, flat, 6)), ChainStage(dense(g, 6, 5))]
    found = Chain((*stages, *hidden, ChainStage(dense(g, 5 if hidden else flat, 3), relu=False)))
    x = torch.randn(1, *shape, generator=g, dtype=torch.float64)
    assert forward(Chain(tuple(stages)), x)[-1].flatten(1).shape[1] == flat
    return found, shape


NAMES = ("plain", "two", "strides", "average", "three")


def samples(name: str, count: int, seed: int = 0) -> tuple[Chain, Tensor, Tensor]:
    """A chain with samples, and what it answers."""
    found, shape = chain(name, seed)
    g = torch.Generator().manual_seed(seed + 100)
    x = torch.randn(count, *shape, generator=g, dtype=torch.float64) * 1.5
    return found, x, forward(found, x)[-1].argmax(1)
