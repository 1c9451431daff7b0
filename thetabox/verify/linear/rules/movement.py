"""Operators that are linear and hold no parameter: their own transpose, by torch's differentiation."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import gamma
from thetabox.verify.interpreter.rules.rearrangement import OFTEN, ONCE
from thetabox.verify.interpreter.rules.resampling import INTERPOLATIONS, NEAREST, ROUNDINGS, neighbours, place_error
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Pair, Region, pair
from thetabox.verify.linear.samples import first_layout
from thetabox.verify.linear.walk import NeedsImages, Stop, Walk, backward, flat
from thetabox.verify.network.graph import BatchSize, Layout, Operation, Ref, arguments, map_arg_refs

# Worth leaving a window for: what upsamples or moves a whole image.
OF_IMAGES = frozenset((*ONCE, *OFTEN, *NEAREST, *INTERPOLATIONS))


@backward("aten.clone.default", "aten.alias.default", "aten.detach.default", "aten.contiguous.default",
          "aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default",
          "aten.lift_fresh_copy.default", "aten._to_copy.default", "aten.to.dtype",
          "aten.to.device")  # a list of operators  # fmt: skip
def same(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """A copy."""
    walk.give(walk.operand(operation, 0), a, region)


@backward("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default", "aten.flatten.using_ints",
          "aten.unflatten.int", "aten.squeeze.dim", "aten.squeeze.dims", "aten.squeeze.default",
          "aten.unsqueeze.default")  # a list of operators  # fmt: skip
def reshape(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """A new shape of each sample's values."""
    if region is not None:
        raise Stop
    index = walk.operand(operation, 0)
    walk.give(index, a.reshape(*a.shape[:2], *walk.samples.shape(index)))


@backward("aten.permute.default", "aten.transpose.int", "aten.t.default", "aten.movedim.int", "aten.select.int",
          "aten.slice.Tensor", *ONCE)  # a list of operators  # fmt: skip
def moved(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """Values rearranged or selected, each at most once."""
    walk.give(*transposed(walk, operation, a, region))


@backward("aten.expand.default", "aten.index_select.default", "aten.index.Tensor", "aten._unsafe_index.Tensor",
          *OFTEN)  # a list of operators  # fmt: skip
def repeated(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """Values that may be read several times: their coefficients are sums."""
    index, first = transposed(walk, operation, a, region)
    walk.penalty(a, _of_largest(walk, operation, index), gamma_sum(a[0, 0].numel()))
    walk.give(index, first)


@backward(*NEAREST)
def nearest(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """Each coefficient goes to the place that the value is read from.

    Not by torch's own derivative, which reads in float64 from the places that it reads from in float32.
    """
    if region is not None:
        raise NeedsImages
    index = walk.operand(operation, 0)
    shape = walk.samples.shape(index)
    read = neighbours(operation, shape[1:], walk.samples.rounding, a.device)
    if len(read) > 1:
        raise Stop
    numbers = a.flatten(3)
    first = a.new_zeros(*numbers.shape[:3], prod(shape[1:])).index_add_(3, read[0].flatten(), numbers)
    walk.penalty(a, _of_largest(walk, operation, index), gamma_sum(a[0, 0].numel()))
    walk.give(index, first.view(*a.shape[:2], *shape))


@backward("aten.constant_pad_nd.default", "aten.pad.default")
def padded(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """Zeros around, or other values."""
    named = arguments(operation)
    if named.get("value"):
        raise Stop
    if named.get("mode", "constant") == "constant":
        moved(walk, operation, a, region)
        return
    if not walk.frame.whole:
        raise NeedsImages
    repeated(walk, operation, a, region)


@backward("aten.avg_pool1d.default", "aten.avg_pool2d.default", "aten.avg_pool3d.default",
          "aten.adaptive_avg_pool1d.default", "aten.adaptive_avg_pool2d.default", "aten.adaptive_avg_pool3d.default",
          "aten._adaptive_avg_pool2d.default", "aten._adaptive_avg_pool3d.default", "aten.mean.dim",
          "aten.mean.default", "aten.sum.dim_IntList", "aten.cumsum.default",
          "aten.col2im.default")  # a list of operators  # fmt: skip
def averaged(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """Sums and means; with ``m`` the same of ``|x|``, rounding is at most ``γ ⟨|A|, m⟩``."""
    if region is not None and not walk.frame.whole and "avg_pool2d" in operation.operator:
        averaged_around(walk, operation, a, region)
        return
    index, first = transposed(walk, operation, a, region)
    terms = _terms(operation, walk.samples.shape(index), a[0, 0].numel())
    mean = _of_largest(walk, operation, index)
    network = gamma(terms + 8, walk.samples.rounding.network) if walk.samples.rounding.network else 0.0
    walk.penalty(a, mean, gamma_sum(terms + a[0, 0].numel()) + 1.01 * network, walk.samples.rounding.underflow * terms)
    walk.give(index, first)


def averaged_around(walk: Walk, operation: Operation, a: Tensor, region: Region) -> None:
    """An average pool of images around a position: each place of a window takes its share.

    Raises:
        NeedsImages: windows of different sizes.
    """
    index = walk.operand(operation, 0)
    kernel, stride, padding = _average(operation, walk.samples.shape(index), walk.samples.shape(operation.index))
    seen = region.before(kernel, stride, padding)
    first = a.new_zeros(*a.shape[:-2], *seen.size)
    share = a / (kernel[0] * kernel[1])
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            rows = slice(row, row + (a.shape[-2] - 1) * stride[0] + 1, stride[0])
            columns = slice(column, column + (a.shape[-1] - 1) * stride[1] + 1, stride[1])
            first[..., rows, columns] += share
    mean = walk.cut(_of_largest_of_all(walk, operation, index), region)
    terms = kernel[0] * kernel[1]
    network = gamma(terms + 8, walk.samples.rounding.network) if walk.samples.rounding.network else 0.0
    walk.penalty(a, mean, gamma_sum(terms + a[0, 0].numel()) + 1.01 * network, walk.samples.rounding.underflow * terms)
    walk.give(index, first, seen)


def _average(operation: Operation, shape: tuple[int, ...], out: tuple[int, ...]) -> tuple[Pair, Pair, Pair]:
    """Kernel, stride and padding of an average pool whose windows are all of one size.

    Raises:
        NeedsImages: they are not.
    """
    if "adaptive" in operation.operator:
        if any(size % count for size, count in zip(shape[-2:], out[-2:], strict=True)):
            raise NeedsImages
        kernel = (shape[-2] // out[-2], shape[-1] // out[-1])
        return kernel, kernel, (0, 0)
    named = arguments(operation)
    kernel, padding = pair(named["kernel_size"]), pair(named["padding"])
    stride = pair(named["stride"] or named["kernel_size"])
    uneven = named["ceil_mode"] or (any(padding) and not named["count_include_pad"])
    if uneven or named.get("divisor_override") is not None:
        raise NeedsImages
    return kernel, stride, padding


@backward(*INTERPOLATIONS)
def interpolated(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """Linear interpolation; what its places may be off by costs so much of the largest value."""
    index, first = transposed(walk, operation, a, region)
    lower, upper = walk.ends(index)
    largest = flat(torch.maximum(lower.abs(), upper.abs()), 1).amax(1)
    rounding, rank = walk.samples.rounding, lower.dim() - 2
    position_error = place_error(operation, lower.shape[2:], a.shape[3:])
    relative = gamma_sum(a[0, 0].numel() + (8 << rank)) + rounding.of_sum(8 << rank)
    relative += position_error * rounding.of_operation(2 * ROUNDINGS)
    most = largest.view(-1, *[1] * (a.dim() - 2)).expand(len(a), *a.shape[2:])
    walk.penalty(a, most, relative, rounding.underflow * (1 << rank))
    walk.give(index, first)


def _terms(operation: Operation, shape: tuple[int, ...], outputs: int) -> int:
    """How many values each sum is of, at most."""
    name = operation.operator
    if "avg_pool" in name:
        rank = int(name[name.index("pool") + 4])
        return prod(shape[-rank:]) if "adaptive" in name else _product(operation.args[1], rank)
    if "col2im" in name:
        return _product(operation.args[2], 2)
    if "cumsum" in name:
        return max(shape)
    return prod(shape) // outputs


def _product(sizes: Any, rank: int) -> int:
    sizes = list(sizes) if isinstance(sizes, list | tuple) else [sizes]
    return prod(sizes * rank if len(sizes) == 1 else sizes)


def _of_largest_of_all(walk: Walk, operation: Operation, index: int) -> Tensor:
    """The operator on the largest absolute values of all samples; computed once."""

    def compute() -> Tensor:
        value = walk.samples.interval(index)
        most = torch.maximum(value.lower.abs(), value.upper.abs())
        rest = plain_arguments(operation, len(most), walk.samples.values)
        out: Tensor = operation.target(most, *rest, **_named(operation))
        return out

    sizes: Tensor = walk.samples.once(("averages", operation.index), compute)
    return sizes


def _of_largest(walk: Walk, operation: Operation, index: int) -> Tensor:
    """The operator on the largest absolute values of its operand."""
    lower, upper = walk.ends(index)
    most = torch.maximum(lower.abs(), upper.abs())
    out: Tensor = operation.target(
        most, *plain_arguments(operation, len(most), walk.samples.values), **_named(operation)
    )
    return out


def transposed(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> tuple[int, Tensor]:
    """The operand, and the coefficients on it.

    Raises:
        Stop: a walk around a position.
    """
    layout = first_layout(operation)
    if not isinstance(layout, Layout):
        raise Stop
    if region is not None:
        raise NeedsImages if operation.operator in OF_IMAGES else Stop
    index = walk.operand(operation, 0)
    count = a.shape[0] * a.shape[1]
    with torch.enable_grad():
        x = a.new_zeros(count, *walk.samples.shape(index)).requires_grad_()
        result = operation.target(x, *plain_arguments(operation, count, walk.samples.values), **_named(operation))
        (first,) = torch.autograd.grad(result, x, a.flatten(0, 1))
    return index, first.unflatten(0, a.shape[:2])


def _named(operation: Operation) -> dict[str, Any]:
    """The arguments by name but for the type, which is that of the walk."""
    return {name: value for name, value in operation.kwargs.items() if name != "dtype"}


def plain_arguments(operation: Operation, count: int, values: Mapping[int, Any]) -> list[Any]:
    """The other arguments, with the number of samples in its place.

    Raises:
        Stop: one of them is computed.
    """
    layout = first_layout(operation)
    if operation.operator == "aten.expand.default" and isinstance(layout, Layout):
        return [layout.sizes(count)]

    def constant(ref: Ref) -> Tensor:
        held = values.get(ref.index)
        if not isinstance(held, Parameter) or held.source is None:
            raise Stop
        return held.source

    if any(isinstance(v, BatchSize) for v in operation.args[1:]):
        raise Stop
    plain: list[Any] = map_arg_refs(list(operation.args[1:]), constant)
    return plain
