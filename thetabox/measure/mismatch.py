"""Accuracy under random mismatch: every weight off by a Gaussian error of its own size, frozen for a draw."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.device import choose_device
from thetabox.errors import InputError
from thetabox.measure.batched_draws import correct_count
from thetabox.measure.drawn_chips import DrawnChips
from thetabox.measure.inputs import Levels, checked, levels, numbers_for, of_box, precise_copy
from thetabox.measure.spread import Spread
from thetabox.measure.stretches import OnSamples, stretches
from thetabox.noise import Noise
from thetabox.workers import Pool, check_executor

PAPER_LEVELS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)
"""Mismatch levels of the paper's Table 1."""


@dataclass(frozen=True)
class MismatchResult(Spread):
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

    def joined(self, *others: MismatchResult) -> MismatchResult:
        """Draws of several instances of a model (trained from other seeds) as one result: [L, S₁ + S₂ + …].

        Raises:
            InputError: other levels or another box.
        """
        results = (self, *others)
        if any(not torch.equal(r.level, self.level) or r.box != self.box for r in others):
            raise InputError("only mismatch results of the same levels and the same box can be joined")
        draws = [r.accuracy.shape[1] for r in results]
        return MismatchResult(
            level=self.level,
            accuracy=torch.cat([r.accuracy for r in results], 1),
            clean_accuracy=sum(r.clean_accuracy * n for r, n in zip(results, draws, strict=True)) / sum(draws),
            seed=self.seed,
            box=self.box,
            seconds=sum(r.seconds for r in results),
        )

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
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    executor: Executor | None = None,
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
        batch: draws in one call (``torch.func.vmap``); by default whatever is fastest in a short trial on the first
            draws, which for large networks is one. The accuracies are the same.
        progress: called with (done, total) draws.
        executor: whose workers take the draws (:mod:`thetabox.workers`); this process where ``None``.

    Raises:
        InputError: anything wrong with the arguments.

    Source: mismatch of analog and mixed-signal hardware as in Büchel, Faber, Muir (ICLR 2022), section 4.

    Example:
        >>> import torch, thetabox as tb
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        >>> x, y = torch.eye(2), torch.tensor([0, 1])
        >>> tb.mismatch(model, x, y, level=[0.1, 0.3], samples=50).accuracy.shape
        torch.Size([2, 50])
    """
    started = time.perf_counter()
    check_executor(executor)
    sigmas = levels(level, "level")
    if samples < 1 or chunk < 1:
        raise InputError(f"samples is {samples} and chunk is {chunk}; both must be at least 1")
    if batch is not None and batch < 1:
        raise InputError(f"batch is {batch}; it must be at least 1")
    model, inputs, labels = checked(model, x, y)
    where, chosen = choose_device(device), box or Box()
    model = of_box(model, chosen, inputs, executor)
    precise = precise_copy(model, inputs, labels, where)
    draws = _Draws(model, inputs, labels, where, chunk, batch, chosen, seed, sigmas)
    total = samples * len(sigmas)
    with Pool(executor, draws) as pool:
        if pool.several:
            right = _by_workers(pool, total, progress)
        else:
            right = draws.right(0, total, None if progress is None else lambda done: progress(done, total))
    return MismatchResult(
        level=torch.tensor(sigmas, dtype=torch.float64),
        accuracy=(right / len(inputs)).reshape(samples, len(sigmas)).T.contiguous(),
        clean_accuracy=_clean(precise, inputs, labels, where, chunk),
        seed=seed,
        box=chosen,
        seconds=time.perf_counter() - started,
    )


@dataclass
class _Draws(OnSamples):
    """The draws of a measurement, by number: chip after chip, each at all levels."""

    seed: int
    sigmas: Sequence[float]

    @cached_property
    def chips(self) -> DrawnChips:
        """The weights."""
        return DrawnChips(self.model, self.box, Noise(), self.seed)

    def right(self, first: int, stop: int, progress: Callable[[int], None] | None = None) -> Float[Tensor, " draw"]:
        """Samples that draws from ``first`` up to ``stop`` classify right."""

        def weights(index: int) -> dict[str, Tensor]:
            draw, row = divmod(first + index, len(self.sigmas))
            return self.chips.weights(draw, self.sigmas[row])

        return self.many.scores(weights, stop - first, correct_count, progress)


def _some_draws(draws: _Draws, which: tuple[int, int]) -> Tensor:
    return draws.right(*which)


def _by_workers(pool: Pool, total: int, progress: Callable[[int, int], None] | None) -> Float[Tensor, " draw"]:
    """All draws, some at a time."""
    right = torch.empty(total, dtype=torch.float64)
    for some, counts in stretches(pool, _some_draws, total, progress):
        right[some] = counts
    return right


def _clean(model: nn.Module, x: Tensor, y: Tensor, device: torch.device, chunk: int) -> float:
    """Accuracy in float64."""
    parts = [model(numbers_for(part, device, torch.float64)) for part in x.split(chunk)]
    return float(correct_count(torch.cat(parts).cpu(), y)) / len(x)
