"""Noise on the weights in the forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from thetabox.train.methods.disturbed import BATCH_NORM, EXCLUDE_MEANING, INCLUDE_MEANING, disturbed, lowest
from thetabox.train.methods.method import Method, Step, Weights, check_range


@dataclass(frozen=True)
class ForwardNoise(Method):
    r"""The task loss at weights disturbed anew for every batch.

    .. math:: \tilde\theta = \theta + \sigma |\theta| n, \qquad n \sim N(0, 1)

    The gradient passes straight through (∂θ̃/∂θ = 1). Joshi et al. 2020 (Accurate deep neural network inference
    using computational phase-change memory) scale the noise by the layer's largest weight; here it is relative to
    each weight, as in Büchel, Faber, Muir (ICLR 2022), to match the relative box. Neuron parameters are disturbed
    where ``include`` names them; they keep at least 5 % of their value, so that none becomes negative.
    """

    name: ClassVar[str] = "forward-noise"
    summary: ClassVar[str] = "Gaussian noise relative to each weight in every forward pass"
    source: ClassVar[str] = "Joshi et al. 2020; Büchel, Faber, Muir, ICLR 2022"
    meanings: ClassVar[dict[str, str]] = {
        "noise": "standard deviation relative to each weight's size",
        "include": INCLUDE_MEANING,
        "exclude": EXCLUDE_MEANING,
    }

    noise: float = 0.3
    include: str = "*"
    exclude: str = BATCH_NORM

    def __post_init__(self) -> None:
        check_range("noise", self.noise, 0)

    def weights(self, step: Step, weights: Weights) -> Weights:
        noisy = dict(weights)
        for name, theta in disturbed(step.model, weights, self.include, self.exclude).items():
            relative = (self.noise * step.normal(theta)).clamp(min=lowest(name))
            noisy[name] = theta + theta.detach().abs() * relative
        return noisy
