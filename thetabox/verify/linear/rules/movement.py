"""Operators that are linear and hold no parameter: their own transpose, by torch's differentiation."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from thetabox.verify.arithmetic.rounding import gamma
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.samples import first_layout
from thetabox.verify.linear.walk import Stop, Walk, backward
from thetabox.verify.network.graph import BatchSize, Layout, Operation, Ref


@backward("aten.clone.default", "aten.alias.default", "aten.detach.default", "aten.contiguous.default",
          "aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default",
          "aten.lift_fresh_copy.default", "aten._to_copy.default", "aten.to.dtype", "aten.to.device",
          "getitem")  # a list of operators  # fmt: skip
def same(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """A copy, or the first of several results."""
    if operation.operator == "getitem" and operation.args[1] != 0:
        raise Stop
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


@backward("aten.permute.default", "aten.transpose.int", "aten.movedim.int", "aten.select.int", "aten.slice.Tensor",
          "aten.constant_pad_nd.default", "aten.pad.default", "aten.expand.default")  # a list of operators  # fmt: skip
def moved(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """Values rearranged, selected, or with zeros around."""
    if "pad" in operation.operator:
        mode, value = (*operation.args[2:], *[None] * 2)[:2] if "aten.pad" in operation.operator else (None, None)
        value = operation.args[2] if "constant" in operation.operator and len(operation.args) > 2 else value
        if value or operation.kwargs or mode not in (None, "constant"):
            raise Stop
    index, first = transposed(walk, operation, a, region)
    if "expand" in operation.operator:
        walk.lose(first, index, None, a[0, 0].numel())
    walk.give(index, first)


@backward("aten.avg_pool1d.default", "aten.avg_pool2d.default", "aten.adaptive_avg_pool1d.default",
          "aten.adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d.default", "aten.mean.dim",
          "aten.mean.default", "aten.sum.dim_IntList")  # a list of operators  # fmt: skip
def averaged(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """Sums and means; with ``m`` the same of ``|x|``, rounding is at most ``γ ⟨|A|, m⟩``."""
    index, first = transposed(walk, operation, a, region)
    lower, upper = walk.ends(index)
    most = torch.maximum(lower.abs(), upper.abs())
    terms = prod(walk.samples.shape(index))
    mean = operation.target(most, *plain_arguments(operation, len(most)), **_named(operation))
    network = gamma(terms + 8, walk.samples.rounding.network) if walk.samples.rounding.network else 0.0
    walk.penalty(a, mean, gamma_sum(terms + a[0, 0].numel()) + 1.01 * network, walk.samples.rounding.underflow * terms)
    walk.give(index, first)


def transposed(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> tuple[int, Tensor]:
    """The operand, and the coefficients on it.

    Raises:
        Stop: a walk around a position.
    """
    layout = first_layout(operation)
    if region is not None or not isinstance(layout, Layout):
        raise Stop
    index = walk.operand(operation, 0)
    count = a.shape[0] * a.shape[1]
    with torch.enable_grad():
        x = a.new_zeros(count, *walk.samples.shape(index)).requires_grad_()
        answer = operation.target(x, *plain_arguments(operation, count), **_named(operation))
        (first,) = torch.autograd.grad(answer, x, a.flatten(0, 1))
    return index, first.unflatten(0, a.shape[:2])


def _named(operation: Operation) -> dict[str, Any]:
    """The arguments by name but for the type, which is that of the walk."""
    return {name: value for name, value in operation.kwargs.items() if name != "dtype"}


def plain_arguments(operation: Operation, count: int) -> list[Any]:
    """The other arguments, with the number of samples in its place.

    Raises:
        Stop: one of them is computed.
    """
    layout = first_layout(operation)
    if operation.operator == "aten.expand.default" and isinstance(layout, Layout):
        return [layout.sizes(count)]
    if any(isinstance(v, (Ref, BatchSize)) for v in operation.args[1:]):
        raise Stop
    return list(operation.args[1:])
