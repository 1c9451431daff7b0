"""Errors that all entries of a tensor share: one more parameter, read once, whose effect is that of a gain."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop, Walk, dot
from thetabox.verify.network.graph import Operation
from thetabox.verify.yields.operators import refusal
from thetabox.verify.yields.variance import Variance, centred, rounded_up, with_values
from thetabox.verify.yields.variance_bilinear import as_function
from thetabox.verify.yields.variance_by_place import BY_PLACE, factors, multiplicand


def with_gains(own: Variance, samples: Samples, operation: Operation, gains: Mapping[int, Tensor]) -> Variance:
    """The variance of an operation's own errors, and of one more of each tensor whose gain is given by its position.

    Raises:
        InputError: the operation reads it in a way that is not known.
    """
    for index in set(operation.inputs) & set(gains):
        try:
            own = _with_effect(own, *effect(samples, operation, index, gains[index]))
        except Stop:
            raise refusal(operation) from None
    return own


def effect(samples: Samples, operation: Operation, index: int, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and radius of what a gain, in the place of the parameter at ``index``, adds to the results.

    Raises:
        Stop: the operation reads parameters in another way.
    """
    if operation.operator in BY_PLACE:
        weight, bias = factors(samples, with_values(samples, {index: gain}), operation)
        centre, radius = multiplicand(samples, operation)
        zero = torch.zeros_like(centre)
        weight, bias = zero if weight is None else weight, zero if bias is None else bias
        middle = centre * weight + bias
        return middle, rounded_up(radius * weight.abs() + gamma_sum(8) * ((centre * weight).abs() + bias.abs()), 8)
    function = as_function(samples, operation)
    centre, radius = centred(samples, function.x)
    # With a gain for one parameter and nothing for the others, the operation returns what that adds.
    nothing = {i: torch.zeros_like(samples.values[i].theta) for i in function.parameters}  # type: ignore[union-attr]  # parameters
    middle = function.call(centre, [gain if i == index else t for i, t in nothing.items()])
    sizes = [gain.abs() if i == index else t for i, t in nothing.items()]
    terms = gain.numel()
    size = function.call(centre.abs(), sizes).clamp(min=0.0)
    # What is added to the results, and no product with the operand, has no radius: it cancels here.
    around = (function.call(radius, sizes) - function.call(torch.zeros_like(radius), sizes)).clamp(min=0.0)
    return middle, rounded_up(around + gamma_sum(terms + 8) * (size + around), terms + 8)


def _with_effect(own: Variance, middle: Tensor, around: Tensor) -> Variance:
    """One more error, standard normal, of which the results are off by what lies in ``middle ± around``."""

    def rows(walk: Walk, a: Tensor, region: Region | None) -> Tensor:
        centre, radius = walk.cut(middle, region), walk.cut(around, region)
        count = a[0, 0].numel()
        radius = rounded_up(radius + gamma_sum(count) * (centre.abs() + radius), 4)
        most = dot(a, centre).abs() + rounded_up(dot(a.abs(), radius), count)
        return rounded_up(own.rows(walk, a, region) + most.square(), 8)

    return Variance(rounded_up(own.outputs + (middle.abs() + around).square(), 8), rows)
