"""The interval domain: every value an interval, the margin one row over the last of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.domain import Domain

if TYPE_CHECKING:
    from thetabox.verify.problem import Which


class PlainIntervals(Domain):
    """Bounds as the problem computes them; every other sound domain is intersected with these."""

    name = "interval"

    def margins(
        self, which: Which, epsilon: Float[Tensor, "sweeps samples"], y: Int[Tensor, " all"]
    ) -> Float[Tensor, "sweeps samples"]:
        return self.problem.margins(which, epsilon, y)

    def logits(self, which: Which, epsilon: Float[Tensor, "sweeps samples"]) -> Interval:
        return self.problem.logits(which, epsilon)
