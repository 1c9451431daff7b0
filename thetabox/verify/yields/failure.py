"""What a proof of yield leaves: failure probabilities, and the events behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Groups = dict[str, dict[str, float]]
MARGINS = "margins"
"""The group of the events of the margins themselves, which come last."""


@dataclass(frozen=True)
class Failure:
    """What a proof leaves.

    Attributes:
        probability: that a chip misclassifies each sample, at most, ``[samples]``; 1 where nothing is proven.
        events: group → (events, probability that any fails), ``[samples]`` each.
    """

    probability: Float[Tensor, " samples"]
    events: Mapping[str, tuple[Tensor, Tensor]]

    def groups(self, sample: int) -> Groups:
        """Of one sample: group → number of events, and the probability that any of them fails."""
        return {
            group: {"events": float(count[sample]), "probability": float(probability[sample])}
            for group, (count, probability) in self.events.items()
            if count[sample] > 0
        }

    @property
    def spent(self) -> Float[Tensor, " samples"]:
        """What all events before the margins fail with together, at most."""
        parts = [probability for group, (_, probability) in self.events.items() if group != MARGINS]
        return torch.stack(parts).sum(0) if parts else torch.zeros_like(self.probability)
