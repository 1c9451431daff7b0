"""Training with quantised weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thetabox.train.methods.method import Method, Weights, check_range


@dataclass(frozen=True)
class Quantised(Method):
    r"""The task loss at weights rounded to n bits, one scale a tensor, the gradient passing straight through.

    .. math::
        Q(\theta) = s\,\mathrm{round}(\theta/s), \qquad s = \frac{\max|\theta|}{2^{n-1} - 1}, \qquad
        \frac{\partial Q}{\partial \theta} := 1

    Weights of two dimensions or more are quantised; biases, batch norm and neuron parameters are not. Other methods
    see the quantised weights as the weights: ``quantised+weight-attack`` attacks Q(θ) inside its own relative box,
    ``quantised+forward-noise`` disturbs Q(θ), as mismatch does after quantisation. The optimiser moves the weights
    before rounding; validation, and the network that training leaves, are of the rounded ones. Straight-through
    estimator: Bengio, Léonard, Courville 2013 (arXiv 1308.3432); Hubara et al. 2018, JMLR 18(187).
    """

    name: ClassVar[str] = "quantised"
    summary: ClassVar[str] = "weights of n bits in the forward pass, straight-through gradient"
    source: ClassVar[str] = "Bengio, Léonard, Courville 2013; Hubara et al., JMLR 2018"
    meanings: ClassVar[dict[str, str]] = {"bits": "bits of a weight, 2 to 24: 2^bits − 1 levels, 0 among them"}

    bits: int = 4

    def __post_init__(self) -> None:
        check_range("bits", self.bits, 2, 24)

    def stored(self, weights: Weights) -> Weights:
        return {name: self._rounded(theta) if theta.ndim >= 2 else theta for name, theta in weights.items()}

    def _rounded(self, theta: Tensor) -> Tensor:
        value = theta.detach()
        largest = 2 ** (self.bits - 1) - 1
        full = value.abs().amax()
        scale = torch.where(full > 0, full / largest, 1)
        rounded = (value / scale).round().clamp(-largest, largest) * scale
        # θ − θ is exactly 0, so the value is exactly the rounded one.
        return rounded + (theta - value)
