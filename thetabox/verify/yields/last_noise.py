r"""What Gaussian noise that comes last is worth, beyond Chernoff's bound.

Where X given the rest is Gaussian, of mean m and spread s, :math:`P(X \le 0 \mid m, s) = \Phi(-m/s)`, and for every
:math:`\lambda > 0`

.. math:: \Phi(-m/s) \le e^{-\lambda m} \sup_t \Phi(-t) e^{\lambda s t}
          = e^{-\lambda m + \lambda^2 s^2/2 - r(\lambda s)} ,

.. math:: r(\theta) = \tfrac12\theta^2 - \sup_t\,(\ln\Phi(-t) + \theta t) .

The first two terms are Chernoff's bound; r is what it gives away. The supremum lies where the hazard
:math:`\varphi(t)/\Phi(-t) = \theta`; a hazard is above its t, so :math:`r' = \theta - t > 0`: r rises from 0, and a
lower bound of s is enough.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

# Below the first, r is taken as 0; above the second, as its value there.
SMALLEST, LARGEST = 0.05, 30.0
# The hazard rises by more than 1e-8 of itself over such a part of 1 + |t|; it is computed to some 1e-13 of itself.
APART = 1e-6
SLACK = 1e-9


def beyond_chernoff(theta: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Lower bound of r, which is at least 0; 0 where ``theta`` is no number."""
    unscaled = theta
    theta = theta.nan_to_num(0.0).clamp(SMALLEST, LARGEST)
    low, high = torch.full_like(theta, -6.0), theta
    for _ in range(60):
        middle = (low + high) / 2.0
        above = _hazard(middle) > theta
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    # ln Φ(-t) + θ t is concave in t: its slope at `low` is above 0, at `high` below 0.
    low, high = low - APART * (1.0 + low.abs()), high + APART * (1.0 + high.abs())
    log = torch.special.log_ndtr(-low)
    most = log + theta * low + (theta - _hazard(low)).abs() * (high - low)
    value = 0.5 * theta.square() - most - SLACK * (1.0 + theta.square() + log.abs())
    return torch.where(unscaled >= SMALLEST, value.clamp(min=0.0), 0.0)


def _hazard(t: Tensor) -> Tensor:
    return math.sqrt(2.0 / math.pi) / torch.special.erfcx(t * math.sqrt(0.5))
