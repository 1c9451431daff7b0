"""Accuracy under random mismatch: every weight off by a Gaussian error of its own size, frozen for a draw."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.device import choose_device
from thetabox.errors import InputError
from thetabox.measure.inputs import (
    Levels,
    boxed,
    checked,
    class_count,
    levels,
    numbers_for,
    working_copy,
)
from thetabox.models.fold import folded


@dataclass(frozen=True)
class MismatchResult:
    """Accuracy of each draw of the weights.

    Attributes:
        level: [L], as given.
        accuracy: [L, S], accuracy over all samples of draw s at level l.
        clean_accuracy: without mismatch, in float64.
    """

    level: Float[Tensor, " level"]
    accuracy: Float[Tensor, "level draw"]
    clean_accuracy: float
    seed: int
    box: Box
    seconds: float

    @property
    def mean(self) -> Float[Tensor, " level"]:
        """Mean over the draws."""
        return self.accuracy.mean(1)

    @property
    def std(self) -> Float[Tensor, " level"]:
        """Standard deviation over the draws (divided by S − 1; 0 for one draw)."""
        return self.accuracy.std(1, correction=1 if self.accuracy.shape[1] > 1 else 0)

    @property
    def min(self) -> Float[Tensor, " level"]:
        """The worst draw."""
        return self.accuracy.amin(1)

    def to_json(self) -> dict[str, Any]:
        """The result, for a report or a file."""
        rows = zip(self.level, self.mean, self.std, self.min, strict=True)
        return {
            "samples": self.accuracy.shape[1],
            "seed": self.seed,
            "box": self.box.describe(),
            "clean_accuracy": self.clean_accuracy,
            "levels": [
                {"level": float(level), "mean": float(mean), "std": float(std), "min": float(least)}
                for level, mean, std, least in rows
            ],
            "accuracy": self.accuracy.tolist(),
            "seconds": self.seconds,
        }


@torch.no_grad()
def mismatch(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    level: Levels = (0.1, 0.3),
    samples: int = 100,
    *,
    seed: int = 0,
    box: Box | None = None,
    device: str = "auto",
    chunk: int = 500,
    progress: Callable[[int, int], None] | None = None,
) -> MismatchResult:
    r"""Draw the weights many times and measure accuracy with each draw.

    .. math:: \theta' \sim \mathcal{N}(\theta, (\sigma f r)^2)

    with σ the level, r the box's unit radius (|θ| for a relative box) and f its factor. All samples of the data see
    the same draw, as on one chip. Draw s uses the same standard normal numbers at every level. Evaluated in the
    network's own precision.

    Args:
        model: any network; it stays as it is.
        x: inputs [N, ...].
        y: labels [N].
        level: one or several σ ≥ 0.
        samples: draws S.
        seed: of the draws.
        box: which tensors are drawn and what their unit is; every weight and bias by relative error when omitted.
        device: "auto", "cpu" or "cuda".
        chunk: samples of the data in one forward pass.
        progress: called with (done, total) draws.

    Raises:
        InputError: anything wrong with the arguments.

    Source: mismatch of analog and mixed-signal hardware as in Büchel, Faber, Muir (ICLR 2022), section 4.
    """
    started = time.perf_counter()
    sigmas = levels(level, "level")
    if samples < 1 or chunk < 1:
        raise InputError(f"samples is {samples} and chunk is {chunk}; both must be at least 1")
    inputs, labels = checked(x, y)
    where, chosen = choose_device(device), box or Box()
    model = folded(model) if chosen.fold else model
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    dtype = torch.float64 if torch.float64 in kinds else torch.float32
    precise, drawn = working_copy(model, where, torch.float64), working_copy(model, where, dtype)
    class_count(precise, numbers_for(inputs[:1], where, torch.float64), labels)
    tensors = {**dict(drawn.network.named_parameters()), **dict(drawn.network.named_buffers())}
    ends = boxed(model, chosen)
    accuracy = torch.empty(len(sigmas), samples, dtype=torch.float64)
    for draw in range(samples):
        stream = torch.Generator().manual_seed(seed * 1_000_003 + draw)
        noise = {name: torch.randn(theta.shape, generator=stream) for name, (theta, _) in ends.items()}
        for row, sigma in enumerate(sigmas):
            for name, (theta, radius) in ends.items():
                tensors[name].copy_(theta + sigma * radius * noise[name])
            accuracy[row, draw] = _accuracy(drawn, inputs, labels, where, dtype, chunk)
            if progress is not None:
                progress(draw * len(sigmas) + row + 1, samples * len(sigmas))
    return MismatchResult(
        level=torch.tensor(sigmas, dtype=torch.float64),
        accuracy=accuracy,
        clean_accuracy=_accuracy(precise, inputs, labels, where, torch.float64, chunk),
        seed=seed,
        box=chosen,
        seconds=time.perf_counter() - started,
    )


def _accuracy(model: nn.Module, x: Tensor, y: Tensor, device: torch.device, dtype: torch.dtype, chunk: int) -> float:
    right = 0
    for start in range(0, len(x), chunk):
        answer = model(numbers_for(x[start : start + chunk], device, dtype))
        right += int((answer.argmax(1).cpu() == y[start : start + chunk]).sum())
    return right / len(x)
