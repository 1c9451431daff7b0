"""Balls through the operators of a network: what each multiplies a distance by, and what it adds."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import gamma
from thetabox.verify.interpreter.rules.normalise import network_error
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.norms.accurate import TWICE, accurate, two_product, two_sum
from thetabox.verify.linear.norms.balls import ROUNDOFF, Ball, Balls, ball_rule, norm, shaped
from thetabox.verify.linear.norms.spectral import ROUNDED_UP, convolution_norm, frobenius, spectral_norm
from thetabox.verify.linear.rules import affine, convolution
from thetabox.verify.linear.rules.activation import slope_below
from thetabox.verify.linear.rules.movement import plain_arguments
from thetabox.verify.linear.rules.normalise import statistics
from thetabox.verify.linear.rules.pooling import places
from thetabox.verify.linear.rules.window import PoolWindow
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop
from thetabox.verify.network.graph import Operation, Ref
from thetabox.verify.network.operators import CONVOLUTIONS, DENSE, MAX_POOLS_2D, TWO_SLOPES


@ball_rule(*CONVOLUTIONS, *DENSE)
def product(balls: Balls, samples: Samples, operation: Operation) -> Ball:
    r"""``W x + b``: :math:`\|W\| R`, and in each number the noise :math:`\varepsilon u |x|` and what is rounded."""
    conv = convolution.layer(samples, operation) if operation.operator in CONVOLUTIONS else None
    if conv is not None:
        index, weight, bias, times, terms = conv.x, conv.weight, conv.bias, conv.product, conv.inputs
    else:
        index, weight, bias = affine.layer(samples, operation)
        times, terms = _dense, weight.theta.shape[1]
        if samples.interval(index).lower.dim() != 2:
            raise Stop
    x = balls.ball(samples, index)
    reach = affine.reach(samples, operation, index, weight, bias, times)
    centre, low, local = _centre(balls, samples, x, weight, reach, times, terms)
    along = [1, -1, *[1] * (centre.dim() - 2)]
    if bias is not None:
        centre, low = _sum(centre, low, bias.theta.view(along))
    network = 1.01 * gamma(terms + 4, samples.rounding.network) if samples.rounding.network else 0.0
    error = max(p.theta_error for p in (weight, bias) if p is not None)
    local = local + reach * (network + 4.0 * error + (TWICE if low is not None else 4.0 * ROUNDOFF))
    local = local + (samples.rounding.subnormal * (terms + 4.0)) + _noise(samples, index, weight, bias, reach, times)
    lipschitz, rows = _sizes(balls, samples, operation, None)
    radius = x.radius * lipschitz * ROUNDED_UP + norm(local)
    apart = rows.view(along) * shaped(x.radius, centre) + local
    return Ball(centre, radius * ROUNDED_UP, low, apart, local, index)


def _dense(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.T


def _centre(
    balls: Balls, samples: Samples, x: Ball, weight: Parameter, reach: Tensor, times: Any, terms: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """``W x`` as a sum of two, and what that may be off by: twice the digits where rounding is all there is."""
    theta = weight.theta
    found = accurate(times, x.centre, theta, terms) if balls.rounding_only(samples) else None
    if found is None:
        lost = 0.0 if x.low is None else times(x.low.abs(), weight.magnitude) * (1.0 + gamma_sum(terms))
        return times(x.centre, theta), None, reach * gamma_sum(terms) + lost
    high, low, error = found
    if x.low is not None:
        # Numbers below the last digit, of which a product errs as any does.
        high, low = two_sum(high, low + times(x.low, theta))
        error = error + reach * (gamma_sum(terms) * 4.0 * ROUNDOFF)
    return high, low, error


def _sum(high: Tensor, low: Tensor | None, other: Tensor) -> tuple[Tensor, Tensor | None]:
    """``high + low + other``, in as many digits."""
    if low is None:
        return high + other, None
    high, lost = two_sum(high, other.expand_as(high))
    return two_sum(high, low + lost)


def _noise(
    samples: Samples, index: int, weight: Parameter, bias: Parameter | None, reach: Tensor, times: Any
) -> Tensor:
    """What noise of the layer's own parameters moves each output by, at most."""
    epsilon = samples.factor(weight)
    if bias is not None and bias.factor:
        if weight.factor and weight.absolute is None and bias.absolute is None:
            return reach * shaped(torch.maximum(epsilon, samples.factor(bias)), reach)
        around = bias.unit_radius.view(1, -1, *[1] * (reach.dim() - 2)) * shaped(samples.factor(bias), reach)
    else:
        around = torch.zeros_like(reach)
    if weight.factor and weight.absolute is None:
        return around + reach * shaped(epsilon, reach)
    if weight.factor:
        value = samples.interval(index)
        most = torch.maximum(value.lower.abs(), value.upper.abs())
        around = around + times(most, weight.unit_radius) * shaped(epsilon, reach)
    return around * (1.0 + gamma_sum(weight.theta.numel()))


def _sizes(balls: Balls, samples: Samples, operation: Operation, scale: Tensor | None) -> tuple[float, Tensor]:
    """Spectral norm of a layer with its outputs scaled, and Euclidean norms of its rows without that."""
    conv = convolution.layer(samples, operation) if operation.operator in CONVOLUTIONS else None
    weight = conv.weight if conv is not None else affine.layer(samples, operation)[1]
    theta = weight.theta.double()

    def compute() -> float:
        scaled = theta if scale is None else theta * scale.view(-1, *[1] * (theta.dim() - 1))
        slack = frobenius(scaled) * (weight.theta_error * 2.0 + 32.0 * ROUNDOFF)
        if conv is None:
            return (spectral_norm(scaled[None]) + slack) * ROUNDED_UP
        full = _written_out(scaled, conv)
        size = samples.shape(conv.x)
        size = (1, size[-1]) if conv.flat else (size[-2], size[-1])
        # Each weight is read at no more positions than there are outputs.
        spots = math.prod(samples.shape(operation.index)[1:])
        found = convolution_norm(full, size, conv.stride, conv.padding, conv.uneven)
        return (found + slack * math.sqrt(spots)) * ROUNDED_UP

    rows = torch.linalg.vector_norm(theta.flatten(1), dim=1) * (ROUNDED_UP * (1.0 + 2.0 * weight.theta_error)) + 1e-150
    return balls.norms.once((operation.index, scale is not None), compute), rows


def _written_out(weight: Tensor, conv: convolution.Convolution) -> Tensor:
    """Kernels without groups and dilation: zeros stand for what they leave out."""
    outputs, inputs, height, width = weight.shape
    if conv.groups > 1:
        full = weight.new_zeros(conv.groups, outputs // conv.groups, conv.groups, inputs, height, width)
        for group in range(conv.groups):
            full[group, :, group] = weight.unflatten(0, (conv.groups, -1))[group]
        weight = full.flatten(2, 3).flatten(0, 1)
    if conv.dilation == (1, 1):
        return weight
    down, right = conv.dilation
    wide = weight.new_zeros(*weight.shape[:2], (height - 1) * down + 1, (width - 1) * right + 1)
    wide[..., ::down, ::right] = weight
    return wide


@ball_rule("aten._native_batch_norm_legit_no_training.default", "aten.batch_norm.default")
def batch_norm(balls: Balls, samples: Samples, operation: Operation) -> Ball:
    """``s (z - m) + b``: behind a convolution the norm of both together, for channels are scaled differently."""
    weight, bias, mean, variance, eps = statistics(samples, operation)
    index = _operand(samples, operation, 0)
    maker, product_of = samples.makers.get(index), balls.made.get(index)
    behind = maker is not None and product_of is not None and product_of.source is not None
    # Behind a product the centre is as that was made, whose distance the two together multiply.
    z = product_of if behind and product_of is not None else balls.ball(samples, index)
    value = samples.interval(index)
    wide = (1, -1, *[1] * (z.centre.dim() - 2))
    steepness = (variance.theta + eps).sqrt().reciprocal()
    theta = torch.ones_like(steepness) if weight is None else weight.theta
    scale = theta * steepness
    centre, low = _normalised(balls, operation, z, mean.theta, variance.theta, eps, theta)
    most = torch.maximum(torch.maximum(value.lower.abs(), value.upper.abs()), z.centre.abs())
    most = most + mean.magnitude.view(wide)
    slope = scale.abs().view(wide)
    size = most * slope
    local = torch.zeros_like(size)
    if weight is not None and weight.factor:
        radius = (weight.unit_radius * steepness).view(wide)
        local = local + most * radius * shaped(samples.factor(weight), size)
        size = size + most * radius * shaped(samples.factor(weight), size)
    added = None
    if bias is not None:
        centre, low = _sum(centre, low, bias.theta.view(wide))
        moved = bias.unit_radius.view(wide) * shaped(samples.factor(bias), size)
        added = bias.magnitude.view(wide) + moved
        local, size = local + moved, size + added
    theta_error = max(p.theta_error for p in (weight, bias, mean, variance) if p is not None)
    local = local * (1.0 + 64.0 * ROUNDOFF) + size * (16.0 * TWICE if low is not None else 24.0 * ROUNDOFF)
    local = local + size * (8.0 * theta_error)
    affine_scale = theta.abs().view(wide)
    if weight is not None:
        affine_scale = affine_scale + weight.unit_radius.view(wide) * shaped(samples.factor(weight), size)
    steep = steepness.view(wide)
    local = local + samples.rounding.subnormal * (1.0 + most) * (1.0 + steep) * (1.0 + affine_scale)
    if samples.rounding.network:
        here = most - mean.magnitude.view(wide)
        error = network_error(samples.rounding, here, mean.magnitude.view(wide), steep, affine_scale, added)
        local = local + error * (1.0 + 64.0 * ROUNDOFF)
    if maker is not None and z.local is not None and z.source is not None:
        lipschitz, rows = _sizes(balls, samples, maker, scale)
        x = balls.ball(samples, z.source)
        local = local + slope * z.local * (1.0 + 16.0 * ROUNDOFF)
        radius = x.radius * (lipschitz * (1.0 + 16.0 * ROUNDOFF)) + norm(local)
        apart = slope * rows.view(wide) * shaped(x.radius, centre) + local
    else:
        radius = z.radius * (float(slope.max()) * (1.0 + 16.0 * ROUNDOFF)) + norm(local)
        apart = slope * shaped(z.radius, centre) + local
    return Ball(centre, radius * ROUNDED_UP, low, apart * ROUNDED_UP)


def _normalised(
    balls: Balls, operation: Operation, z: Ball, mean: Tensor, variance: Tensor, eps: float, weight: Tensor
) -> tuple[Tensor, Tensor | None]:
    """``w (z - m) / sqrt(v + e)`` of the centre."""
    wide = (1, -1, *[1] * (z.centre.dim() - 2))
    if z.low is None:
        return (z.centre - mean.view(wide)) * (weight * (variance + eps).sqrt().reciprocal()).view(wide), None
    high, low = balls.norms.pairs(operation.index, lambda: _scales(variance, eps, weight))
    shifted, lost = two_sum(z.centre, -mean.view(wide).expand_as(z.centre))
    lost = lost + z.low
    centre, below = two_product(shifted, high.view(wide).expand_as(shifted))
    return two_sum(centre, below + (lost * high.view(wide) + shifted * low.view(wide)))


def _scales(variance: Tensor, eps: float, weight: Tensor) -> tuple[Tensor, Tensor]:
    """``w / sqrt(v + e)`` to some 32 digits, as sums of two numbers."""
    pairs = []
    with localcontext() as context:
        context.prec = 60
        for v, w in zip(variance.tolist(), weight.tolist(), strict=True):
            exact = Decimal(w) / (Decimal(v) + Decimal(eps)).sqrt()
            pairs.append((float(exact), float(exact - Decimal(float(exact)))))
    high, low = torch.tensor(pairs, dtype=torch.float64, device=variance.device).unbind(1)
    return high, low


@ball_rule(*TWO_SLOPES)
def two_slopes(balls: Balls, samples: Samples, operation: Operation) -> Ball:
    """No steeper than 1: the ball's radius stays."""
    slope = slope_below(operation)
    x = balls.ball(samples, _operand(samples, operation, 0))
    if not slope:
        # The part below the last digit tells the sign where there is no other.
        low = None if x.low is None else torch.where(x.centre > 0, x.low, x.low.clamp(min=0.0) * (x.centre == 0))
        return Ball(x.centre.clamp(min=0.0), x.radius, low)
    rounding = samples.rounding
    if x.low is not None:
        x = Ball(x.centre, x.radius + norm(x.low))
    lost = _most(samples, operation, 0) * (slope * (4.0 * ROUNDOFF + rounding.of_operation(3))) + rounding.subnormal
    return Ball(torch.maximum(x.centre, slope * x.centre), (x.radius + norm(lost)) * ROUNDED_UP)


@ball_rule("aten.add.Tensor", "aten.sub.Tensor")
def added(balls: Balls, samples: Samples, operation: Operation) -> Ball:
    """Distances add up."""
    if operation.kwargs or len(operation.args) > 2:
        raise Stop
    left, right = (balls.ball(samples, _operand(samples, operation, place)) for place in (0, 1))
    if left.centre.shape != right.centre.shape:
        raise Stop
    sign = 1.0 if "add" in operation.operator else -1.0
    both = [v.low * s for v, s in ((left, 1.0), (right, sign)) if v.low is not None]
    centre, low = _sum(left.centre, sum(both[1:], both[0]) if both else None, right.centre * sign)
    most = _most(samples, operation, 0) + _most(samples, operation, 1)
    network = samples.rounding.network * 2.0
    lost = most * (network + (TWICE if low is not None else 2.0 * ROUNDOFF)) + samples.rounding.underflow
    return Ball(centre, (left.radius + right.radius + norm(lost)) * ROUNDED_UP, low)


@ball_rule(*MAX_POOLS_2D)
def max_pool(balls: Balls, samples: Samples, operation: Operation) -> Ball:
    r"""A maximum moves by no more than its largest operand, which as many windows hold as overlap."""
    args = [*operation.args[1:], *[None] * 5]
    kernel, stride = _two(args[0]), _two(args[1] or args[0])
    x = balls.ball(samples, _operand(samples, operation, 0))
    tiled = _two(args[3] or 1) == (1, 1)
    overlap = math.prod(-(-k // s) if tiled else k for k, s in zip(kernel, stride, strict=True))
    radius = x.radius * (math.sqrt(overlap) * ROUNDED_UP)
    answer = operation.target(x.centre, *operation.args[1:], **operation.kwargs)
    centre = answer[0] if isinstance(answer, tuple) else answer
    if x.low is None:
        return Ball(centre, radius)
    padding, ceil = _two(args[2] or 0), bool(args[4])
    if not tiled or ceil or operation.kwargs:
        return Ball(centre, (radius + norm(x.low) * math.sqrt(overlap)) * ROUNDED_UP)
    edges = (padding[1], padding[1], padding[0], padding[0])
    high, low = (places(F.pad(t, edges, value=-math.inf), PoolWindow(kernel, stride)) for t in (x.centre, x.low))
    return Ball(centre, radius, torch.where(high == centre.unsqueeze(-3), low, -math.inf).amax(-3))


@ball_rule("aten.avg_pool2d.default", "aten.adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d.default",
           "aten.mean.dim", "aten.sum.dim_IntList")  # a list of operators  # fmt: skip
def averaged(balls: Balls, samples: Samples, operation: Operation) -> Ball:
    r"""A matrix of numbers of at least 0: its norm is at most :math:`\sqrt{\|A\|_1 \|A\|_\infty}`."""
    x = balls.ball(samples, _operand(samples, operation, 0))
    named = {name: value for name, value in operation.kwargs.items() if name != "dtype"}
    arguments = plain_arguments(operation, len(x.centre), samples.values)
    centre = operation.target(x.centre, *arguments, **named)
    if samples.shape(operation.index) != tuple(centre.shape[1:]):
        raise Stop
    with torch.enable_grad():
        one = torch.ones_like(x.centre[:1]).requires_grad_()
        rows = operation.target(one, *plain_arguments(operation, 1, samples.values), **named)
        (columns,) = torch.autograd.grad(rows.sum(), one)
    steepness = math.sqrt(float(rows.abs().max()) * float(columns.abs().max())) * ROUNDED_UP
    terms = math.prod(x.centre.shape[1:])
    network = gamma(terms + 8, samples.rounding.network) if samples.rounding.network else 0.0
    most = operation.target(_most(samples, operation, 0), *arguments, **named)
    lost = most * (gamma_sum(terms) + 1.01 * network) + samples.rounding.subnormal * terms
    low = None
    if x.low is not None:
        centre, low = two_sum(centre, operation.target(x.low, *arguments, **named))
    return Ball(centre, (x.radius * steepness + norm(lost)) * ROUNDED_UP, low)


@ball_rule("aten.clone.default", "aten.alias.default", "aten.detach.default", "aten.contiguous.default",
           "aten.dropout.default", "aten.feature_dropout.default", "getitem", "aten.view.default",
           "aten.reshape.default", "aten._unsafe_view.default", "aten.flatten.using_ints")  # operators  # fmt: skip
def same(balls: Balls, samples: Samples, operation: Operation) -> Ball:
    """The same numbers, in another shape perhaps."""
    if operation.operator == "getitem" and operation.args[1] != 0:
        raise Stop
    x = balls.ball(samples, _operand(samples, operation, 0))
    if x.centre[0].numel() != math.prod(samples.shape(operation.index)):
        raise Stop
    shape = (len(x.centre), *samples.shape(operation.index))
    return Ball(x.centre.reshape(shape), x.radius, None if x.low is None else x.low.reshape(shape))


def _operand(samples: Samples, operation: Operation, place: int) -> int:
    """Position of the operand at ``place``.

    Raises:
        Stop: it is no value that holds the samples in its first dimension.
    """
    argument = operation.args[place] if len(operation.args) > place else None
    if not isinstance(argument, Ref) or not samples.plain(argument.index):
        raise Stop
    return argument.index


def _most(samples: Samples, operation: Operation, place: int) -> Tensor:
    value = samples.interval(_operand(samples, operation, place))
    return torch.maximum(value.lower.abs(), value.upper.abs())


def _two(value: Any) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])
