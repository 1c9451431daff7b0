r"""Variance of any operation that is linear in its parameters, and linear in its operand for each value of them.

With :math:`f(h, \theta)` the operation, the entry :math:`\theta_q` meets :math:`G_q(h) = \partial \langle A, f(h,
\theta)\rangle / \partial \theta_q`, which is linear in h: for h in [c - r, c + r] it lies in :math:`G_q(c) \pm` that of
:math:`|A|` at r, for sums of products without coefficients of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap

from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.rules.einsum import read
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop, Walk
from thetabox.verify.network.graph import Operation, map_arg_refs
from thetabox.verify.yields.variance import Variance, centred, rounded_up

BILINEAR = (
    "aten.matmul.default", "aten.einsum.default", "aten.conv3d.default", "aten.conv3d.padding",
    "aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input",
)  # names, several to a line  # fmt: skip
# Of these, one operand is a parameter: two noises would multiply each other.
PRODUCTS_OF_TWO = ("aten.matmul.default", "aten.mm.default", "aten.einsum.default")


@dataclass(frozen=True)
class Bilinear:
    """An operation as a function of its operand and its parameters.

    Attributes:
        x: position of the operand.
        parameters: positions of the parameters.
        call: operand and parameters → result.
    """

    x: int
    parameters: list[int]
    call: Callable[[Tensor, list[Tensor]], Tensor]


def as_function(samples: Samples, operation: Operation) -> Bilinear:
    """An operation of one value and one parameter, or a weight and a bias.

    Raises:
        Stop: it has other operands.
    """
    values = [i for i in dict.fromkeys(operation.inputs) if samples.depends(i)]
    parameters = [i for i in dict.fromkeys(operation.inputs) if isinstance(samples.values[i], Parameter)]
    most = 1 if operation.operator in PRODUCTS_OF_TWO else 2
    if len(values) != 1 or not samples.plain(values[0]) or len(parameters) > most:
        raise Stop
    if len(parameters) + 1 != len(operation.inputs):
        raise Stop
    index = values[0]

    def call(h: Tensor, tensors: list[Tensor]) -> Tensor:
        values = dict(zip(parameters, tensors, strict=True)) | {index: h}
        args, kwargs = map_arg_refs((operation.args, operation.kwargs), lambda ref: values[ref.index])
        out: Tensor = operation.target(*args, **kwargs)
        return out

    return Bilinear(index, parameters, call)


def bilinear(samples: Samples, sized: Samples, operation: Operation) -> Variance:
    """Variance of an operator of :data:`BILINEAR`.

    Args:
        samples: with the operands' intervals.
        sized: the same, whose parameters are the sizes of their errors.
        operation: whose.

    Raises:
        Stop: it has other operands than one value of the samples, and parameters.
    """
    function = as_function(samples, operation)
    call = function.call
    held = [sized.values[i].theta for i in function.parameters]  # type: ignore[union-attr]  # parameters
    centre, radius = centred(samples, function.x)
    outputs = call((centre.abs() + radius).square(), [t.square() for t in held]).clamp(min=0.0)
    terms = sum(t.numel() for t in held)
    # (Σ_s h_s)² ≤ S Σ_s h_s² of the S entries that one of a parameter meets in one result.
    outputs = rounded_up(outputs * _met_together(samples, operation, function), terms + 8)

    def rows(walk: Walk, a: Tensor, region: Region | None) -> Tensor:
        if region is not None and not (walk.frame.whole or region.fixed):
            a = walk.frame.unfolded(a, region, (outputs.shape[-2], outputs.shape[-1]))
        entries = a[0, 0].numel()
        middle, around = centre[walk.frame.samples], radius[walk.frame.samples]
        around = rounded_up(around + gamma_sum(entries) * (middle.abs() + around), 4)
        gradient = gradients(call, held)
        total = a.new_zeros(a.shape[:2])
        # What is added to the results, and no product with the operand, has no radius: it cancels here.
        parts = (gradient(h, t) for h, t in ((middle, a), (around, a.abs()), (torch.zeros_like(around), a.abs())))
        for tau, inner, rest, added in zip(held, *parts, strict=True):
            most = inner.abs() + rounded_up((rest - added).clamp(min=0.0) + gamma_sum(entries) * rest, entries)
            # A parameter that is added meets the coefficients alone: what their sum may lose is not in the radius.
            most = most + gamma_sum(entries) * a.abs().flatten(2).sum(2).view(*a.shape[:2], *[1] * tau.dim())
            total = total + (most.square() * tau.square()).flatten(2).sum(2)
        return rounded_up(total, terms + 8)

    return Variance(outputs, rows)


def _met_together(samples: Samples, operation: Operation, function: Bilinear) -> int:
    """How many entries of the operand one of a parameter meets in one result: several where an einsum sums them."""
    if operation.operator != "aten.einsum.default":
        return 1
    operands = [ref.index for ref in operation.args[1]]
    if len(operands) != 2:  # a parameter that stands there twice
        raise Stop
    held: list[Any] = [samples.values[i] for i in operands]
    shapes = [tuple((v.theta if isinstance(v, Parameter) else v.lower).shape) for v in held]
    terms, result = read(operation.args[0], [len(shape) for shape in shapes], operation.describe())
    place = operands.index(function.x)
    met = dict(zip(terms[1 - place], shapes[1 - place], strict=True))
    mine = dict(zip(terms[place], shapes[place], strict=True))
    return prod(size for c, size in mine.items() if c not in result and met.get(c, 1) == 1)


def gradients(
    call: Callable[[Tensor, list[Tensor]], Tensor], held: list[Tensor]
) -> Callable[[Tensor, Tensor], list[Tensor]]:
    """Operand and rows → gradients by each parameter, ``[samples, rows, *parameter]``."""

    def of_sample(h: Tensor, rows: Tensor) -> list[Tensor]:
        back = vjp(lambda tensors: call(h[None], tensors)[0], [torch.zeros_like(t) for t in held])[1]
        slopes: list[Tensor] = vmap(lambda row: back(row)[0])(rows)
        return slopes

    def of_samples(h: Tensor, rows: Tensor) -> list[Tensor]:
        parts = [of_sample(one, some) for one, some in zip(h, rows, strict=True)]
        return [torch.stack(part) for part in zip(*parts, strict=True)]

    return of_samples
