"""Adversarial block coordinate descent (Cicek, Soatto, ICCV workshops 2019), in the relative box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thetabox.train.methods.disturbed import BATCH_NORM, EXCLUDE_MEANING, INCLUDE_MEANING, disturbed
from thetabox.train.methods.method import Method, Objective, Step, Weights, check_range, gradient_at, set_gradient


@dataclass(frozen=True)
class Abcd(Method):
    r"""Ascent on a random half of the weights, then descent on the other half, several times a batch.

    .. math::
        m_j \sim \mathrm{Bernoulli}(1/2), \qquad
        \theta' &= \Pi\left(\theta + \eta_A\, m \odot \nabla L(\theta)\right) \\
        \theta &\leftarrow \theta' - \mathrm{optimiser}\left((1 - m) \odot \nabla L(\theta')\right)

    Π keeps θ' in [θ − ζ|θ|, θ + ζ|θ|], the relative box of this ascent. The ascent stays in the weights; later
    descents undo it where it hurts. Every descent is one step of the training's optimiser. Cicek and Soatto (arXiv
    1805.09302); two loops in the code beside arXiv 2106.05009 (whose clipping is around θ' itself and so does
    nothing). η_A there is 0.1 or 0.001; at 0.1 a network without normalisation can run away, since weights that rise
    make gradients rise. Batch norm only descends, as does all else that ``exclude`` names.
    """

    name: ClassVar[str] = "abcd"
    summary: ClassVar[str] = "ascent on a random half of the weights, descent on the other"
    source: ClassVar[str] = "Cicek, Soatto, ICCVW 2019; as in Büchel, Faber, Muir, ICLR 2022"
    meanings: ClassVar[dict[str, str]] = {
        "eta_a": "rate of the ascent",
        "loops": "ascents, and descents, a batch",
        "zeta": "largest ascent, relative to each weight's size",
        "include": INCLUDE_MEANING,
        "exclude": EXCLUDE_MEANING,
    }
    searches: ClassVar[bool] = True

    eta_a: float = 0.01
    loops: int = 2
    zeta: float = 0.1
    include: str = "*"
    exclude: str = BATCH_NORM

    def __post_init__(self) -> None:
        check_range("eta_a", self.eta_a, 0)
        check_range("loops", self.loops, 1)
        check_range("zeta", self.zeta, 0)

    @property
    def gradients_per_step(self) -> float:
        return 2.0 * self.loops

    @property
    def inner_loops(self) -> int:
        return self.loops

    def backward(self, step: Step, objective: Objective) -> Tensor:
        rising = [name for name in disturbed(step.model, step.theta, self.include, self.exclude) if name in step.theta]
        losses = []
        for loop in range(self.loops):
            if loop:
                step.descend()
            loss, gradient = gradient_at(objective, step.theta)
            losses.append(loss)
            masks = {name: self._mask(step, step.theta[name]) for name in rising}
            self.ascend(step.theta, gradient, masks)
            gradient = gradient_at(objective, step.theta)[1]
            set_gradient(
                step.theta,
                {name: g * (1 - masks[name]) if name in masks else g for name, g in gradient.items()},
            )
        return losses[0]

    @torch.no_grad()
    def ascend(self, theta: Weights, gradient: Weights, masks: Weights) -> None:
        """Move the masked weights uphill, in place, inside the relative box around where they stand."""
        for name, mask in masks.items():
            value = theta[name]
            limit = self.zeta * value.abs()
            value += (self.eta_a * mask * gradient[name]).clamp(-limit, limit)

    def _mask(self, step: Step, like: Tensor) -> Tensor:
        chosen = torch.rand(like.shape, generator=step.generator, dtype=like.dtype, device=like.device) >= 0.5
        return chosen.to(like.dtype)
