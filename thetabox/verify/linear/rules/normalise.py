r"""Batch norm in evaluation mode, backwards.

Per channel :math:`z = w \kappa (x - m) + b` with :math:`\kappa = 1/\sqrt{v + e}`; the weight is one number for all
positions, so its noise multiplies :math:`g = \kappa \sum_p A_p (x_p - m)` and is bounded as a convolution's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.rules.normalise import network_error
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.rules.affine import add_bias, parameter
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop, Walk, backward
from thetabox.verify.network.graph import Operation


def statistics(
    samples: Samples, operation: Operation
) -> tuple[Parameter | None, Parameter | None, Parameter, Parameter, float]:
    """Weight, bias, mean, variance and eps of a batch norm.

    Raises:
        Stop: its statistics are in the box, or are those of the batch.
    """
    weight, bias, mean, variance = (parameter(samples, operation, place) for place in range(1, 5))
    eps: float = operation.args[6] if "native" in operation.operator else operation.args[7]
    if mean is None or variance is None or mean.factor or variance.factor or operation.kwargs:
        raise Stop
    if "native" not in operation.operator and operation.args[5]:
        raise Stop
    return weight, bias, mean, variance, eps


@backward("aten._native_batch_norm_legit_no_training.default", "aten.batch_norm.default")
def batch_norm(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """``(x - mean) / sqrt(variance + eps) * weight + bias``."""
    samples = walk.samples
    weight, bias, mean, variance, eps = statistics(samples, operation)
    index = walk.operand(operation, 0)
    lower, upper = walk.ends(index, region)
    wide = (1, -1, *[1] * (lower.dim() - 2))
    steepness = ((variance.theta + eps).sqrt().reciprocal()).view(wide)
    shift = mean.theta.view(wide)
    theta = torch.ones_like(steepness) if weight is None else weight.theta.view(wide)
    radius = torch.zeros_like(steepness) if weight is None else weight.unit_radius.view(wide)
    epsilon = walk.epsilon(torch.zeros_like(samples.epsilon) if weight is None else samples.factor(weight), lower.dim())
    over = list(range(3, a.dim()))

    def channels(t: Tensor) -> Tensor:
        return t.sum(over) if over else t

    most, scale = torch.maximum(lower.abs(), upper.abs()), theta.abs() + radius * epsilon
    added = None
    if bias is not None:
        epsilon_bias = walk.epsilon(samples.factor(bias), lower.dim())
        added = bias.magnitude.view(wide) + bias.unit_radius.view(wide) * epsilon_bias
    term_size = (most + shift.abs()) * steepness * scale + (0.0 if added is None else added)
    theta_error = max(p.theta_error for p in (weight, bias, mean, variance) if p is not None)
    relative = gamma_sum(4 * a[0, 0].numel()) + 12.0 * samples.rounding.roundoff + 8.0 * theta_error
    # Factors of float64 may underflow before they meet the others.
    lost = samples.rounding.subnormal * (1.0 + most + shift.abs()) * (1.0 + steepness) * (1.0 + scale)
    if samples.rounding.network:
        lost = lost + network_error(samples.rounding, most, shift.abs(), steepness, scale, added)
    walk.penalty(a, term_size, relative, lost)
    add_bias(walk, a, bias, 2)
    centre = ((lower + upper) / 2 - shift) * steepness
    middle = channels(a * centre[:, None])
    around = channels(a.abs() * ((upper - lower) / 2 * steepness)[:, None])
    slope = (middle / around).nan_to_num(0.0, 1.0, -1.0).clamp(-1.0, 1.0)
    offset = (around - slope * middle).clamp(min=0.0)
    flat = radius.view(-1)
    walk.constant.lose((offset @ flat) * epsilon.view(-1, 1), a[0, 0].numel())
    spread = [*slope.shape, *[1] * len(over)]
    factor = (theta[:, None] - (slope.view(spread) * (radius * epsilon)[:, None])) * steepness[:, None]
    first = a * factor
    walk.constant.add(-channels(first * shift[:, None]).sum(2))
    walk.give(index, first, region)
