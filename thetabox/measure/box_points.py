"""Points inside the box: its ends in float64, rounded inward, and weights between them."""

from __future__ import annotations

import torch
from torch import Tensor

Weights = dict[str, Tensor]
"""Tensors by parameter name; where each sample has its own, the first dimension is the sample."""
BoxEnds = dict[str, tuple[Tensor, Tensor, Tensor]]
"""Name → (θ, lower end, upper end)."""


def inward_ends(box: dict[str, tuple[Tensor, Tensor]], epsilon: float) -> BoxEnds:
    """(θ, lower, upper) of each (θ, unit radius), in float64, the ends rounded inward: inside the real box."""
    ends = {}
    for name, (theta, radius) in box.items():
        inside = (radius * epsilon) * (1 - 2.0**-50)
        low, high = torch.nextafter(theta - inside, theta), torch.nextafter(theta + inside, theta)
        ends[name] = (theta, low, high)
    return ends


def placed(ends: BoxEnds, delta: Weights, dtype: torch.dtype) -> Weights:
    """Weights from the lower end at δ = −1 over θ at 0 to the upper end at 1."""
    values = {}
    for name, points in ends.items():
        theta, low, high = (point.to(dtype) for point in points)
        d = delta[name].to(dtype)
        moved = theta + d.clamp(min=0) * (high - theta) + d.clamp(max=0) * (theta - low)
        values[name] = moved.clamp(low, high)
    return values
