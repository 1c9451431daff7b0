"""The constant of each row of a backward walk, with the rounding of its own sum."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.arithmetic.rounding import ROUNDOFF, gamma


def gamma_sum(terms: int) -> float:
    """Relative error of a sum of ``terms`` products, of a few operations on it, and of its own correction.

    In float64, as every backward walk, whatever the precision of the intervals.
    """
    return 4.0 * gamma(terms + 32, ROUNDOFF)


class WalkConstant:
    """What a walk has put aside, ``[samples, rows]``; what its sum may have lost by rounding is taken off last."""

    def __init__(self, samples: int, rows: int, device: torch.device) -> None:
        self.value = torch.zeros(samples, rows, dtype=torch.float64, device=device)
        self.size = torch.zeros_like(self.value)
        self.terms = 0

    def add(self, term: Float[Tensor, "samples rows"]) -> None:
        """Add a term whose own error is accounted for elsewhere."""
        self.value += term
        self.size += term.abs()
        self.terms += 1

    def lose(self, penalty: Float[Tensor, "samples rows"], terms: int) -> None:
        """Take off a sum of ``terms`` numbers of at least 0, rounded up."""
        self.add(penalty * -(1.0 + gamma_sum(terms)))

    def lower(self) -> Float[Tensor, "samples rows"]:
        """A lower bound of the true sum; minus infinity where it is not a number or overflowed."""
        bound = self.value - self.size * gamma_sum(self.terms)
        return torch.where(bound.isfinite(), bound, -torch.inf)
