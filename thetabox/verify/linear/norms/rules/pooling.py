"""Balls through pools and means."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from thetabox.verify.arithmetic.rounding import gamma
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.norms.accurate import two_sum
from thetabox.verify.linear.norms.balls import Ball, Balls, ball_rule, norm
from thetabox.verify.linear.norms.operands import operand, sizes
from thetabox.verify.linear.norms.spectral import ROUNDED_UP
from thetabox.verify.linear.region import pair
from thetabox.verify.linear.rules.movement import plain_arguments
from thetabox.verify.linear.rules.pooling import by_window
from thetabox.verify.linear.rules.window import PoolWindow
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop
from thetabox.verify.network.graph import Operation
from thetabox.verify.network.operators import MAX_POOLS_2D


@ball_rule(*MAX_POOLS_2D)
def max_pool(balls: Balls, samples: Samples, operation: Operation) -> Ball:
    r"""A maximum moves by no more than its largest operand, which as many windows hold as overlap."""
    args = [*operation.args[1:], *[None] * 5]
    kernel, stride = pair(args[0]), pair(args[1] or args[0])
    x = balls.ball(samples, operand(samples, operation, 0))
    tiled = pair(args[3] or 1) == (1, 1)
    overlap = math.prod(-(-k // s) if tiled else k for k, s in zip(kernel, stride, strict=True))
    radius = x.radius * (math.sqrt(overlap) * ROUNDED_UP)
    result = operation.target(x.centre, *operation.args[1:], **operation.kwargs)
    centre = result[0] if isinstance(result, tuple) else result
    if x.low is None:
        return Ball(centre, radius)
    padding, ceil = pair(args[2] or 0), bool(args[4])
    if not tiled or ceil or operation.kwargs:
        return Ball(centre, (radius + norm(x.low) * math.sqrt(overlap)) * ROUNDED_UP)
    edges = (padding[1], padding[1], padding[0], padding[0])
    high, low = (by_window(F.pad(t, edges, value=-math.inf), PoolWindow(kernel, stride)) for t in (x.centre, x.low))
    return Ball(centre, radius, torch.where(high == centre.unsqueeze(-3), low, -math.inf).amax(-3))


@ball_rule("aten.avg_pool2d.default", "aten.adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d.default",
           "aten.mean.dim", "aten.sum.dim_IntList")  # a list of operators  # fmt: skip
def averaged(balls: Balls, samples: Samples, operation: Operation) -> Ball:
    r"""A matrix of numbers of at least 0: its norm is at most :math:`\sqrt{\|A\|_1 \|A\|_\infty}`."""
    x = balls.ball(samples, operand(samples, operation, 0))
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
    most = operation.target(sizes(samples, operation, 0), *arguments, **named)
    lost = most * (gamma_sum(terms) + 1.01 * network) + samples.rounding.subnormal * terms
    low = None
    if x.low is not None:
        centre, low = two_sum(centre, operation.target(x.low, *arguments, **named))
    return Ball(centre, (x.radius * steepness + norm(lost)) * ROUNDED_UP, low)
