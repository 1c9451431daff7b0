"""Balls through ReLUs, through sums, and through operators that leave the numbers as they are."""

from __future__ import annotations

import math

import torch

from thetabox.verify.arithmetic.rounding import ROUNDOFF
from thetabox.verify.linear.norms.accurate import TWICE, pair_sum
from thetabox.verify.linear.norms.balls import Ball, Balls, ball_rule, norm
from thetabox.verify.linear.norms.operands import operand, sizes
from thetabox.verify.linear.norms.spectral import ROUNDED_UP
from thetabox.verify.linear.rules.activation import slope_below
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop
from thetabox.verify.network.graph import Operation
from thetabox.verify.network.operators import TWO_SLOPES


@ball_rule(*TWO_SLOPES)
def two_slopes(balls: Balls, samples: Samples, operation: Operation) -> Ball:
    """No steeper than 1: the ball's radius stays."""
    slope = slope_below(operation)
    x = balls.ball(samples, operand(samples, operation, 0))
    if not slope:
        # The part below the last digit tells the sign where there is no other.
        low = None if x.low is None else torch.where(x.centre > 0, x.low, x.low.clamp(min=0.0) * (x.centre == 0))
        return Ball(x.centre.clamp(min=0.0), x.radius, low)
    rounding = samples.rounding
    if x.low is not None:
        x = Ball(x.centre, x.radius + norm(x.low))
    lost = sizes(samples, operation, 0) * (slope * (4.0 * ROUNDOFF + rounding.of_operation(3))) + rounding.subnormal
    return Ball(torch.maximum(x.centre, slope * x.centre), (x.radius + norm(lost)) * ROUNDED_UP)


@ball_rule("aten.add.Tensor", "aten.sub.Tensor")
def added(balls: Balls, samples: Samples, operation: Operation) -> Ball:
    """Distances add up."""
    if operation.kwargs or len(operation.args) > 2:
        raise Stop
    left, right = (balls.ball(samples, operand(samples, operation, place)) for place in (0, 1))
    if left.centre.shape != right.centre.shape:
        raise Stop
    sign = 1.0 if "add" in operation.operator else -1.0
    both = [v.low * s for v, s in ((left, 1.0), (right, sign)) if v.low is not None]
    centre, low = pair_sum(left.centre, sum(both[1:], both[0]) if both else None, right.centre * sign)
    most = sizes(samples, operation, 0) + sizes(samples, operation, 1)
    network = samples.rounding.network * 2.0
    lost = most * (network + (TWICE if low is not None else 2.0 * ROUNDOFF)) + samples.rounding.underflow
    return Ball(centre, (left.radius + right.radius + norm(lost)) * ROUNDED_UP, low)


@ball_rule("aten.clone.default", "aten.alias.default", "aten.detach.default", "aten.contiguous.default",
           "aten.dropout.default", "aten.feature_dropout.default", "getitem", "aten.view.default",
           "aten.reshape.default", "aten._unsafe_view.default", "aten.flatten.using_ints")  # operators  # fmt: skip
def same(balls: Balls, samples: Samples, operation: Operation) -> Ball:
    """The same numbers, in another shape perhaps."""
    if operation.operator == "getitem" and operation.args[1] != 0:
        raise Stop
    x = balls.ball(samples, operand(samples, operation, 0))
    if x.centre[0].numel() != math.prod(samples.shape(operation.index)):
        raise Stop
    shape = (len(x.centre), *samples.shape(operation.index))
    return Ball(x.centre.reshape(shape), x.radius, None if x.low is None else x.low.reshape(shape))
