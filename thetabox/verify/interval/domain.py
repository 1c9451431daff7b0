"""The interval domain: every value an interval, the margin one row over the last of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.domain import Domain, Profile
from thetabox.verify.interpreter.context import Memo
from thetabox.verify.interval.final import Final
from thetabox.verify.interval.forward import run_problem
from thetabox.verify.interval.profile import profile_of
from thetabox.verify.problem import Which


class PlainIntervals(Domain):
    """Bounds of the interpreter; every other sound domain is intersected with these.

    Attributes:
        together: how many ε of a sweep go through the network as rows of one batch. One: rows of one batch share
            numbers of their rounding and order of summation, so the bounds of an ε would be a little different beside
            others than alone. What is known without ε is shared all the same.
    """

    name = "interval"
    shares = True
    together = 1

    def margins(
        self, which: Which, epsilon: Float[Tensor, "levels samples"], y: Int[Tensor, " all"]
    ) -> Float[Tensor, "levels samples"]:
        return self._by_criterion("margin", which, epsilon, y)

    def logit_margins(
        self, which: Which, epsilon: Float[Tensor, "levels samples"], y: Int[Tensor, " all"]
    ) -> Float[Tensor, "levels samples"]:
        return self._by_criterion("logits", which, epsilon, y)

    def logits(self, which: Which, epsilon: Float[Tensor, "levels samples"]) -> Interval:
        def ends(final: Final) -> Tensor:
            logits = final.logits().settled(self.problem.settings.rounding.roundoff)
            return torch.stack([logits.lower, logits.upper], -1)

        lower, upper = self._part_by_part(ends, which, epsilon).unbind(-1)
        return Interval(lower, upper)

    def profile(self, which: Which, epsilon: Float[Tensor, "levels samples"], y: Int[Tensor, " all"]) -> Profile | None:
        return profile_of(self.problem, which, epsilon)

    def _by_criterion(self, criterion: str, which: Which, epsilon: Tensor, y: Tensor) -> Tensor:
        labels = y[which].to(self.problem.settings.device)
        return self._part_by_part(lambda final: final.margins(labels, criterion), which, epsilon)

    def _part_by_part(self, read: Callable[[Final], Tensor], which: Which, epsilon: Tensor) -> Tensor:
        """What is read off each part of the sweep; parts share what is known without ε."""
        memo = Memo() if self.together < len(epsilon) else None
        parts = (run_problem(self.problem, which, part, memo=memo) for part in epsilon.split(self.together))
        return torch.cat([read(final).double().cpu() for final in parts])
