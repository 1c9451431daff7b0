"""Values put together, taken apart, chosen by a constant mask or written into each other, backwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.rules.rearrangement import constant_positions
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.walk import NeedsImages, Stop, Walk, backward, dot, flat
from thetabox.verify.network.graph import Operation, Ref, arguments

SPLITS = ("aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default", "aten.unbind.int")


def _along(walk: Walk, operation: Operation, rank: int) -> int:
    """The dimension of an operation on values of ``rank`` dimensions, samples included.

    Raises:
        Stop: that of the samples, or one that a walk around a position is about.
    """
    dim = int(arguments(operation)["dim"]) % rank
    if dim == 0 or not (walk.frame.whole or (rank == 4 and dim == 1)):
        raise Stop
    return dim


@backward("aten.cat.default")
def joined(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """Each value has its part of the coefficients."""
    dim = _along(walk, operation, a.dim() - 1)
    parts = _operands(walk, operation)
    sizes = [walk.samples.interval(i).shape[dim] for i in parts]
    for index, part in zip(parts, a.split(sizes, dim + 1), strict=True):
        walk.give(index, part, region)


@backward("aten.stack.default")
def stacked(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """The same, in a dimension of its own."""
    if not walk.frame.whole:
        raise NeedsImages
    dim = _along(walk, operation, a.dim() - 1)
    parts = _operands(walk, operation)
    for index, part in zip(parts, a.unbind(dim + 1), strict=True):
        walk.give(index, part)


def _operands(walk: Walk, operation: Operation) -> list[int]:
    refs = operation.args[0]
    if not all(isinstance(r, Ref) and walk.samples.plain(r.index) for r in refs):
        raise Stop
    return [r.index for r in refs]


@backward("getitem")
def one_of_several(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """A part of what was taken apart, or the first result of another operator."""
    samples, place = walk.samples, int(operation.args[1])
    maker = samples.makers.get(operation.args[0].index)
    if maker is None or maker.operator not in SPLITS:
        if place != 0:
            raise Stop
        walk.give(walk.operand(operation, 0), a, region)
        return
    index = walk.operand(maker, 0)
    whole = samples.interval(index).shape
    dim = _along(walk, maker, len(whole))
    parts: Any = samples.values[maker.index]
    if "unbind" in maker.operator:
        if not walk.frame.whole:
            raise Stop
        a, before = a.unsqueeze(dim + 1), place
    else:
        before = sum(part.shape[dim] for part in parts[:place])
    first = a.new_zeros(*a.shape[: dim + 1], whole[dim], *a.shape[dim + 2 :])
    first.narrow(dim + 1, before, a.shape[dim + 1]).copy_(a)
    walk.give(index, first, region)


@backward("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def chosen(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """By a mask that is the same for all samples and inside the whole box."""
    if not walk.frame.whole:
        raise NeedsImages
    samples, shape = walk.samples, samples_shape(walk, operation)
    condition, *terms = operation.args
    mask = _constant(samples.values[condition.index])
    if mask is None or mask.dim() > len(shape):
        raise Stop
    mask = (mask != 0).to(a.dtype).expand(shape)
    held: list[int | Tensor] = []
    for term in terms:
        if isinstance(term, Ref) and samples.plain(term.index) and samples.shape(term.index) == shape:
            held.append(term.index)
            continue
        number = _constant(samples.values[term.index]) if isinstance(term, Ref) else a.new_tensor(float(term))
        if number is None or number.dim() > len(shape):
            raise Stop
        held.append(number.to(a.dtype).expand(shape))
    for term, part in zip(held, (mask, 1.0 - mask), strict=True):
        if isinstance(term, int):
            walk.give(term, a * part)
        else:
            # A number may be infinite where no coefficient stands.
            here = torch.where(part > 0, a, 0.0)
            values = torch.where((here != 0).any(1), term, 0.0)
            walk.constant.add(dot(here, values))
            rounding = samples.rounding
            # A number of the graph may be below the normal ones of a network.
            walk.penalty(here, values.abs(), gamma_sum(a[0, 0].numel()) + rounding.of_operation(), rounding.subnormal)


def samples_shape(walk: Walk, operation: Operation) -> tuple[int, ...]:
    """Shape of a result, without the samples."""
    return walk.samples.shape(operation.index)


def _constant(value: object) -> Tensor | None:
    """A value that is known to the last bit and the same for all samples."""
    if isinstance(value, Parameter) and not value.factor and not value.theta_error:
        return value.theta
    if isinstance(value, Interval) and value.is_point and not value.slack and value.batch is None and not value.by_row:
        return value.lower
    return None


@backward("aten.select_scatter.default", "aten.slice_scatter.default")
def written(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """What is written takes its part of the coefficients, what is written to takes the others."""
    if not walk.frame.whole:
        raise NeedsImages
    samples, count = walk.samples, a.shape[0] * a.shape[1]
    both = [walk.operand(operation, place) for place in (0, 1)]
    with torch.enable_grad():
        x = [a.new_zeros(count, *samples.shape(i)).requires_grad_() for i in both]
        result = operation.target(*x, *operation.args[2:], **operation.kwargs)
        parts = torch.autograd.grad(result, x, a.flatten(0, 1))
    for index, part in zip(both, parts, strict=True):
        walk.give(index, part.unflatten(0, a.shape[:2]))


@backward("aten.copy.default")
def copied(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """The second value."""
    index = walk.operand(operation, 1)
    if walk.samples.shape(index) != walk.samples.shape(operation.index):
        raise Stop
    walk.give(index, a, region)


@backward("aten.gather.default")
def gathered(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """Entries at constant places, some of them several times."""
    samples, index = walk.samples, walk.operand(operation, 0)
    dim = int(operation.args[1]) % (a.dim() - 1)
    there = constant_positions(samples.context, samples.values[operation.args[2].index])
    if not walk.frame.whole or dim == 0 or there.shape[0] != len(samples.epsilon):
        raise Stop
    there = walk.cut(there, None)
    first = a.new_zeros(*a.shape[:2], *samples.shape(index))
    first.scatter_add_(dim + 1, there[:, None].expand_as(a), a)
    lower, upper = walk.ends(index)
    most = torch.maximum(lower.abs(), upper.abs())
    walk.penalty(a, most.gather(dim, there), gamma_sum(flat(a, 2).shape[2]))
    walk.give(index, first)
