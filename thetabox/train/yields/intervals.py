r"""Margins that a chip keeps with probability 1 - δ: intervals, each layer's own noise in L2.

.. math:: z = W c + b \pm \bigl(|W| r + q\sigma \lVert \tau \circ u \rVert_2\bigr), \qquad h \in c \pm r,\; u = |c| + r

on events that fail with probability 2Φ(-q) each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.train.yields.graph import AFFINE, ReadingLayer, Traced, before_layer, layer, rising
from thetabox.train.yields.tails import Spent

SMALL = 1e-12
"""Variance that every result has at least, so that its root has a gradient."""


@dataclass(frozen=True)
class Span:
    """An interval."""

    lower: Tensor
    upper: Tensor

    @property
    def most(self) -> Tensor:
        """Largest absolute value."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    @property
    def centre(self) -> Tensor:
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Tensor:
        return (self.upper - self.lower) / 2


def interval_margins(
    net: Traced, x: Tensor, y: Int[Tensor, " samples"], sigma: float, spent: Spent
) -> Float[Tensor, "samples classes"]:
    """Lower bounds of logit_y - logit_k for every class k; the column of y itself says nothing."""
    values = {net.graph.inputs[0]: Span(x, x)}
    head = net.head()
    for operation in net.operations:
        first = operation.inputs[0]
        if operation is head:
            of = values[first]
            return margins(layer(net, operation), of, of.most, y, sigma, spent.margin)
        if operation.operator in AFFINE and first in values and any(i in net.values for i in operation.inputs):
            of, one = values[first], layer(net, operation)
            normed = Span(before_layer(net, operation, of.lower), before_layer(net, operation, of.upper))
            centre = one.product(normed.centre, one.weight, one.bias)
            radius = one.product(normed.radius, one.weight.abs(), None)
            radius = radius + spent.end * (sigma**2 * one.variance(normed.most) + SMALL).sqrt()
            values[operation.index] = Span(centre - radius, centre + radius)
        else:
            values[operation.index] = Span(
                rising(operation, lambda i: values[i].lower), rising(operation, lambda i: values[i].upper)
            )
    logits = values[net.output]
    return logits.lower.gather(1, y[:, None]) - logits.upper


def margins(
    head: ReadingLayer,
    hidden: Span,
    most: Tensor,
    y: Tensor,
    sigma: float,
    z: float,
    more: Tensor | None = None,
) -> Float[Tensor, "samples classes"]:
    """Of the last layer: its rows' differences, and the noise of both rows in L2.

    Args:
        head: dense.
        hidden: what it is given.
        most: its largest absolute values, for the noise.
        y: labels.
        sigma, z: of its noise.
        more: variance of the hidden values given the layers before, each on its own.
    """
    difference = head.weight[y][:, None] - head.weight
    centre = (difference @ hidden.centre[..., None])[..., 0]
    if head.bias is not None:
        centre = centre + head.bias[y][:, None] - head.bias
    radius = (difference.abs() @ hidden.radius[..., None])[..., 0]
    variance = sigma**2 * head.variance(most)
    variance = variance.gather(1, y[:, None]) + variance
    if more is not None:
        variance = variance + (difference.square() @ more[..., None])[..., 0]
    return centre - radius - z * (variance + SMALL).sqrt()
