r"""Mean and variance of every value under noise, forwards, as if its inputs were independent: about where a chip is.

.. math::
    m = W m_h + b, \quad S^2 = s^2 + W^2 S_h^2, \quad s^2 = \sigma^2 \tau^2 (m_h^2 + S_h^2), \qquad
    m_h = E\,\mathrm{relu}(m + S n), \quad S_h^2 = \mathrm{Var}\,\mathrm{relu}(m + S n)

with s the layer's own noise (Gast and Roth 2018, arXiv 1805.11327). Ends of a pre-activation given the layers before,
:math:`m \pm q\sqrt{S^2 - s^2}`, are about as far apart as those that rows prove one by one, at a hundredth of the cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thetabox.train.yields.graph import AFFINE, AVERAGES, BATCH_NORM, Traced, before_layer, layer, rising
from thetabox.train.yields.intervals import SMALL, Span
from thetabox.train.yields.neuron import mean_relu
from thetabox.verify.network.graph import Operation
from thetabox.verify.network.operators import MAX_POOLS, RELU

REACH = 4.0
"""Standard deviations within which a layer's inputs lie, where its own noise is bounded."""


@dataclass(frozen=True)
class ValueMoments:
    """Of one value.

    Attributes:
        mean, variance: of it.
        own: of its variance, what the noise of the last layer adds.
    """

    mean: Tensor
    variance: Tensor
    own: Tensor


@dataclass(frozen=True)
class ValueRegion:
    """Where a value is on most chips.

    Attributes:
        mean: of its mean given the layers before the last noisy one.
        spread: its standard deviation given them.
        value: of itself.
        square: mean of its square.
    """

    mean: Span
    spread: Tensor
    value: Span
    square: Tensor


def regions(net: Traced, x: Tensor, sigma: float, z: float) -> dict[int, ValueRegion]:
    """Of every value, by position; ``z`` standard deviations for the ends of means."""
    zero = torch.zeros_like(x)
    moments = {net.graph.inputs[0]: ValueMoments(x, zero, zero)}
    values = {net.graph.inputs[0]: Span(x, x)}
    region_of = {}
    for operation in net.operations:
        moments[operation.index] = here = _step(net, operation, moments, sigma)
        if operation.operator in AFFINE:
            deviation = REACH * (here.variance + SMALL).sqrt()
            values[operation.index] = Span(here.mean - deviation, here.mean + deviation)
        else:
            values[operation.index] = Span(
                rising(operation, lambda i: values[i].lower), rising(operation, lambda i: values[i].upper)
            )
    for index, here in moments.items():
        moved = z * ((here.variance - here.own).clamp(min=0.0) + SMALL).sqrt()
        mean = Span(here.mean - moved, here.mean + moved)
        square = here.mean.square() + here.variance
        region_of[index] = ValueRegion(mean, (here.own + SMALL).sqrt(), values[index], square)
    return region_of


def _step(net: Traced, operation: Operation, moments: dict[int, ValueMoments], sigma: float) -> ValueMoments:
    of = moments[operation.inputs[0]]
    if operation.operator in AFFINE and any(i in net.values for i in operation.inputs):
        one = layer(net, operation)
        mean = before_layer(net, operation, of.mean)
        variance = of.variance
        if operation.operator == BATCH_NORM:
            gain = before_layer(net, operation, of.mean + 1) - mean
            variance = variance * gain.square()
        own = sigma**2 * one.variance((mean.square() + variance + SMALL).sqrt())
        moved = one.product(variance, one.weight.square(), None)
        return ValueMoments(one.product(mean, one.weight, one.bias), own + moved, own)
    if operation.operator in RELU:
        s = (of.variance + SMALL).sqrt()
        mean = mean_relu(of.mean, s)
        density = torch.exp(-0.5 * (of.mean / s).square()) / math.sqrt(2 * math.pi)
        square = (of.mean.square() + of.variance) * torch.special.ndtr(of.mean / s) + of.mean * s * density
        variance = (square - mean.square()).clamp(min=0.0)
        share = variance / (of.variance + SMALL)
        return ValueMoments(mean, variance, of.own * share)
    if operation.operator in MAX_POOLS:
        # The place that is largest on average.
        return ValueMoments(*(_picked(operation, of.mean, t) for t in (of.mean, of.variance, of.own)))
    mean = rising(operation, lambda i: moments[i].mean)
    if operation.operator not in AVERAGES:
        return ValueMoments(mean, _moved(operation, moments, "variance"), _moved(operation, moments, "own"))
    # Neighbours have the same kernel's noise.
    spreads = {operation.inputs[0]: ValueMoments(mean, (of.variance + SMALL).sqrt(), (of.own + SMALL).sqrt())}
    return ValueMoments(
        mean, _moved(operation, spreads, "variance").square(), _moved(operation, spreads, "own").square()
    )


def _moved(operation: Operation, moments: dict[int, ValueMoments], part: str) -> Tensor:
    return rising(operation, lambda i: getattr(moments[i], part))


def _picked(operation: Operation, at: Tensor, what: Tensor) -> Tensor:
    """``what`` at the places that a max-pool picks from ``at``."""
    with torch.enable_grad():
        leaf = at.detach().requires_grad_()
        pooled = rising(operation, lambda _: leaf)
        # Each place's share: the gradient of what is picked is one at its place.
        ones = torch.ones_like(pooled, requires_grad=True)
        (places,) = torch.autograd.grad(pooled, leaf, ones, create_graph=True)
        (picked,) = torch.autograd.grad(places, ones, what, create_graph=True)
    return picked
