"""What the lines around a curve rest on: a bound of its second derivative."""

from __future__ import annotations

import pytest
import torch

from thetabox.verify.linear.rules.curves import SIMPLE, parallels

POSITIVE = ("log", "log1p", "log2", "log10", "sqrt")
WITHIN_ONE = ("asin", "acos")


@pytest.mark.parametrize("name", SIMPLE)
def test_no_slope_changes_faster_than_the_bound_says(name: str) -> None:
    curve = SIMPLE[name]
    kind = name.split(".")[1]
    low, high = (0.01, 8.0) if kind in POSITIVE else (-0.999, 0.999) if kind in WITHIN_ONE else (-8.0, 8.0)
    t = torch.linspace(low, high, 20_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(curve.function(t).sum(), t)
    left, right = t.detach()[:-1], t.detach()[1:]
    bend = curve.bend(left, right) if callable(curve.bend) else torch.full_like(left, curve.bend)
    smooth = torch.ones_like(left, dtype=torch.bool)
    for kink in curve.kinks:
        smooth &= (left > kink) | (right < kink)
    assert bool((slope.diff().abs() <= bend * (right - left) * (1.0 + 1e-9) + 1e-12)[smooth].all())


def test_no_lines_lie_around_a_pole() -> None:
    low, high = torch.tensor([1.0, 0.5], dtype=torch.float64), torch.tensor([2.0, 1.0], dtype=torch.float64)
    nothing = torch.full_like(low, torch.inf)
    lines = parallels(SIMPLE["aten.tan.default"], low, high, -nothing, nothing)
    assert lines.above.isfinite().tolist() == lines.below.isfinite().tolist() == [False, True]
