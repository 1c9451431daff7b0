r"""Parameters that are read more than once: their noise over all readings together (T3 of ``docs/yield.md``).

Such noise N is not independent of what it meets. Let :math:`G_q` be the derivative of a row by entry q, added up over
all operations that read it; the ends say that it lies in :math:`G_c \pm R`. Then

.. math:: \langle N, G \rangle \ge \langle N, G_c \rangle - \sum_q |N_q| R_q ,

a function of normal numbers with mean :math:`-\sqrt{2/\pi} \sum_q \tau_q R_q` and the Lipschitz constant
:math:`\sqrt{\sum_q \tau_q^2 (|G_{c,q}| + R_q)^2}`, whose square adds to the variance of the others: they are
independent given N.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop, Walk
from thetabox.verify.network.graph import Graph, Operation
from thetabox.verify.yields.operators import refusal
from thetabox.verify.yields.variance import centred, rounded_up, with_values
from thetabox.verify.yields.variance_bilinear import as_function, gradients
from thetabox.verify.yields.variance_by_place import BY_PLACE, factors, multiplicand

# Mean of the absolute value of a standard normal number, rounded up.
MEAN_ABSOLUTE = math.sqrt(2.0 / math.pi) * (1.0 + 2.0**-40)


@dataclass
class Derivative:
    """Of rows by a parameter's entries: ``centre ± radius``, ``[samples, rows, *parameter]``."""

    centre: Tensor
    radius: Tensor

    def __add__(self, other: Derivative) -> Derivative:
        centre = self.centre + other.centre
        radius = self.radius + other.radius
        return Derivative(centre, rounded_up(radius, 2) + gamma_sum(2) * centre.abs())

    def variance(self, size: Tensor) -> Tensor:
        """Square of the Lipschitz constant at σ = 1, ``[samples, rows]``."""
        most = (self.centre.abs() + self.radius).square() * size.square()
        return rounded_up(most.flatten(2).sum(2), size.numel() + 8)

    def mean_lost(self, size: Tensor) -> Tensor:
        """What the mean lies below 0 at σ = 1, ``[samples, rows]``."""
        return rounded_up((self.radius * size).flatten(2).sum(2) * MEAN_ABSOLUTE, size.numel() + 8)


def derivative(walk: Walk, operation: Operation, index: int, a: Tensor, region: Region | None) -> Derivative:
    """Of a walk's rows by the parameter that an operation reads at a position.

    Raises:
        InputError: the operation reads it in a way that is not known.
    """
    samples = walk.samples
    shape = samples.shape(operation.index)
    if region is not None and not (walk.frame.whole or region.fixed):
        a = walk.frame.unfolded(a, region, (shape[-2], shape[-1]))
    entries = a[0, 0].numel()
    try:
        if operation.operator in BY_PLACE:
            return _by_place(walk, operation, index, a, entries)
        function = as_function(samples, operation)
    except Stop:
        raise refusal(operation) from None
    centre, radius = (t[walk.frame.samples] for t in centred(samples, function.x))
    radius = rounded_up(radius + gamma_sum(entries) * (centre.abs() + radius), 4)
    held = [samples.values[i].theta for i in function.parameters]  # type: ignore[union-attr]  # parameters
    gradient, place = gradients(function.call, held), function.parameters.index(index)
    inner, rest, added = (
        gradient(h, t)[place] for h, t in ((centre, a), (radius, a.abs()), (torch.zeros_like(radius), a.abs()))
    )
    around = rounded_up((rest - added).clamp(min=0.0) + gamma_sum(entries) * rest, entries)
    lost = gamma_sum(entries) * a.abs().flatten(2).sum(2).view(*a.shape[:2], *[1] * (inner.dim() - 2))
    return Derivative(inner, around + lost)


def _by_place(walk: Walk, operation: Operation, index: int, a: Tensor, entries: int) -> Derivative:
    samples = walk.samples
    theta: Tensor = samples.values[index].theta  # type: ignore[union-attr]  # a parameter
    weight, bias = factors(samples, with_values(samples, {index: torch.ones_like(theta)}), operation)
    # Zeros where it does not stand; one parameter may be both.
    multiplies = weight is not None and bool(weight.any())
    like = weight if multiplies else bias
    if like is None:
        raise Stop
    middle, size, radius = torch.zeros_like(like), torch.zeros_like(like), torch.zeros_like(like)
    if multiplies:
        centre, radius = (t[walk.frame.samples][:, None] for t in multiplicand(samples, operation))
        middle, size = centre, centre.abs()
    if bias is not None:
        middle, size = middle + bias, size + bias.abs()
    inner = a * middle
    around = rounded_up(a.abs() * radius + gamma_sum(entries + 4) * a.abs() * size, 8)
    rank = a.dim() - 2
    summed = (*a.shape[:2], *[1] * (rank - like.dim()), *like.shape)
    sums = (t.sum_to_size(summed) for t in (inner, rounded_up(around, entries)))
    parts = (t.reshape(*a.shape[:2], *theta.shape) for t in sums)
    return Derivative(*parts)


def mean_of_ends(samples: Samples, operation: Operation, sizes: Mapping[int, Tensor]) -> Tensor:
    """What every result's own noise lies below 0 on average at most, by the sizes of what is read more than once."""
    own = {i: size for i, size in sizes.items() if i in operation.inputs}
    if operation.operator in BY_PLACE:
        weight, _ = factors(samples, with_values(samples, own), operation)
        _, radius = multiplicand(samples, operation)
        lost = torch.zeros_like(radius) if weight is None else radius * weight.abs()
        return rounded_up(lost * MEAN_ABSOLUTE, 8)
    try:
        function = as_function(samples, operation)
    except Stop:
        raise refusal(operation) from None
    _, radius = centred(samples, function.x)
    held = with_values(samples, own)
    tensors = [held.values[i].theta for i in function.parameters]  # type: ignore[union-attr]  # parameters
    rest = function.call(radius, tensors) - function.call(torch.zeros_like(radius), tensors)
    terms = sum(t.numel() for t in tensors)
    return rounded_up(rest.clamp(min=0.0) * MEAN_ABSOLUTE, terms + 8) + gamma_sum(terms) * function.call(
        radius, tensors
    )


def readers(graph: Graph, tied: Mapping[int, str]) -> dict[int, list[int]]:
    """Operation → positions of parameters in it that are read more than once."""
    by_reader = {}
    for operation in graph.operations:
        mine = [i for i in dict.fromkeys(operation.inputs) if i in tied]
        if mine:
            by_reader[operation.index] = mine
    return by_reader
