"""Backward rows whose noise is added in squares: a bound that holds with a given probability."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Frame, Region
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Walk
from thetabox.verify.network.graph import Operation
from thetabox.verify.yields.ledger import Ledger
from thetabox.verify.yields.plan import NoisePlan
from thetabox.verify.yields.tied import Derivative, derivative
from thetabox.verify.yields.variance import Variance

# Standard deviations below this, relative to all sizes of a network, are lost where their squares underflow.
FLOOR = 1e-140


class Noisy(Samples):
    """Samples of networks with noisy parameters, as far as walks read them.

    Attributes:
        sigma: of each sample.
        noise: operation → the variance of the noise of its own parameters.
        tied: position → name of a parameter that is read more than once.
        reads_tied: operation → positions of those that it reads.
        size_of: name → size of the errors of such a parameter at σ = 1.
        largest: size of all errors.
        plan: which values are bounded how.
        ledger: what the bounds may fail with.
    """

    sigma: Float[Tensor, " samples"]
    noise: dict[int, Variance]
    tied: dict[int, str]
    reads_tied: dict[int, list[int]]
    size_of: dict[str, Tensor]
    largest: float
    plan: NoisePlan
    ledger: Ledger


class NoisyWalk(Walk):
    """A walk that adds up the variance of the noise that it passes.

    Args:
        samples, frame, rows, coarse: as for :class:`Walk`.
        z: standard deviations, of each sample, that :meth:`run` takes off.

    Attributes:
        variance: at σ = 1, ``[samples, rows]``.
        layers: operations with noise that it passed.
    """

    samples: Noisy

    def __init__(
        self, samples: Noisy, frame: Frame, rows: int, *, coarse: bool = False, z: Tensor | None = None
    ) -> None:
        super().__init__(samples, frame, rows, coarse=coarse)
        self.variance = torch.zeros_like(self.constant.value)
        self.layers, self.z = 0, z
        self.tied: dict[str, Derivative] = {}

    def step(self, operation: Operation, a: Tensor, region: Region | None) -> None:
        noise = self.samples.noise.get(operation.index)
        if noise is not None:
            self._add(noise.rows(self, a, region))
        for index in self.samples.reads_tied.get(operation.index, ()):
            name, mine = self.samples.tied[index], derivative(self, operation, index, a, region)
            self.tied[name] = self.tied[name] + mine if name in self.tied else mine
        super().step(operation, a, region)

    def started(self, operation: Operation, neurons: Tensor, region: Region | None) -> None:
        noise = self.samples.noise.get(operation.index)
        if noise is not None:
            own = self.cut(noise.outputs, region).flatten(1).gather(1, neurons)
            self._add(torch.cat([own, own], 1))

    def run(self) -> Float[Tensor, "samples rows"]:
        """Lower bounds of the rows' means, or ``z`` standard deviations below them where that is given."""
        constant = super().run() - self._mean_lost()
        if self.z is None:
            return constant
        deviation = self.deviation()
        lost = torch.where(deviation > 0, deviation * self.z[self.frame.samples][:, None], 0.0)
        bound = constant - lost - gamma_sum(4) * (constant.abs() + lost)
        return torch.where(bound.isfinite(), bound, -torch.inf)

    def _mean_lost(self) -> Tensor:
        """What noise that meets itself takes off the mean."""
        lost = torch.zeros_like(self.variance)
        sigma = self.samples.sigma[self.frame.samples][:, None]
        for name, tied in self.tied.items():
            lost = lost + tied.mean_lost(self.samples.size_of[name]) * sigma
        return lost * (1.0 + gamma_sum(len(self.tied) + 4)) + gamma_sum(4) * self.constant.size if self.tied else lost

    def _add(self, variance: Tensor) -> None:
        self.variance = self.variance + variance
        self.layers += 1

    def deviation(self) -> Float[Tensor, "samples rows"]:
        """Standard deviation of the rows, rounded up; infinite where it is no number."""
        samples, sigma = self.samples, self.samples.sigma[self.frame.samples][:, None]
        total = self.variance
        for name, tied in self.tied.items():
            total = total + tied.variance(samples.size_of[name])
        root = total.sqrt() * (1.0 + gamma_sum(self.layers + len(self.tied) + 8))
        floor = FLOOR * (1.0 + samples.size[self.frame.samples]) * (1.0 + samples.largest)
        root = root + torch.where(sigma > 0, floor[:, None], 0.0)
        return torch.where(root.isfinite(), root * sigma * (1.0 + gamma_sum(4)), torch.inf)
