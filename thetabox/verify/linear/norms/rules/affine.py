"""Balls through dense layers and convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import ROUNDOFF, gamma
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.norms.accurate import TWICE, accurate, pair_sum, two_sum
from thetabox.verify.linear.norms.balls import Ball, Balls, ball_rule, norm, shaped
from thetabox.verify.linear.norms.layers import layer_norms
from thetabox.verify.linear.norms.spectral import ROUNDED_UP
from thetabox.verify.linear.rules import affine, convolution
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop
from thetabox.verify.network.graph import Operation
from thetabox.verify.network.operators import CONVOLUTIONS, DENSE


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
    term_size = affine.term_sizes(samples, operation, index, weight, bias, times)
    centre, low, local = _centre(balls, samples, x, weight, term_size, times, terms)
    along = [1, -1, *[1] * (centre.dim() - 2)]
    if bias is not None:
        centre, low = pair_sum(centre, low, bias.theta.view(along))
    network = 1.01 * gamma(terms + 4, samples.rounding.network) if samples.rounding.network else 0.0
    error = max(p.theta_error for p in (weight, bias) if p is not None)
    local = local + term_size * (network + 4.0 * error + (TWICE if low is not None else 4.0 * ROUNDOFF))
    local = (
        local + (samples.rounding.subnormal * (terms + 4.0)) + _noise(samples, index, weight, bias, term_size, times)
    )
    lipschitz, rows = layer_norms(balls, samples, operation, None)
    radius = x.radius * lipschitz * ROUNDED_UP + norm(local)
    apart = rows.view(along) * shaped(x.radius, centre) + local
    return Ball(centre, radius * ROUNDED_UP, low, apart, local, index)


def _dense(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.T


def _centre(
    balls: Balls, samples: Samples, x: Ball, weight: Parameter, term_size: Tensor, times: Any, terms: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """``W x`` as a sum of two, and what that may be off by: twice the digits where rounding is all there is."""
    theta = weight.theta
    twice = accurate(times, x.centre, theta, terms) if balls.rounding_only(samples) else None
    if twice is None:
        lost = 0.0 if x.low is None else times(x.low.abs(), weight.magnitude) * (1.0 + gamma_sum(terms))
        return times(x.centre, theta), None, term_size * gamma_sum(terms) + lost
    high, low, error = twice
    if x.low is not None:
        # Numbers below the last digit, of which a product errs as any does.
        high, low = two_sum(high, low + times(x.low, theta))
        error = error + term_size * (gamma_sum(terms) * 4.0 * ROUNDOFF)
    return high, low, error


def _noise(
    samples: Samples, index: int, weight: Parameter, bias: Parameter | None, term_size: Tensor, times: Any
) -> Tensor:
    """What noise of the layer's own parameters moves each output by, at most."""
    epsilon = samples.factor(weight)
    if bias is not None and bias.factor:
        if weight.factor and weight.absolute is None and bias.absolute is None:
            return term_size * shaped(torch.maximum(epsilon, samples.factor(bias)), term_size)
        around = bias.unit_radius.view(1, -1, *[1] * (term_size.dim() - 2)) * shaped(samples.factor(bias), term_size)
    else:
        around = torch.zeros_like(term_size)
    if weight.factor and weight.absolute is None:
        return around + term_size * shaped(epsilon, term_size)
    if weight.factor:
        value = samples.interval(index)
        most = torch.maximum(value.lower.abs(), value.upper.abs())
        around = around + times(most, weight.unit_radius) * shaped(epsilon, term_size)
    return around * (1.0 + gamma_sum(weight.theta.numel()))
