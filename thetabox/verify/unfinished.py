"""Proofs that ended for want of effort, kept so that more of it goes on where they stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from jaxtyping import Float, Int
from torch import Tensor

Pair = tuple[int, float]
"""A sample's place in the problem, and an ε."""

Proof = TypeVar("Proof")


def pairs(samples: Int[Tensor, " samples"], epsilon: Float[Tensor, "levels samples"]) -> list[Pair]:
    """The pairs of a call, those of the first row of ε first."""
    return [(n, e) for row in epsilon.tolist() for n, e in zip(samples.tolist(), row, strict=True)]


class Unfinished(Generic[Proof]):
    """Open proofs by pair, each with its promise.

    Args:
        most: proofs kept; of more, those of most promise, and of equals those that came first.
        proofs: those that are open already.

    Attributes:
        needed: pairs that are kept in any case.
    """

    def __init__(self, most: int, proofs: Mapping[Pair, tuple[float, Proof]] | None = None) -> None:
        self.most = most
        self.needed: frozenset[Pair] = frozenset()
        self.proofs: dict[Pair, tuple[float, Proof]] = dict(proofs or {})
        self._promises: dict[Pair, float] = {}

    def keep(self, pair: Pair, proof: Proof, promise: float) -> None:
        """Keep a proof; one below 0 is no use any more, and only its promise is noted."""
        self._promises[pair] = promise
        if promise < 0:
            return
        self.proofs[pair] = promise, proof
        if len(self.proofs) > 2 * self.most:
            best = sorted(self.proofs.items(), key=lambda kept: (kept[0] not in self.needed, -kept[1][0]))
            self.proofs = dict(best[: max(self.most, len(self.needed))])

    def taken(self, pair: Pair) -> tuple[float, Proof] | None:
        """Hand a proof out with its promise, if it is here."""
        return self.proofs.pop(pair, None)

    def take(self, pair: Pair) -> Proof | None:
        """Hand a proof out, if it is here."""
        kept = self.taken(pair)
        return None if kept is None else kept[1]

    def holds(self, pair: Pair) -> bool:
        return pair in self.proofs

    def promise(self, pair: Pair) -> float:
        """Share of the proof that stood when it ended, 0 to 1; below 0 where more effort proves nothing more."""
        return self._promises.get(pair, -1.0)
