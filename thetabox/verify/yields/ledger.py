"""The ledger of events: which bounds may fail, how many they are, and how the probability of that is shared out."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.yields.tails import quantile

# A group of events gets a little less than its share, so that the shares as computed add up to no more than the whole.
ROUNDED_DOWN = 1.0 - 2.0**-40


@dataclass
class Ledger:
    """Events of a proof, for each sample.

    The failure of any event is counted once, so their probabilities add up: each group has a share of what may be
    spent, and each of its events the same part of that. Shares and numbers of events follow from the network, the
    sample and σ alone.

    Attributes:
        spent: what all groups may fail with together, ``[samples]``.
        shares: group → its share, which add up to at most 1.
        counts: group → events, ``[samples]``, of those that were asked for.
        kind: of the noise: ``gaussian`` or ``subgaussian``.
    """

    spent: Float[Tensor, " samples"]
    shares: dict[str, float]
    kind: str
    counts: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        total = sum(self.shares.values())
        if total > 1.0:
            self.shares = {name: share / total for name, share in self.shares.items()}

    def each(self, group: str, count: Float[Tensor, " samples"]) -> Float[Tensor, " samples"]:
        """The probability with which each of ``count`` events of a group may fail; asked for once a group.

        Raises:
            ValueError: the group was asked for before.
        """
        if group in self.counts:
            raise ValueError(f"the events of {group} are in the ledger already")
        self.counts[group] = count
        return self.spent * (self.shares[group] * ROUNDED_DOWN) / count.clamp(min=1.0)

    def deviations(
        self, group: str, count: Float[Tensor, " samples"], *, exact: bool = False
    ) -> Float[Tensor, " samples"]:
        """Standard deviations that each of a group's events allows for.

        Args:
            group: of the events.
            count: how many there are, of every sample.
            exact: whether what they bound is Gaussian noise given what is known, no sum over layers.
        """
        gaussian = self.kind == "gaussian"
        return quantile("exact" if exact and gaussian else self.kind, self.each(group, count))

    def entries(self) -> list[tuple[str, Tensor, Tensor]]:
        """Groups with their events, and the probability that any of them fails, ``[samples]`` each."""
        rows = []
        for group, count in self.counts.items():
            share = torch.where(count > 0, self.spent * (self.shares[group] * ROUNDED_DOWN), 0.0)
            rows.append((group, count, share))
        return rows
