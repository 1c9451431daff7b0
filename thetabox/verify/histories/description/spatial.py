"""Convolutions and average pools on polynomials: sums of products over windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from thetabox.verify.histories.description.atoms import ZERO
from thetabox.verify.histories.description.symbolic import Symbolic, Unknown
from thetabox.verify.network.graph import Operation


def _each(value: Any, count: int) -> list[int]:
    """A number for every dimension."""
    values = [value] * count if isinstance(value, int) else list(value)
    if len(values) == 1:
        values *= count
    if len(values) != count or not all(type(v) is int for v in values):
        raise Unknown
    return values


def windows(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Places of a padded value [..., *sizes] by the windows that read them: [*positions, *kernel] of flat places."""
    sizes = x.shape[-len(kernel) :]
    places = torch.arange(math.prod(sizes)).reshape(sizes)
    for d, (k, s, gap) in enumerate(zip(kernel, stride, dilation, strict=True)):
        places = places.unfold(d, (k - 1) * gap + 1, s)[..., ::gap]
    return places


def convolution(dims: int) -> Callable[..., Tensor]:
    """A convolution over so many dimensions, as torch's conv1d and conv2d."""

    def rule(
        s: Symbolic,
        o: Operation,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        if x.dim() != dims + 2:
            raise Unknown
        kernel = list(weight.shape[2:])
        around = _each(padding, dims)
        x = torch.nn.functional.pad(x, [n for pad in reversed(around) for n in (pad, pad)], value=ZERO)
        places = windows(x, kernel, _each(stride, dims), _each(dilation, dims))
        positions = places.shape[:dims]
        flat = places.reshape(math.prod(positions), -1)
        outputs = []
        for channels, some in zip(x.chunk(groups, 1), weight.chunk(groups, 0), strict=True):
            read = channels.flatten(2)[:, :, flat]  # [rows, channels, positions, kernel]
            left = read.permute(0, 2, 1, 3).flatten(2)
            outputs.append(s.product(left, some.flatten(1).t()).transpose(1, 2))
        out = torch.cat(outputs, 1).reshape(len(x), -1, *positions)
        if bias is None:
            return out
        return s.each(s.algebra.add, out, bias.reshape(1, -1, *[1] * dims))

    return rule


def average_pool(dims: int) -> Callable[..., Tensor]:
    """Means over windows, as torch's avg_pool1d and avg_pool2d; of windows beyond the edge nothing is known."""

    def rule(
        s: Symbolic,
        o: Operation,
        x: Tensor,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil: bool = False,
        include: bool = True,
        divisor: int | None = None,
    ) -> Tensor:
        around, size = _each(padding, dims), _each(kernel, dims)
        if ceil or any(around):
            raise Unknown
        places = windows(x, size, _each(stride, dims) if stride else size, [1] * dims)
        positions = places.shape[:dims]
        read = x.flatten(-dims)[..., places.reshape(math.prod(positions), -1)]
        count = divisor or math.prod(size)
        return s.reduced(read, [read.dim() - 1], False, Fraction(1, count)).reshape(*x.shape[:-dims], *positions)

    return rule


def adaptive_pool(dims: int) -> Callable[..., Tensor]:
    """Means over windows that cover the sizes evenly."""

    def rule(s: Symbolic, o: Operation, x: Tensor, sizes: Any) -> Tensor:
        wanted = _each(sizes, dims)
        if any(n % w for n, w in zip(x.shape[-dims:], wanted, strict=True)):
            raise Unknown
        return average_pool(dims)(s, o, x, [n // w for n, w in zip(x.shape[-dims:], wanted, strict=True)])

    return rule


SPATIAL: dict[str, Callable[..., Tensor]] = {
    "conv1d": convolution(1),
    "conv2d": convolution(2),
    "avg_pool1d": average_pool(1),
    "avg_pool2d": average_pool(2),
    "adaptive_avg_pool1d": adaptive_pool(1),
    "adaptive_avg_pool2d": adaptive_pool(2),
}
