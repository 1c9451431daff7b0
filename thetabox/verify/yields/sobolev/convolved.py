"""A convolution stage with what its places read, for one sample: the input between ends, and around a nominal value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.yields.chain import ChainConvolution, ChainStage
from thetabox.verify.yields.sobolev.windows import Windows

# Of a few operations, and of deviations whose squares underflow: proofs are for numbers up to ``LARGEST`` alone.
FEW = 1e-14
TINY = 1e-100


@dataclass(frozen=True)
class Convolved:
    """What does not depend on the sample.

    Attributes:
        windows: geometry.
        kernels: ``[channels, candidates, inputs * patch]``; bias ``[channels]``.
        magnitude: the same of absolute weights: what may have cancelled where kernels are averages.
        kernel_error: relative error of a kernel, of its magnitude.
        variance: of the taps of each channel, bias last, ``[channels, taps]``, rounded up.
    """

    windows: Windows
    kernels: Tensor
    magnitude: Tensor
    kernel_error: float
    bias: Tensor
    variance: Tensor

    @classmethod
    def of(cls, stage: ChainStage, inputs: tuple[int, int, int], sigma: float) -> Convolved:
        """Of a stage with a convolution."""
        layer = stage.layer
        assert isinstance(layer, ChainConvolution)
        windows = Windows.of(stage, inputs)
        sizes = torch.cat([layer.weight_size.flatten(1), layer.bias_size[:, None]], 1)
        variance = (sigma * sizes).square() * (1.0 + FEW)
        kernels, magnitude = (windows.kernels(t) for t in (layer.weight, layer.weight.abs()))
        kernel_error = 0.0 if windows.exact else gamma_sum(windows.select.shape[1] + 2)
        return cls(windows, kernels, magnitude, kernel_error, layer.bias, variance)

    @property
    def outputs(self) -> tuple[int, int, int]:
        """Channels, rows and columns behind the pool."""
        return (len(self.bias), *self.windows.places)


@dataclass(frozen=True)
class StageInputs:
    """What the places of a stage read of one sample.

    Attributes:
        stage: which.
        low, high: ends of every tap, ``[places, candidates, taps]``, rounded outward; 1 for the bias.
        nominal: some value of every tap, same shape.
        patches: nominal values of the patches, ``[places, inputs * patch]``.
        sizes: upper bounds of |h|, ``[places, inputs * patch]``.
        most: of what was added up for a tap, ``[places, candidates, taps]``.
    """

    stage: Convolved
    low: Tensor
    high: Tensor
    nominal: Tensor
    patches: Tensor
    sizes: Tensor
    most: Tensor

    @classmethod
    def of(cls, stage: Convolved, low: Tensor, high: Tensor, nominal: Tensor) -> StageInputs:
        """For maps ``[inputs, height, width]``."""
        windows = stage.windows
        lows, highs, middle = (windows.patches(h) for h in (low, high, nominal))
        taps_low, taps_high = windows.taps(lows), windows.taps(highs)
        largest = torch.maximum(lows.abs(), highs.abs())
        most = windows.taps(largest)
        if not windows.exact:
            # Averages are rounded; a tap that reads one position is exact.
            lost = most * gamma_sum(windows.select.shape[2])
            taps_low, taps_high, most = taps_low - lost, taps_high + lost, most + lost
            taps_low[..., -1], taps_high[..., -1], most[..., -1] = 1.0, 1.0, 1.0
        return cls(stage, taps_low, taps_high, windows.taps(middle), middle.flatten(1), largest.flatten(1), most)

    @cached_property
    def term_sizes(self) -> Float[Tensor, "channels places candidates"]:
        """Upper bounds of ``⟨magnitude of kernel, |h|⟩ + |bias|``."""
        stage = self.stage
        whole = torch.einsum("ckq,oq->cok", stage.magnitude, self.sizes) + stage.bias.abs()[:, None, None]
        return whole * (1.0 + gamma_sum(self.sizes.shape[1]) + 2.0 * stage.kernel_error) + TINY

    @cached_property
    def means(self) -> Float[Tensor, "channels places candidates"]:
        """Of every candidate at the nominal input."""
        stage = self.stage
        return torch.einsum("ckq,oq->cok", stage.kernels, self.patches) + stage.bias[:, None, None]

    @cached_property
    def reference(self) -> Float[Tensor, "channels places candidates"]:
        """One-hot: the candidate whose mean is largest there."""
        best = self.means.argmax(-1, keepdim=True)
        return torch.zeros_like(self.means).scatter_(-1, best, 1.0)

    @cached_property
    def spreads(self) -> tuple[Tensor, Tensor]:
        """Upper bounds of the own standard deviations of all candidates, and of their distances to the reference."""
        most = torch.maximum(self.low.abs(), self.high.abs())
        apart = torch.maximum(
            (self.high[:, :, None] - self.low[:, None]).abs(), (self.low[:, :, None] - self.high[:, None]).abs()
        )
        apart[..., -1] = 0.0
        variance, up = self.stage.variance, 1.0 + gamma_sum(self.stage.variance.shape[1])
        alone = torch.einsum("ct,okt->cok", variance, most.square())
        pairs = torch.einsum("ct,okjt->cokj", variance, apart.square())
        distance = (pairs * self.reference[:, :, None]).sum(-1)
        distance = torch.where(self.reference > 0, 0.0, distance)
        return (alone * up).sqrt() * (1.0 + FEW) + TINY, (distance * up).sqrt() * (1.0 + FEW) + TINY

    def of_reference(self, values: Float[Tensor, "channels places candidates"]) -> Float[Tensor, "channels places"]:
        """Those of the reference."""
        return (values * self.reference).sum(-1)

    def taps_of_reference(self, taps: Float[Tensor, "places candidates taps"]) -> Float[Tensor, "channels places taps"]:
        """Those of the reference."""
        return torch.einsum("cok,okt->cot", self.reference, taps)
