r"""Tails of one bound's error, and their quantiles, rounded to the safe side.

A bound that may err by a sum :math:`M` of variance proxy :math:`V` fails with probability :math:`P(M < -z\sqrt V)`, at
most

* :math:`\Phi(-z)` where M is Gaussian (``exact``);
* :math:`2\Phi(-z)` where it is a martingale sum whose parts are Gaussian given the parts before (``gaussian``);
* :math:`e^{-z^2/2}` where they are sub-Gaussian (``subgaussian``);

see ``docs/yield.md``. :math:`\Phi` is computed by :func:`torch.special.log_ndtr`, whose relative error is a few units
in the last place of the logarithm; :data:`SLACK` is far above that.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

# Relative error allowed for in a logarithm of a probability.
SLACK = 1e-9
# The tail here stands for all smaller ones: it is below 1e-290.
MOST = 37.0
# And so does this probability, for those of which a logarithm is known: no errors are as good as none.
LEAST = 1e-300


def log_exact(z: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Upper bound of ln Φ(-z)."""
    value = torch.special.log_ndtr(-z)
    return (value + SLACK * value.abs() + SLACK).clamp(max=0.0)


def log_gaussian(z: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Upper bound of ln min(1, 2 Φ(-z))."""
    return (log_exact(z) + math.log(2.0) * (1.0 + SLACK)).clamp(max=0.0)


def log_subgaussian(z: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Upper bound of ln min(1, exp(-z²/2))."""
    z = z.clamp(min=0.0)
    return -0.5 * z * z * (1.0 - SLACK)


LOG_TAILS: dict[str, Callable[[Tensor], Tensor]] = {
    "exact": log_exact,
    "gaussian": log_gaussian,
    "subgaussian": log_subgaussian,
}


def probability(log: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Upper bound of a probability, above 0 and at most 1, by one of its logarithm."""
    return (log.exp() * (1.0 + SLACK)).clamp(LEAST, 1.0)


def tail(kind: str, z: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Upper bound of the probability to fail by ``z`` standard deviations; 1 where ``z`` is no number or below 0."""
    z = torch.where(z > 0, z.clamp(max=MOST), -torch.inf if kind == "exact" else 0.0)
    return probability(LOG_TAILS[kind](z))


def quantile(kind: str, probability: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Numbers ``z`` of at least 0 whose :func:`tail` is at most ``probability``, and hardly less; infinite for 0."""
    low, high = torch.zeros_like(probability), torch.full_like(probability, MOST)
    for _ in range(60):
        middle = (low + high) / 2
        above = tail(kind, middle) > probability
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return torch.where(probability >= 1.0, 0.0, torch.where(tail(kind, high) > probability, torch.inf, high))
