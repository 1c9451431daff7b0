"""Yield by drawing chips: bounds with a confidence, beside what is proven and for every network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thetabox import checks
from thetabox.box import Box
from thetabox.device import choose_device
from thetabox.errors import InputError
from thetabox.measure.binomial import draws_needed, probability_at_least, worst_that_counts
from thetabox.measure.drawn_chips import DrawnChips
from thetabox.measure.inputs import Levels, checked, levels, numbers_for, of_box, precise_copy
from thetabox.measure.stretches import OnSamples, stretches
from thetabox.noise import Noise
from thetabox.shown import Headed
from thetabox.workers import Pool, check_executor

Found = tuple[Int[Tensor, "sigma sample"], Float[Tensor, " draw"]]
"""How many of some draws classify each sample right, and each draw's accuracy."""


@dataclass(frozen=True, repr=False)
class SampledYield(Headed):
    """What draws say of all chips: statistics with a confidence, and no proof.

    Attributes:
        sigma: ``[S]``.
        accuracy: with the confidence, at least ``share`` of all chips reach this accuracy on these samples, ``[S]``.
        probability: lower bounds of the probability that a chip classifies a sample right, ``[S, N]``; all N of a σ
            hold together with the confidence.
        correct: draws that classify each sample right, ``[S, N]``.
        accuracies: of each draw, ``[S, draws]``.
        clean_accuracy: without errors, in float64.
        draws, confidence, share, seed, noise, box: as given.
        rank: which of the draws ``accuracy`` is, the worst being 1.
    """

    sigma: Float[Tensor, " sigma"]
    accuracy: Float[Tensor, " sigma"]
    probability: Float[Tensor, "sigma sample"]
    correct: Int[Tensor, "sigma sample"]
    accuracies: Float[Tensor, "sigma draw"]
    clean_accuracy: float
    draws: int
    confidence: float
    share: float
    rank: int
    seed: int
    noise: Noise
    box: Box
    seconds: float

    @property
    def mean(self) -> Float[Tensor, " sigma"]:
        """Mean accuracy of the draws."""
        return self.accuracies.mean(1)

    def headline(self) -> str:
        known = f"{self.probability.shape[1]} samples, clean accuracy {self.clean_accuracy:.3f}"
        how = f"{self.draws} chips a σ, {self.noise.errors}"
        return f"{known}; {how}; statistical, {self.confidence:g} confidence, no proof"

    def summary(self) -> tuple[list[str], list[list[str]]]:
        rows = zip(
            *(one.tolist() for one in (self.sigma, self.accuracy, self.mean, self.accuracies.amin(1))), strict=True
        )
        names = ["σ", f"accuracy of {self.share:g} of chips", "mean", "worst"]
        return names, [[f"{sigma:.4g}", *(f"{one:.4f}" for one in found)] for sigma, *found in rows]

    def to_json(self) -> dict[str, Any]:
        """The result, for a report or a file."""
        return {
            "kind": "statistical: a confidence, no proof",
            "draws": self.draws,
            "confidence": self.confidence,
            "share": self.share,
            "rank": self.rank,
            "seed": self.seed,
            "noise": self.noise.describe(),
            "box": self.box.describe(),
            "clean_accuracy": self.clean_accuracy,
            "levels": [
                {"sigma": sigma, "accuracy": accuracy, "mean": mean, "worst": worst}
                for sigma, accuracy, mean, worst in zip(
                    self.sigma.tolist(),
                    self.accuracy.tolist(),
                    self.mean.tolist(),
                    self.accuracies.amin(1).tolist(),
                    strict=True,
                )
            ],
            "seconds": self.seconds,
        }


@torch.no_grad()
def sampled_yield(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    sigma: Levels = (0.02, 0.05, 0.1),
    draws: int = 459,
    confidence: float = 0.99,
    share: float = 0.99,
    *,
    noise: Noise | None = None,
    box: Box | None = None,
    seed: int = 0,
    device: str = "auto",
    chunk: int = 500,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    executor: Executor | None = None,
) -> SampledYield:
    r"""Draw chips and say, with a confidence, how all chips do.

    A chip stores :math:`\theta' = \theta + \sigma f r n` (:class:`thetabox.Noise`), the same for all samples. Of the
    draws' accuracies the r-th worst is a lower bound of what a share of all chips reaches (Wilks 1941; r as large as
    the confidence allows), and of k right draws in n the exact binomial bound one of a sample's probability to be right
    (Clopper and Pearson 1934), each at confidence 1 - (1 - confidence)/N so that all N samples hold together
    (Bonferroni). Draw s uses the same standard normal numbers at every σ, those of :func:`thetabox.mismatch`. This is
    statistics: the confidence is that of the procedure over repetitions. :func:`thetabox.certify_yield` proves.

    Args:
        model: any network, spiking ones too; it stays as it is. Evaluated in its own precision.
        x: inputs [N, ...].
        y: labels [N].
        sigma: one or several σ ≥ 0.
        draws: chips a σ.
        confidence: of the statement about each σ, between 0 and 1.
        share: of the chips that ``accuracy`` is about, between 0 and 1.
        noise: Gaussian, with scales, known drift and common errors; independent Gaussian errors when omitted.
        box: which tensors are off and what their unit is; every weight and bias by relative error when omitted.
        seed: of the draws.
        device: "auto", "cpu" or "cuda".
        chunk: samples of the data in one forward pass.
        batch: draws in one call; by default whatever is fastest in a short trial.
        progress: called with (done, total) draws.
        executor: whose workers draw the chips (:mod:`thetabox.workers`); this process where ``None``.

    Raises:
        InputError: anything wrong with the arguments, too few draws for the share and the confidence among it.

    Source: S. S. Wilks, Determination of sample sizes for setting tolerance limits, Annals of Mathematical Statistics
        1941; C. J. Clopper and E. S. Pearson, The use of confidence or fiducial limits, Biometrika 1934.

    Example:
        >>> import torch, thetabox as tb
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        >>> x, y = torch.eye(2), torch.tensor([0, 1])
        >>> tb.sampled_yield(model, x, y, sigma=[0.05, 0.5]).accuracy
        tensor([1., 0.], dtype=torch.float64)
    """
    started = time.perf_counter()
    check_executor(executor)
    sigmas = levels(sigma, "sigma")
    draws, chunk = _counted(draws, "draws"), _counted(chunk, "chunk")
    batch = None if batch is None else _counted(batch, "batch")
    sure, most = _between(confidence, "confidence"), _between(share, "share")
    rank = _rank(draws, most, sure)
    if noise is not None and not isinstance(noise, Noise):
        raise InputError(f"noise must be a thetabox.Noise, not {type(noise).__name__}")
    if box is not None and not isinstance(box, Box):
        raise InputError(f"box must be a thetabox.Box, not {type(box).__name__}")
    model, inputs, labels = checked(model, x, y)
    where, chosen, errors = choose_device(device), box or Box(), noise or Noise()
    model = of_box(model, chosen, inputs, executor)
    precise = precise_copy(model, inputs, labels, where)
    chips = _Chips(model, inputs, labels, where, chunk, batch, chosen, errors, seed, sigmas)
    number = chips.drawn.seed  # What is wrong with noise, box or seed is said here, before any work.
    with Pool(executor, chips) as pool:
        right, accuracies = _drawn(pool, chips, draws * len(sigmas), progress)
    accuracies = accuracies.reshape(draws, len(sigmas))
    clean = [precise(numbers_for(part, where, torch.float64)).argmax(1).cpu() for part in inputs.split(chunk)]
    single = 1.0 - (1.0 - sure) / len(labels)
    return SampledYield(
        sigma=torch.tensor(sigmas, dtype=torch.float64),
        accuracy=accuracies.sort(0).values[rank - 1],
        probability=torch.as_tensor(probability_at_least(right.numpy(), draws, single)),
        correct=right,
        accuracies=accuracies.T.contiguous(),
        clean_accuracy=float((torch.cat(clean) == labels).double().mean()),
        draws=draws,
        confidence=sure,
        share=most,
        rank=rank,
        seed=number,
        noise=errors,
        box=chosen,
        seconds=time.perf_counter() - started,
    )


@dataclass
class _Chips(OnSamples):
    """The draws of a measurement, by number: chip after chip, each at all σ."""

    noise: Noise
    seed: int
    sigmas: Sequence[float]

    @cached_property
    def drawn(self) -> DrawnChips:
        """The weights."""
        return DrawnChips(self.model, self.box, self.noise, self.seed)

    def found(self, first: int, stop: int, progress: Callable[[int], None] | None = None) -> Found:
        """Of the draws from ``first`` up to ``stop``."""
        right = torch.zeros(len(self.sigmas), len(self.y), dtype=torch.int64)
        accuracies = torch.zeros(stop - first, dtype=torch.float64)

        def weights(index: int) -> dict[str, Tensor]:
            chip, level = divmod(first + index, len(self.sigmas))
            return self.drawn.weights(chip, self.sigmas[level])

        def see(part: slice, logits: list[Tensor]) -> None:
            hits = torch.cat([_right(one, y).cpu() for one, (_, y) in zip(logits, self.many.parts, strict=True)], -1)
            hits = hits.reshape(part.stop - part.start, -1)
            for index, row in zip(range(part.start, part.stop), hits, strict=True):
                right[(first + index) % len(self.sigmas)] += row
                accuracies[index] = row.double().mean()

        self.many.visit(weights, stop - first, see, progress)
        return right, accuracies


def _some(chips: _Chips, which: tuple[int, int]) -> Found:
    return chips.found(*which)


def _drawn(pool: Pool, chips: _Chips, total: int, progress: Callable[[int, int], None] | None) -> Found:
    """Of all draws, by workers some at a time."""
    if not pool.several:
        return chips.found(0, total, None if progress is None else lambda done: progress(done, total))
    right = torch.zeros(len(chips.sigmas), len(chips.y), dtype=torch.int64)
    accuracies = torch.zeros(total, dtype=torch.float64)
    for some, (counts, own) in stretches(pool, _some, total, progress):
        right += counts
        accuracies[some] = own
    return right, accuracies


def _counted(value: Any, what: str) -> int:
    """A whole number of at least 1.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise InputError(f"{what} is {value!r}; it must be a whole number of at least 1")
    return int(value)


def _rank(draws: int, share: float, confidence: float) -> int:
    """Which of the draws, counted from the worst, that share of all chips reaches.

    Raises:
        InputError: not even the worst.
    """
    rank = worst_that_counts(draws, share, confidence)
    if rank < 1:
        raise InputError(
            f"{draws} draws cannot say with confidence {confidence:g} what a share {share:g} of all chips reaches; "
            f"{draws_needed(share, confidence)} can"
        )
    return rank


def _right(logits: Tensor, y: Tensor) -> Tensor:
    """Weights far off may overflow to NaN, which ``argmax`` would take for the largest: such an output is wrong."""
    return (logits.argmax(-1) == y) & ~logits.isnan().any(-1)


def _between(value: Any, what: str) -> float:
    """A number between 0 and 1.

    Raises:
        InputError: it is none.
    """
    number = checks.number(value, what)
    if not 0.0 < number < 1.0:
        raise InputError(f"{what} is {number:g}; it must lie above 0 and below 1")
    return number
