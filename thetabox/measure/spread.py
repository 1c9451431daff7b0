"""How accuracies scatter over the draws of chips."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


class Spread:
    """Base of results with ``accuracy`` [..., S], one of each drawn chip."""

    accuracy: Float[Tensor, "size draw"]

    @property
    def mean(self) -> Float[Tensor, " size"]:
        """Mean over the chips."""
        return self.accuracy.mean(1)

    @property
    def std(self) -> Float[Tensor, " size"]:
        """Standard deviation over the chips (divided by S − 1; 0 for one chip)."""
        return self.accuracy.std(1, correction=1 if self.accuracy.shape[1] > 1 else 0)

    @property
    def min(self) -> Float[Tensor, " size"]:
        """The worst chip."""
        return self.accuracy.amin(1)
