r"""Margins that a chip keeps with probability 1 - δ: the margin's rows backwards through lines, all noise in L2.

Where values are comes from :mod:`thetabox.train.yields.moments`. A row A of the margin goes back through every layer. A
ReLU is smoothed by its own layer's noise: with :math:`g(\mu) = E\,\mathrm{relu}(\mu + s n)` it has a line above (the
chord of g, for negative coefficients) and one below (a tangent of g). The layer's noise passes with slopes in
:math:`[\Phi(\mu_l/s - c), \Phi(\mu_u/s + c)]`, and all noise adds in L2, a kernel's with all its positions in one sum:

.. math:: m \ge C + \langle A, x\rangle - q \sqrt{\textstyle\sum_w \tau_w^2 (|G_w| + R_w)^2}
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.train.yields.graph import (
    ADD,
    AFFINE,
    BATCH_NORM,
    LINEAR,
    ReadingLayer,
    Traced,
    before_layer,
    layer,
    patches,
    rising,
)
from thetabox.train.yields.intervals import SMALL, Span
from thetabox.train.yields.moments import ValueRegion, regions
from thetabox.train.yields.neuron import mean_relu
from thetabox.train.yields.tails import Spent
from thetabox.verify.network.graph import Operation
from thetabox.verify.network.operators import MAX_POOLS, RELU

BOXES = 5.0
"""Standard deviations of the ends of conditional means."""
RIVALS = 3
"""Classes of each sample that get a row: those that come closest; the others have the margin of the means."""
FLIPS = 3.0
"""c: within how many standard deviations of its kink a neuron counts as undecided."""


@dataclass(frozen=True)
class BackwardRows:
    """Coefficients ``[samples, rows, *shape]`` of one value.

    Attributes:
        mean: of its mean.
        slope: of its own layer's noise, the middle of what activity may make of it.
        doubt: radius of that.
    """

    mean: Tensor
    slope: Tensor
    doubt: Tensor | None = None

    def __add__(self, other: BackwardRows) -> BackwardRows:
        doubt = self.doubt if other.doubt is None else other.doubt
        if self.doubt is not None and other.doubt is not None:
            doubt = self.doubt + other.doubt
        return BackwardRows(self.mean + other.mean, self.slope + other.slope, doubt)


def row_margins(
    net: Traced, x: Tensor, y: Int[Tensor, " samples"], sigma: float, spent: Spent
) -> Float[Tensor, "samples classes"]:
    """Lower bounds of logit_y - logit_k for the classes k that come closest; the column of y itself says nothing."""
    values = regions(net, x, sigma, BOXES)
    logits = values[net.output].mean.centre
    clean = logits.gather(1, y[:, None]) - logits
    is_label = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, y[:, None], True)
    rivals = (
        clean.detach().masked_fill(is_label, torch.inf).topk(min(RIVALS, clean.shape[1] - 1), 1, largest=False).indices
    )
    identity = torch.eye(clean.shape[1], dtype=x.dtype, device=x.device)
    a = identity[y][:, None] - identity[rivals]
    rows = {net.output: BackwardRows(a, a)}
    constant, variance = torch.zeros_like(a[..., 0]), torch.zeros_like(a[..., 0])
    for operation in reversed(net.operations):
        if operation.index not in rows:
            continue
        row, first = rows.pop(operation.index), operation.inputs[0]
        if operation.operator in AFFINE and any(i in net.values for i in operation.inputs):
            one, of = layer(net, operation), values[first]
            if one.bias is not None:
                constant = constant + _positions(row.mean).sum(3) @ one.bias
            variance = variance + sigma**2 * _variance(net, operation, one, row, of)
            a = _back(net, operation, one, row.mean, of.mean.lower)
            back = {first: BackwardRows(a, a)}
        elif operation.operator in RELU:
            line, c = _relu(row, values[first])
            constant, back = constant + c, {first: line}
        else:
            back = _moved(operation, row, values)
        for index, line in back.items():
            rows[index] = rows[index] + line if index in rows else line
    at_input = rows[net.graph.inputs[0]].mean
    centre = constant + (at_input * x[:, None]).flatten(2).sum(2)
    return clean.scatter(1, rivals, centre - math.sqrt(2 * spent.exponent) * (variance + SMALL).sqrt())


def _relu(row: BackwardRows, of: ValueRegion) -> tuple[BackwardRows, Tensor]:
    lower, upper = of.mean.lower[:, None], of.mean.upper[:, None]
    spread = of.spread[:, None]
    negative, positive = row.mean.clamp(max=0.0), row.mean.clamp(min=0.0)
    first, last = mean_relu(lower, spread), mean_relu(upper, spread)
    width = upper - lower
    thin = width < 1e-6
    at = (lower + upper) / 2
    density = torch.exp(-0.5 * (at / spread).square()) / math.sqrt(2 * math.pi)
    tangent = torch.special.ndtr(at / spread)
    chord = torch.where(thin, torch.special.ndtr(at / spread), (last - first) / width.clamp(min=1e-6))
    above = torch.maximum(first - chord * lower, last - chord * upper)
    constant = (negative * above + positive * spread * density).flatten(2).sum(2)
    ends = [torch.special.ndtr(mu / spread + c) for mu, c in ((lower, -FLIPS), (upper, FLIPS))]
    slope, doubt = row.mean * (ends[0] + ends[1]) / 2, row.mean.abs() * (ends[1] - ends[0]) / 2
    return BackwardRows(negative * chord + positive * tangent, slope, doubt), constant


def _variance(net: Traced, operation: Operation, one: ReadingLayer, row: BackwardRows, of: ValueRegion) -> Tensor:
    """Of a row, by the layer's own noise at σ = 1."""
    doubt = torch.zeros_like(row.slope) if row.doubt is None else row.doubt
    total = torch.zeros_like(row.mean.flatten(2).sum(2))
    if one.bias_size is not None:
        sums = _positions(row.slope).sum(3).abs() + _positions(doubt).sum(3)
        total = total + sums.square() @ one.bias_size.square()
    if one.weight_size is None:
        return total
    if operation.operator == LINEAR and row.slope.dim() == 3:
        # Units have their noise for themselves, so that its square has a mean.
        own = of.square @ one.weight_size.square().T
        return total + ((row.slope.abs() + doubt).square() @ own[..., None])[..., 0]
    value = Span(*(before_layer(net, operation, end) for end in (of.value.lower, of.value.upper)))
    slope, doubt = _positions(row.slope), _positions(doubt)
    if operation.operator == BATCH_NORM:
        centre, radius, most = (_positions(t[:, None]) for t in (value.centre, value.radius, value.most))
        inner = (slope * centre).sum(3).abs() + (slope.abs() * radius + doubt * most).sum(3)
        return total + inner.square() @ one.weight_size.square()
    kernel = one.weight.shape[2:]
    ends = (value.centre, value.radius, value.most)
    centre, radius, most = (patches(operation, kernel, t)[:, None] for t in ends)
    radius_sums = torch.cat([slope.abs(), doubt], 3) @ torch.cat([radius, most], 2)
    inner = (slope @ centre).abs() + radius_sums
    return total + (inner.square() * one.weight_size.flatten(1).square()).sum((2, 3))


def _positions(t: Tensor) -> Tensor:
    """``[samples, rows, channels, positions]``."""
    return t.flatten(3) if t.dim() > 3 else t[..., None]


def _back(net: Traced, operation: Operation, one: ReadingLayer, a: Tensor, like: Tensor) -> Tensor:
    if operation.operator == LINEAR:
        return a @ one.weight
    return _transposed(lambda t: one.product(before_layer(net, operation, t), one.weight, None), a, like)


def _transposed(function: Callable[[Tensor], Tensor], a: Tensor, like: Tensor) -> Tensor:
    """Rows through the transpose of a linear function of what has the shape of ``like``."""
    samples, number = a.shape[:2]
    with torch.enable_grad():
        zero = like.new_zeros(samples * number, *like.shape[1:]).requires_grad_()
        result = function(zero)
        (vjp,) = torch.autograd.grad(result, zero, a.flatten(0, 1), create_graph=True)
    return vjp.unflatten(0, (samples, number))


def _moved(operation: Operation, row: BackwardRows, values: dict[int, ValueRegion]) -> dict[int, BackwardRows]:
    if operation.operator == ADD:
        return dict.fromkeys(operation.inputs, row)
    first = operation.inputs[0]
    like = values[first].mean.lower
    if operation.operator in MAX_POOLS:
        at = values[first].mean.centre.detach().repeat_interleave(row.mean.shape[1], 0)

        def function(t: Tensor) -> Tensor:
            return rising(operation, lambda _: at + t)
    else:

        def function(t: Tensor) -> Tensor:
            return rising(operation, lambda _: t)

    doubt = None if row.doubt is None else _transposed(function, row.doubt, like)
    mean = _transposed(function, row.mean, like)
    slope = mean if row.slope is row.mean else _transposed(function, row.slope, like)
    return {first: BackwardRows(mean, slope, doubt)}
