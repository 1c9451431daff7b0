"""Small weights in chosen tensors: what the bounds of a recurrent network live on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thetabox.train.methods.disturbed import BATCH_NORM, EXCLUDE_MEANING, disturbed
from thetabox.train.methods.method import Method, Step, check_range


@dataclass(frozen=True)
class L1(Method):
    r"""Adds the mean absolute input of a unit from chosen tensors.

    .. math:: \lambda \sum_W \frac{1}{\mathrm{columns}(W)} \sum_{ij} |W_{ij}|

    For W_rec [units, units] this is the mean over units of Σ_i |W_ij|: an uncertain spike of every other unit moves a
    unit's potential by no more than that. (Tibshirani 1996, Regression shrinkage and selection via the lasso.)
    """

    name: ClassVar[str] = "l1"
    summary: ClassVar[str] = "absolute size of the recurrent weights (or others) in the loss"
    source: ClassVar[str] = "Tibshirani 1996"
    meanings: ClassVar[dict[str, str]] = {
        "strength": "λ, factor on the mean over units of the sum of absolute weights",
        "include": 'tensors that are held small, patterns as of a Box ("W_rec")',
        "exclude": EXCLUDE_MEANING,
    }

    strength: float = 0.02
    include: str = "*"
    exclude: str = BATCH_NORM

    def __post_init__(self) -> None:
        check_range("strength", self.strength, 0)

    def extra(self, step: Step, logits: Tensor | None) -> Tensor | None:
        chosen = disturbed(step.model, step.theta, self.include, self.exclude)
        terms = [w.abs().sum() / w.shape[-1] for w in chosen.values() if w.dim() > 1]
        return self.strength * torch.stack(terms).sum() if terms else None
