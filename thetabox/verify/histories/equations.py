"""One step of a leaky cell, in the two ends of each of its numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from thetabox.verify.histories.neurons import ENDLESS

Pair = tuple[Tensor, Tensor]
"""Lower and upper ends."""


def silent_left(spikes: Tensor, left: Tensor, silent_steps: Tensor) -> Tensor:
    """Steps that stay silent after this one: one less than before, and ``silent_steps`` at least after a spike."""
    return torch.maximum(left - 1.0, spikes * silent_steps)


def adapted(b: Pair, z: Pair, rho_low: Tensor, rho_high: Tensor) -> Pair:
    """ρ b + (1 − ρ) z over all of them in their ends, b and z in [0, 1]: linear in each."""
    if rho_low is rho_high:
        return rho_low * b[0] + (1.0 - rho_low) * z[0], rho_low * b[1] + (1.0 - rho_low) * z[1]
    lows = [rho * b[0] + (1.0 - rho) * z[0] for rho in (rho_low, rho_high)]
    highs = [rho * b[1] + (1.0 - rho) * z[1] for rho in (rho_low, rho_high)]
    return torch.minimum(*lows), torch.maximum(*highs)


def adapted_threshold(beta: Pair, threshold: Pair, b_low: Tensor, b_high: Tensor) -> Pair:
    """A = thr + β b, b ≥ 0."""
    low = torch.minimum(beta[0] * b_low, beta[0] * b_high)
    high = torch.maximum(beta[1] * b_low, beta[1] * b_high)
    return threshold[0] + low, threshold[1] + high


def product(z: Pair, level: Pair) -> Pair:
    """The product z A for z ≥ 0 and A of any sign."""
    low = torch.minimum(z[0] * level[0], z[1] * level[0])
    high = torch.maximum(z[0] * level[1], z[1] * level[1])
    return low, high


def several_spikes(low: Tensor, high: Tensor, level: Pair, most: int, roundoff: float) -> Pair:
    r"""Fewest and most spikes of :math:`z = \min(\max(\lfloor p / A \rfloor, 0), n)`, p within its ends.

    At p = k A both k and k − 1 are left open, so :math:`z \ge k` may be where :math:`\overline p \ge k \underline A`,
    and must where :math:`\underline p > k \overline A`. Where A may be 0 or less, or an end is no number, nothing is
    known.

    Args:
        low, high: p.
        level: A.
        most: n.
        roundoff: unit roundoff, of the quotients.
    """
    # A quotient is off by a roundoff of itself; tiny ones by the smallest number, which no whole number is near.
    least, largest = low / level[1], high / level[0]
    least = torch.ceil(least - 4.0 * roundoff * least.abs()) - 1.0
    largest = torch.floor(largest + 4.0 * roundoff * largest.abs())
    valid = (level[0] > 0) & ~least.isnan() & ~largest.isnan()
    least = torch.where(valid, least, 0.0).clamp(0.0, most)
    largest = torch.where(valid, largest, float(most)).clamp(0.0, most)
    return least, torch.maximum(least, largest)


def few_spikes(fewest: Tensor, most: Tensor, *, single: bool) -> list[Pair]:
    """Numbers of spikes as alternatives: the fewest, the most, and all between as one; empty ones are 1 to 0."""
    if single:
        return [(torch.zeros_like(fewest), torch.zeros_like(fewest)), (torch.ones_like(most), torch.ones_like(most))]
    more = most > fewest
    nothing = torch.ones_like(most), torch.zeros_like(most)
    last = torch.where(more, most, nothing[0]), torch.where(more, most, nothing[1])
    some = most > fewest + 1
    between = torch.where(some, fewest + 1, nothing[0]), torch.where(some, most - 1, nothing[1])
    return [(fewest, fewest), last, between]


def second_look(above: Pair, pending: Pair) -> tuple[Pair, Pair]:
    r"""Spikes of a cell whose potential is compared twice, and what is pending behind the step.

    With p behind the decay and ρ pending, :math:`z = [p > A + \rho A]`, :math:`\rho' = [p - zA > A]`. Of the number m
    of thresholds A and 2A that p is above that is z = [m > ρ] and ρ' = m − z, for A > 0:

    ===== ============ =================== ===========
    ρ     m = 0        m = 1               m = 2
    ===== ============ =================== ===========
    0     z, ρ' = 0, 0 1, 0                1, 1
    1     0, 0         0, 1 (p ≤ 2A)       1, 1
    ===== ============ =================== ===========

    For A ≤ 0, of which nothing is known, z = ρ' in each case, as for m = 0 and m = 2. Both are monotone in m and in ρ.

    Args:
        above: m, fewest and most.
        pending: ρ.
    """
    spikes = (above[0] > pending[1]).to(above[0].dtype), (above[1] > pending[0]).to(above[0].dtype)
    left = tuple(m - (m > rho).to(m.dtype) for m, rho in zip(above, pending, strict=True))
    return spikes, (left[0], left[1])


def without_end(high: Tensor, level_low: Tensor, most: int) -> Tensor | None:
    """Where cells that may spike without end may spike more often than is counted; ``None`` for cells that may not."""
    if most < ENDLESS:
        return None
    return ~((level_low > 0) & (high < 0.5 * most * level_low))
