"""Whole numbers that depend on the input must provably stay inside their type."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.verify import arguments
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.problem import Problem
from thetabox.verify.search import bounds


class Counted(nn.Module):
    """A truth value, scaled and added to itself in a narrow type."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.layer, self.factor = nn.Linear(2, 2), factor

    def forward(self, x: Tensor) -> Tensor:
        codes = (self.layer(x) > 0).to(torch.int32) * self.factor
        return (codes + codes).to(x.dtype)


def test_a_sum_that_may_wrap_is_refused() -> None:
    x, zero = torch.ones(1, 2), torch.zeros(1, 1, dtype=torch.float64)
    how = arguments.settings("interval", None, "real", "float64", "cpu")
    bounds.logits(PlainIntervals(Problem(Counted(2**29), how, x)), slice(None), zero)
    with pytest.raises(InputError, match="may leave the range"):
        bounds.logits(PlainIntervals(Problem(Counted(2**30), how, x)), slice(None), zero + 1.0)
