"""One step of a leaky cell, in the two ends of each of its numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def silent_left(spikes: Tensor, left: Tensor, silent_steps: Tensor) -> Tensor:
    """Steps that stay silent after this one: one less than before, and ``silent_steps`` at least after a spike."""
    return torch.maximum(left - 1.0, spikes * silent_steps)


def adapted(
    b: tuple[Tensor, Tensor], z: tuple[Tensor, Tensor], rho_low: Tensor, rho_high: Tensor
) -> tuple[Tensor, Tensor]:
    """ρ b + (1 − ρ) z over all of them in their ends, b and z in [0, 1]: linear in each."""
    if rho_low is rho_high:
        return rho_low * b[0] + (1.0 - rho_low) * z[0], rho_low * b[1] + (1.0 - rho_low) * z[1]
    lows = [rho * b[0] + (1.0 - rho) * z[0] for rho in (rho_low, rho_high)]
    highs = [rho * b[1] + (1.0 - rho) * z[1] for rho in (rho_low, rho_high)]
    return torch.minimum(*lows), torch.maximum(*highs)


def adapted_threshold(
    beta: tuple[Tensor, Tensor], threshold: tuple[Tensor, Tensor], b_low: Tensor, b_high: Tensor
) -> tuple[Tensor, Tensor]:
    """A = thr + β b, b ≥ 0."""
    low = torch.minimum(beta[0] * b_low, beta[0] * b_high)
    high = torch.maximum(beta[1] * b_low, beta[1] * b_high)
    return threshold[0] + low, threshold[1] + high


def product(z: tuple[Tensor, Tensor], level: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The product z A for z ≥ 0 and A of any sign."""
    low = torch.minimum(z[0] * level[0], z[1] * level[0])
    high = torch.maximum(z[0] * level[1], z[1] * level[1])
    return low, high
