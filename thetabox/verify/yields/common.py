r"""An error that all parameters of a chip share.

Given the common factor c of a chip, the other errors are independent, so that

.. math:: P(\text{wrong}) \le P(|c| > k) + \max_{\text{cells } C} \sup_{c \in C} P(\text{wrong} \mid c) ,

over cells that cover [-k, k]: within a cell, c is a known shift with a small unknown rest. Failure probabilities of the
cells do not add up: a chip lies in one of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.yields.failure import Failure
from thetabox.verify.yields.martingale import Common, Martingale
from thetabox.verify.yields.tails import quantile

# Cells of a chip's common factor.
CELLS = 12
# Share of what may be spent on chips whose factors lie beyond.
BEYOND = 0.1


class CommonFactor:
    """The proof ``martingale`` where all parameters share an error.

    Args:
        inner: the proof of the independent errors.
    """

    name: ClassVar[str] = Martingale.name
    dear: ClassVar[bool] = True

    def __init__(self, inner: Martingale) -> None:
        self.inner = inner
        self.chip = inner.noise.correlated["chip"]

    def failure(
        self,
        x: Tensor,
        y: Int[Tensor, " samples"],
        sigma: Float[Tensor, " samples"],
        spent: Float[Tensor, " samples"],
    ) -> Failure:
        """Upper bounds; see :class:`~thetabox.verify.yields.proofs.Proof`."""
        probability = torch.ones_like(sigma)
        events: dict[str, tuple[Tensor, Tensor]] = {}
        # Samples of one σ and one amount share their cells.
        keys = torch.stack([sigma, spent], 1)
        for key in keys.unique(dim=0):
            members = (keys == key).all(1).nonzero().squeeze(1)
            alike = self._alike(x[members], y[members], sigma[members], spent[members])
            probability[members] = alike.probability
            for group, (count, share) in alike.events.items():
                whole = events.setdefault(group, (torch.zeros_like(sigma), torch.zeros_like(sigma)))
                whole[0][members], whole[1][members] = count, share
        return Failure(probability, events)

    def _alike(self, x: Tensor, y: Tensor, sigma: Tensor, spent: Tensor) -> Failure:
        beyond = spent[:1] * BEYOND
        k = quantile("exact", beyond / 2.0)
        most = float(k * sigma[:1]) * (1.0 + gamma_sum(4))
        half = self.chip * most / CELLS
        cells = [Common((2 * n + 1) * half - CELLS * half, half * (1.0 + 1e-9)) for n in range(CELLS)]
        worst: Failure | None = None
        for cell in cells:
            here = self.inner.failure(x, y, sigma, spent - beyond, cell)
            if worst is None:
                worst = here
                continue
            events = {
                g: (torch.maximum(worst.events[g][0], count), torch.maximum(worst.events[g][1], share))
                for g, (count, share) in here.events.items()
            }
            worst = Failure(torch.maximum(worst.probability, here.probability), events)
        assert worst is not None
        total = (worst.probability + beyond) * (1.0 + gamma_sum(4))
        common = (torch.full_like(sigma, 2.0), beyond.expand_as(sigma))
        return replace(worst, probability=total.clamp(max=1.0), events={**worst.events, "common factor": common})
