"""Convolutions, pools and padding on polynomials, and batch norm by statistics that are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from thetabox.verify.histories.description.atoms import LARGEST, ZERO
from thetabox.verify.histories.description.operands import check_operands, plain_sizes
from thetabox.verify.histories.description.places import padded as constant_padded
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


def _around(padding: Any, kernel: Sequence[int], gaps: Sequence[int]) -> list[int]:
    """How much is padded, last dimension first, as ``torch.nn.functional.pad`` takes it; by name too."""
    if padding == "valid":
        return [0] * (2 * len(kernel))
    if padding == "same":
        # Where it is not even, the end has one more.
        whole = [(k - 1) * gap for k, gap in zip(kernel, gaps, strict=True)]
        return [n for total in reversed(whole) for n in (total // 2, total - total // 2)]
    return [n for pad in reversed(_each(padding, len(kernel))) for n in (pad, pad)]


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
        kernel, gaps = list(weight.shape[2:]), _each(dilation, dims)
        x = torch.nn.functional.pad(x, _around(padding, kernel, gaps), value=ZERO)
        places = windows(x, kernel, _each(stride, dims), gaps)
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


class Axis:
    """One dimension of a pool: the places that every window reads, and how many places it counts for.

    Args:
        length: of the dimension.
        size, stride, pad, gap: of the windows, as torch's kernel, stride, padding and dilation.
        ceil: whether a last window that leaves the padded dimension is there.
        include: whether places of the padding count.
    """

    def __init__(
        self, length: int, size: int, stride: int, pad: int, *, gap: int = 1, ceil: bool = False, include: bool = True
    ) -> None:
        span = length + 2 * pad - (size - 1) * gap - 1
        count = (-(-span // stride) if ceil else span // stride) + 1
        if ceil and (count - 1) * stride >= length + pad:
            count -= 1  # the last one would begin in the padding behind
        starts = [n * stride - pad for n in range(count)]
        self.places = [[n for n in range(i, i + size * gap, gap) if 0 <= n < length] for i in starts]
        # Of a window that leaves the padding too, what is outside never counts.
        self.counts = [
            min(i + size, length + pad) - i if include else len(read)
            for i, read in zip(starts, self.places, strict=True)
        ]

    @classmethod
    def adaptive(cls, length: int, windows: int) -> Axis:
        """So many windows, which overlap where they do not cover the dimension evenly."""
        axis = cls(length, 1, 1, 0)
        axis.places = [list(range(n * length // windows, -(-(n + 1) * length // windows))) for n in range(windows)]
        axis.counts = [len(read) for read in axis.places]
        return axis


def _windowed(x: Tensor, axes: Sequence[Axis]) -> tuple[list[list[int]], list[int], list[int]]:
    """Flat places that every window reads, how many it counts for, and how many windows each dimension has."""
    sizes = x.shape[-len(axes) :]
    read = []
    for window in itertools.product(*(axis.places for axis in axes)):
        places = [0]
        for size, some in zip(sizes, window, strict=True):
            places = [place * size + n for place in places for n in some]
        read.append(places)
    counts = [math.prod(some) for some in itertools.product(*(axis.counts for axis in axes))]
    return read, counts, [len(axis.places) for axis in axes]


def _averages(s: Symbolic, x: Tensor, axes: Sequence[Axis], divisor: int | None = None) -> Tensor:
    read, counts, positions = _windowed(x, axes)
    rows = x.flatten(-len(axes)).flatten(0, -2)
    means = [
        s.reduced(rows[:, places], [1], False, Fraction(1, divisor or count))
        for places, count in zip(read, counts, strict=True)
    ]
    return torch.stack(means, 1).reshape(*x.shape[: -len(axes)], *positions)


def _maxima(s: Symbolic, x: Tensor, axes: Sequence[Axis]) -> Tensor:
    """What is padded is never the largest."""
    read, _, positions = _windowed(x, axes)
    rows = x.flatten(-len(axes)).flatten(0, -2).tolist()
    largest = [[s.algebra.function(LARGEST, [row[n] for n in places]) for places in read] for row in rows]
    return torch.tensor(largest, dtype=torch.int64).reshape(*x.shape[: -len(axes)], *positions)


def average_pool(dims: int) -> Callable[..., Tensor]:
    """Means over windows, as torch's avg_pool1d and avg_pool2d."""

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
        size = _each(kernel, dims)
        along = zip(x.shape[-dims:], size, _each(stride, dims) if stride else size, _each(padding, dims), strict=True)
        return _averages(s, x, [Axis(*one, ceil=ceil, include=include) for one in along], divisor)

    return rule


def max_pool(dims: int) -> Callable[..., Tensor]:
    """The largest of every window, as torch's max_pool1d and max_pool2d."""

    def rule(
        s: Symbolic,
        o: Operation,
        x: Tensor,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        dilation: Any = 1,
        ceil: bool = False,
    ) -> Tensor:
        check_operands(s, o)
        size = _each(kernel, dims)
        along = zip(x.shape[-dims:], size, _each(stride, dims) if stride else size, _each(padding, dims), strict=True)
        axes = [Axis(*one, gap=gap, ceil=ceil) for one, gap in zip(along, _each(dilation, dims), strict=True)]
        return _maxima(s, x, axes)

    return rule


def _adaptive(x: Tensor, sizes: Any, dims: int) -> list[Axis]:
    return [Axis.adaptive(n, w) for n, w in zip(x.shape[-dims:], _each(sizes, dims), strict=True)]


def adaptive_average_pool(dims: int) -> Callable[..., Tensor]:
    """Means over windows that cover the sizes."""

    def rule(s: Symbolic, o: Operation, x: Tensor, sizes: Any) -> Tensor:
        return _averages(s, x, _adaptive(x, sizes, dims))

    return rule


def adaptive_max_pool(dims: int) -> Callable[..., tuple[Tensor, None]]:
    """The largest of windows that cover the sizes; their places, which torch returns too, are lost."""

    def both(s: Symbolic, o: Operation, x: Tensor, sizes: Any) -> tuple[Tensor, None]:
        check_operands(s, o)
        return _maxima(s, x, _adaptive(x, sizes, dims)), None

    return both


def padded(s: Symbolic, o: Operation, x: Tensor, sizes: Any, mode: str = "constant", value: Any = None) -> Tensor:
    """What is around a value: one number, or the value itself as ``mode`` says."""
    if mode == "constant":
        return constant_padded(s, o, x, sizes, 0.0 if value is None else value)
    sizes = plain_sizes(sizes)
    dims = len(sizes) // 2
    # Places as floating-point numbers, which hold them exactly and which torch pads in every mode.
    places = torch.arange(math.prod(x.shape[-dims:]), dtype=torch.float64).reshape(1, 1, *x.shape[-dims:])
    places = torch.nn.functional.pad(places, sizes, mode=mode)[0, 0].long()
    return x.flatten(-dims)[..., places]


def batch_norm(
    s: Symbolic,
    o: Operation,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: Any,
    eps: Any,
) -> tuple[Tensor, None, None]:
    """(x − mean) / sqrt(variance + eps) · weight + bias by channels, in evaluation; what else it returns is lost."""
    check_operands(s, o)
    algebra, shape = s.algebra, [1, -1, *[1] * (x.dim() - 2)]
    steep = s.each(lambda p, q: algebra.rsqrt(algebra.add(p, q)), variance, eps)
    if weight is not None:
        steep = s.each(algebra.multiply, steep, weight)
    out = s.each(
        lambda p, q, r: algebra.multiply(algebra.subtract(p, q), r), x, mean.reshape(shape), steep.reshape(shape)
    )
    return (out if bias is None else s.each(algebra.add, out, bias.reshape(shape))), None, None


def given_batch_norm(s: Symbolic, o: Operation, *given: Any) -> Tensor:
    """As an export writes it: whether it is in training is one more argument, and it has one result."""
    x, weight, bias, mean, variance, training, momentum, eps, _ = given
    if training:
        raise Unknown
    return batch_norm(s, o, x, weight, bias, mean, variance, momentum, eps)[0]


SPATIAL: dict[str, Callable[..., Any]] = {
    "conv1d": convolution(1),
    "conv2d": convolution(2),
    "avg_pool1d": average_pool(1),
    "avg_pool2d": average_pool(2),
    "adaptive_avg_pool1d": adaptive_average_pool(1),
    "adaptive_avg_pool2d": adaptive_average_pool(2),
    "max_pool1d": max_pool(1),
    "max_pool2d": max_pool(2),
    "adaptive_max_pool1d": adaptive_max_pool(1),
    "adaptive_max_pool2d": adaptive_max_pool(2),
    "constant_pad_nd": constant_padded,
    "pad": padded,
    "_native_batch_norm_legit_no_training": batch_norm,
    "batch_norm": given_batch_norm,
}
