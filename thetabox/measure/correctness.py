"""Accuracies of a result that records for every sample whether it stays right."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Correctness:
    """Base of results with ``correct`` [E, N], ``label`` and ``predicted`` [N]."""

    correct: Bool[Tensor, "epsilon sample"]
    label: Int[Tensor, " sample"]
    predicted: Int[Tensor, " sample"]

    @property
    def accuracy(self) -> Float[Tensor, " epsilon"]:
        """Share of samples that are right, for each ε."""
        return self.correct.double().mean(1)

    @property
    def clean_accuracy(self) -> float:
        """Accuracy of the unperturbed network, in float64."""
        return float((self.predicted == self.label).double().mean())
