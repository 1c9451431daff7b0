"""Constant against relative noise: larger weights drown the one, never the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.deep_copy import deep_copy
from thetabox.errors import InputError
from thetabox.measure.inputs import boxed, checked, working_copy
from thetabox.measure.mismatch import MismatchResult, mismatch
from thetabox.models.lsnn import LSNN

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class ConstantNoiseResult:
    """Mismatch of one network at several sizes of its weights.

    Attributes:
        factor: [F], the weights are so many times the original ones; the network computes the same.
        level: σ of the relative noise.
        relative: one result a factor, θ' ~ N(θ, (σ|θ|)²).
        constant: one result a factor, θ' ~ N(θ, s²) with s = σ·(root mean square of the original tensor, or of the
            other network's).
    """

    factor: Float[Tensor, " factor"]
    level: float
    relative: list[MismatchResult]
    constant: list[MismatchResult]

    @property
    def relative_mean(self) -> Float[Tensor, " factor"]:
        """Mean accuracy under relative noise."""
        return torch.cat([result.mean for result in self.relative])

    @property
    def constant_mean(self) -> Float[Tensor, " factor"]:
        """Mean accuracy under constant noise."""
        return torch.cat([result.mean for result in self.constant])

    def to_json(self) -> dict[str, Any]:
        """The result, for a report or a file."""
        rows = zip(self.factor, self.relative_mean, self.constant_mean, strict=True)
        return {
            "level": self.level,
            "clean_accuracy": self.relative[0].clean_accuracy,
            "factors": [{"factor": float(f), "relative": float(r), "constant": float(c)} for f, r, c in rows],
        }


def constant_noise(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    level: float = 0.3,
    factor: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    *,
    like: nn.Module | None = None,
    samples: int = 100,
    seed: int = 0,
    device: str = "auto",
    chunk: int = 500,
) -> ConstantNoiseResult:
    r"""Accuracy under constant and under relative noise, as the weights grow and the network stays the same.

    .. math::
        \theta_c = c\,\theta, \qquad \text{relative: } \mathcal{N}(\theta_c, (\sigma|\theta_c|)^2), \qquad
        \text{constant: } \mathcal{N}(\theta_c, s^2), \quad s = \sigma \sqrt{\overline{\theta^2}}

    s, one number a tensor, stays as c grows, so that both noises are of one size at c = 1. Constant noise falls with
    1/c against the weights: a network escapes it by growing them, as ``inverse_weight_decay`` of
    :func:`thetabox.train.fit` does in training; to see that, give the network trained without it as ``like``.
    Relative noise grows with them, so that nothing is gained: robustness against it must be in the shape of the
    network.

    Args:
        model: an :class:`~thetabox.models.LSNN`, or layers in a row with ReLU and max-pool between, whose outputs
            grow by one factor with the weights; others are refused. It stays as it is.
        x: inputs [N, ...].
        y: labels [N].
        level: σ.
        factor: c, each positive.
        like: network with the same parameters whose tensors set s; the model itself when omitted.
        samples: draws.
        seed: of the draws.
        device: "auto", "cpu" or "cuda".
        chunk: samples of the data in one forward pass.

    Raises:
        InputError: anything wrong with the arguments, a network that larger weights change, or a ``like`` of other
            parameters.

    Source: Fig. S4 of Büchel, Faber, Muir (ICLR 2022).
    """
    factors = torch.as_tensor(factor, dtype=torch.float64).reshape(-1)
    if not len(factors) or not torch.isfinite(factors).all() or not (factors > 0).all():
        raise InputError("factor must hold finite numbers above 0, one at least")
    model, inputs, _ = checked(model, x, y)
    sizes = {name: float(theta.square().mean().sqrt()) for name, (theta, _) in boxed(like or model, Box()).items()}
    if like is not None and _shapes(like) != _shapes(model):
        raise InputError("like has other parameters than the model")
    fixed = Box(kind="absolute", scale=sizes)
    relative: list[MismatchResult] = []
    constant: list[MismatchResult] = []
    for c in factors.tolist():
        larger = grown(model, c)
        _check_same(model, larger, inputs[:chunk])
        for results, box in ((relative, Box()), (constant, fixed)):
            results.append(mismatch(larger, x, y, level, samples, seed=seed, box=box, device=device, chunk=chunk))
    return ConstantNoiseResult(factors, float(level), relative, constant)


def grown(model: nn.Module, factor: float) -> nn.Module:
    """A copy whose weights are ``factor`` times as large and which predicts the same.

    In layers in a row the bias of layer l grows by factor to the power of l. In an LSNN potentials, thresholds and
    adaptation (β) grow with the weights, so that every spike stays.
    """
    larger = deep_copy(model)
    with torch.no_grad():
        if isinstance(larger, LSNN):
            for value in (*larger.parameters(), larger.threshold, larger.beta):
                value.mul_(factor)
            return larger
        depth = 0
        for layer in larger.modules():
            if isinstance(layer, LAYERS):
                depth += 1
                layer.weight.mul_(factor)
                if layer.bias is not None:
                    layer.bias.mul_(factor**depth)
    return larger


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.named_parameters()}


def _check_same(model: nn.Module, larger: nn.Module, x: Tensor) -> None:
    """Raise InputError unless the logits of both are one multiple of each other."""
    with torch.no_grad():
        cpu = torch.device("cpu")
        inputs = x.double() if x.is_floating_point() else x
        before, after = (working_copy(each, cpu, torch.float64)(inputs) for each in (model, larger))
    ratio = (before * after).sum() / before.square().sum()
    if not torch.allclose(after, ratio * before, rtol=1e-6, atol=float(1e-6 * after.abs().max())):
        raise InputError(
            "larger weights change what this network computes; give an LSNN, or layers in a row with ReLU and "
            "max-pool between"
        )
