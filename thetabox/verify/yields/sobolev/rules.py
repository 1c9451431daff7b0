r"""How a row's constant C and variance V become a bound: for a failure probability, or as an entropic value.

A row is worth the largest of several bounds, each of the form ``C - loss(V)``; see :mod:`.walk`.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.yields.tails import SLACK, quantile

# Of the few operations on V and C.
UP = 1.0 + 1e-12
# λ of exponential bounds, in units of the best one for a variance that does not depend on λ.
STEPS = (1.0, 1.25)
LEAST = 1e-150


class Rule(Protocol):
    """Bounds of rows ``[owns, groups, rows]``."""

    def fixed(self, variance: Float[Tensor, "owns groups rows"]) -> Tensor:
        """What a variance that holds for every λ takes off."""
        ...

    def rates(self, variance: Float[Tensor, "owns groups rows"]) -> list[Tensor]:
        """The λ at which variances that hold for one λ are worth computing."""
        ...

    def at(self, variance: Float[Tensor, "owns groups rows"], rate: Tensor) -> Tensor:
        """What a variance that holds for this λ takes off."""
        ...

    def part(self, groups: slice, rows: slice) -> Rule:
        """For some of the rows."""
        ...

    def repeat(self, times: int) -> Rule:
        """For the rows so many times, one after the other."""
        ...


class Quantile:
    r"""Bounds that fail with at most a given probability p.

    :math:`C - z\sqrt V` with :math:`2\Phi(-z) \le p`, for sums of Gaussian-Lipschitz martingale differences, or
    :math:`C - \tfrac\lambda2 V - q/\lambda` with :math:`e^{-q} \le p`.
    """

    def __init__(self, probability: float) -> None:
        p = torch.tensor(probability, dtype=torch.float64)
        self.z = float(quantile("gaussian", p))
        self.q = -math.log(probability) * (1.0 + SLACK) + SLACK if probability > 0 else math.inf

    def fixed(self, variance: Tensor) -> Tensor:
        return self.z * variance.sqrt() * UP

    def rates(self, variance: Tensor) -> list[Tensor]:
        best = (2.0 * self.q / variance.clamp(min=LEAST)).sqrt()
        return [best * step for step in STEPS]

    def at(self, variance: Tensor, rate: Tensor) -> Tensor:
        return (0.5 * rate * variance + self.q / rate) * UP

    def part(self, groups: slice, rows: slice) -> Quantile:
        return self

    def repeat(self, times: int) -> Quantile:
        return self


class Rate:
    r"""Entropic values :math:`C - \tfrac\lambda2 V \le -\ln E e^{-\lambda X} / \lambda`, λ of ``[groups, rows]``."""

    def __init__(self, rate: Float[Tensor, "groups rows"]) -> None:
        self.rate = rate

    def fixed(self, variance: Tensor) -> Tensor:
        return 0.5 * self.rate * variance * UP

    def rates(self, variance: Tensor) -> list[Tensor]:
        return [self.rate.expand_as(variance)]

    def at(self, variance: Tensor, rate: Tensor) -> Tensor:
        return 0.5 * rate * variance * UP

    def part(self, groups: slice, rows: slice) -> Rate:
        return Rate(self.rate[groups, rows])

    def repeat(self, times: int) -> Rate:
        return Rate(self.rate.repeat(1, times))
