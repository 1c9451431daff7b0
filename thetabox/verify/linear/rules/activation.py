r"""ReLU and leaky ReLU backwards.

Where the sign of :math:`v \in [l, u]` is open, :math:`f(v) = \max(v, a v)` lies above any :math:`\alpha v` with
:math:`a \le \alpha \le 1` and below its chord. The slope :math:`\alpha` is 1 where :math:`u > -l` and :math:`a`
elsewhere (Zhang et al., Efficient Neural Network Robustness Certification with General Activation Functions, NeurIPS
2018: CROWN-Ada).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.walk import Stop, Walk, backward, dot
from thetabox.verify.network.graph import Operation
from thetabox.verify.network.operators import TWO_SLOPES

# Roundings of a coefficient and of a constant.
FEW = 8


class Lines(NamedTuple):
    """``below v <= f(v) <= above v + offset``."""

    below: Tensor
    above: Tensor
    offset: Tensor


def lines(lower: Tensor, upper: Tensor, slope: float = 0.0) -> Lines:
    """Lines below and above ``max(v, slope v)`` on ``[lower, upper]``; the constant holds for the slope as computed."""
    above = ((upper - slope * lower) / (upper - lower)).nan_to_num(1.0).clamp(slope, 1.0)
    above = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, slope, above))
    # The chord lies above a convex function once it does at both ends.
    offset = torch.maximum((1.0 - above) * upper, (slope - above) * lower) * (1.0 + gamma_sum(FEW))
    open_sign = (lower < 0) & (upper > 0)
    offset = torch.where(open_sign, offset, 0.0)
    below = torch.where(open_sign & (upper > -lower), 1.0, torch.where(open_sign, slope, above))
    return Lines(below, above, offset)


def through(walk: Walk, a: Tensor, relaxation: Lines) -> Tensor:
    """Coefficients in front of the kink, for lines ``[samples, *shape]``; the constant is put aside."""
    falling = a.clamp(max=0.0)
    walk.constant.lose(-dot(falling, relaxation.offset), a[0, 0].numel())
    return torch.addcmul(a * relaxation.below[:, None], falling, (relaxation.above - relaxation.below)[:, None])


def slope_below(operation: Operation) -> float:
    """Slope on the negative side.

    Raises:
        Stop: the slope below is no number from 0 to 1.
    """
    if "leaky" not in operation.operator:
        return 0.0
    below = operation.args[1] if len(operation.args) > 1 else operation.kwargs.get("negative_slope", 0.01)
    if not 0.0 <= float(below) <= 1.0:
        raise Stop
    return float(below)


@backward(*TWO_SLOPES)
def two_slopes(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """``max(v, slope v)``."""
    slope = slope_below(operation)
    index = walk.operand(operation, 0)
    lower, upper = walk.ends(index, region)
    first = through(walk, a, lines(lower, upper, slope))
    # The parts of a coefficient add up to at most 3 times the row's; a network rounds a leaky slope and its product.
    most, rounding = torch.maximum(lower.abs(), upper.abs()), walk.samples.rounding
    if slope and rounding.network:
        walk.penalty(a, most, 3.0 * gamma_sum(FEW) + rounding.of_operation(3), rounding.underflow * (1.0 + most))
    else:
        walk.penalty(a, most, 3.0 * gamma_sum(FEW))
    walk.give(index, first, region)
