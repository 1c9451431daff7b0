r"""Margins that a chip keeps with probability 1 - δ: means of activations as intervals, their own noise in L2.

Given the layers before, a pre-activation is :math:`z = \mu + s n`. Its activation has the mean

.. math:: E\,\mathrm{relu}(z) = \mu\Phi(\mu/s) + s\varphi(\mu/s)

which lies between those at the ends of μ and of s, and a variance of at most :math:`s^2`, which moves the next layer's
μ in L2 (within a channel of a convolution, whose kernel is shared, in a sum). A kink costs a smoothed ReLU then, not
the whole reach of its noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from thetabox.train.yields.graph import (
    AFFINE,
    RELU,
    ReadingLayer,
    Traced,
    before_layer,
    layer,
    rising,
)
from thetabox.train.yields.intervals import SMALL, Span, margins
from thetabox.train.yields.neuron import mean_relu
from thetabox.train.yields.tails import Spent
from thetabox.verify.network.graph import Operation
from thetabox.verify.network.operators import CONVOLUTIONS


@dataclass(frozen=True)
class Means:
    """A value given all layers but the last noisy one, and as a whole.

    Attributes:
        mean: of its conditional mean.
        spread: of its conditional standard deviation.
        value: of itself.
        shared: whether the noise of positions of one channel is the same noise.
    """

    mean: Span
    spread: Span
    value: Span
    shared: bool = False


def mean_margins(
    net: Traced, x: Tensor, y: Int[Tensor, " samples"], sigma: float, spent: Spent
) -> Float[Tensor, "samples classes"]:
    """Lower bounds of logit_y - logit_k for every class k; the column of y itself says nothing."""
    values = means(net, x, sigma, spent)
    head = net.head()
    if head is None:
        logits = values[net.output].value
        return logits.lower.gather(1, y[:, None]) - logits.upper
    of = values[head.inputs[0]]
    return margins(layer(net, head), of.mean, of.value.most, y, sigma, spent.margin, of.spread.upper.square())


def means(net: Traced, x: Tensor, sigma: float, spent: Spent) -> dict[int, Means]:
    """Of every value of the graph, by position; of the logits where no dense layer makes them."""
    zero = torch.zeros_like(x)
    values = {net.graph.inputs[0]: Means(Span(x, x), Span(zero, zero), Span(x, x))}
    head = net.head()
    for operation in net.operations:
        if operation is head:
            break
        if operation.operator in AFFINE and any(i in net.values for i in operation.inputs):
            values[operation.index] = _through(net, operation, values[operation.inputs[0]], sigma, spent)
        elif operation.operator in RELU:
            values[operation.index] = _relu(values[operation.inputs[0]])
        else:
            values[operation.index] = _moved(operation, values)
    return values


def _through(net: Traced, operation: Operation, of: Means, sigma: float, spent: Spent) -> Means:
    one = layer(net, operation)

    def normed(ends: Span) -> Span:
        return Span(before_layer(net, operation, ends.lower), before_layer(net, operation, ends.upper))

    mean, value = normed(of.mean), normed(of.value)
    centre = one.product(mean.centre, one.weight, one.bias)
    moved = (_mixed(operation, one, of) + SMALL).sqrt()
    radius = one.product(mean.radius, one.weight.abs(), None) + spent.end * moved
    least = torch.where(value.lower * value.upper > 0, torch.minimum(value.lower.abs(), value.upper.abs()), 0.0)
    spread = Span(*((sigma**2 * one.variance(size) + SMALL).sqrt() for size in (least, value.most)))
    ends = Span(centre - radius, centre + radius)
    alone = spent.end * spread.upper
    return Means(ends, spread, Span(ends.lower - alone, ends.upper + alone), operation.operator in CONVOLUTIONS)


def _mixed(operation: Operation, one: ReadingLayer, of: Means) -> Tensor:
    """Variance of a layer's μ by the noise of the layer before."""
    spread = of.spread.upper
    if not (of.shared and operation.operator in CONVOLUTIONS):
        return one.product(spread.square(), one.weight.square(), None)
    outputs, inputs = one.weight.shape[:2]
    kernels = one.weight.abs().transpose(0, 1).reshape(inputs * outputs, 1, *one.weight.shape[2:])
    named = dict(zip(("stride", "padding", "dilation"), operation.args[3:], strict=False)) | operation.kwargs
    by_channel = F.conv2d(spread, kernels, groups=inputs, **named)
    return by_channel.unflatten(1, (inputs, outputs)).square().sum(1)


def _relu(of: Means) -> Means:
    mean = Span(mean_relu(of.mean.lower, of.spread.lower), mean_relu(of.mean.upper, of.spread.upper))
    return replace(of, mean=mean, value=Span(of.value.lower.relu(), of.value.upper.relu()))


def _moved(operation: Operation, values: dict[int, Means]) -> Means:
    def both(part: str) -> Span:
        return Span(
            rising(operation, lambda i: getattr(values[i], part).lower),
            rising(operation, lambda i: getattr(values[i], part).upper),
        )

    return Means(
        both("mean"), both("spread"), both("value"), all(values[i].shared for i in operation.inputs if i in values)
    )
