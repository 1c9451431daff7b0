"""Balls through batch norm."""

from __future__ import annotations

from decimal import Decimal, localcontext

import torch
from torch import Tensor

from thetabox.verify.arithmetic.rounding import ROUNDOFF
from thetabox.verify.interpreter.rules.normalise import network_error
from thetabox.verify.linear.norms.accurate import TWICE, pair_sum, two_product, two_sum
from thetabox.verify.linear.norms.balls import Ball, Balls, ball_rule, norm, shaped
from thetabox.verify.linear.norms.layers import layer_norms
from thetabox.verify.linear.norms.operands import operand
from thetabox.verify.linear.norms.spectral import ROUNDED_UP
from thetabox.verify.linear.rules.normalise import statistics
from thetabox.verify.linear.samples import Samples
from thetabox.verify.network.graph import Operation


@ball_rule("aten._native_batch_norm_legit_no_training.default", "aten.batch_norm.default")
def batch_norm(balls: Balls, samples: Samples, operation: Operation) -> Ball:
    """``s (z - m) + b``: behind a convolution the norm of both together, for channels are scaled differently."""
    weight, bias, mean, variance, eps = statistics(samples, operation)
    index = operand(samples, operation, 0)
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
        centre, low = pair_sum(centre, low, bias.theta.view(wide))
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
        lipschitz, rows = layer_norms(balls, samples, maker, scale)
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
