"""Random weights in the box: what chance finds at the size at which an attack searches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.device import choose_device
from thetabox.errors import InputError
from thetabox.measure.batched_draws import ManyWeights
from thetabox.measure.box_points import inward_ends, placed
from thetabox.measure.correctness import Correctness
from thetabox.measure.inputs import Levels, boxed, checked, levels, numbers_for, of_box, precise_copy

KINDS = ("uniform", "corner")


@dataclass(frozen=True)
class RandomAttackResult(Correctness):
    """What random weights of the box do, in float64.

    Attributes:
        epsilon: [E], as given.
        correct: [E, N], right at ε = 0 and under every draw at this ε: each sample under its own worst draw.
        shared: [E, S], accuracy over all samples under each draw: one perturbation for the whole set.
        label, predicted: [N], given and unperturbed.
    """

    epsilon: Float[Tensor, " epsilon"]
    correct: Bool[Tensor, "epsilon sample"]
    shared: Float[Tensor, "epsilon draw"]
    label: Int[Tensor, " sample"]
    predicted: Int[Tensor, " sample"]
    kind: str
    seed: int
    box: Box
    seconds: float

    @property
    def shared_accuracy(self) -> Float[Tensor, " epsilon"]:
        """The worst draw for the whole set (beside :func:`thetabox.measure.shared_attack`)."""
        return self.shared.amin(1)

    def to_json(self) -> dict[str, Any]:
        """The result without its samples, for a report or a file."""
        rows = zip(self.epsilon, self.accuracy, self.shared_accuracy, self.shared.mean(1), strict=True)
        return {
            "kind": self.kind,
            "draws": self.shared.shape[1],
            "seed": self.seed,
            "box": self.box.describe(),
            "clean_accuracy": self.clean_accuracy,
            "curve": [
                {
                    "epsilon": float(e),
                    "accuracy": float(accuracy),
                    "shared_accuracy": float(worst),
                    "shared_mean": float(m),
                }
                for e, accuracy, worst, m in rows
            ],
            "seconds": self.seconds,
        }


@torch.no_grad()
def random_attack(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    epsilon: Levels,
    *,
    draws: int = 1000,
    kind: str = "uniform",
    box: Box | None = None,
    seed: int = 0,
    device: str = "auto",
    chunk: int = 500,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RandomAttackResult:
    r"""Draw weights from the box at random, many times, and keep what each sample and the whole set suffer most.

    .. math:: \theta' = \theta + \varepsilon f r \delta, \quad \delta \sim U(-1, 1) \text{ or } U\{-1, 1\}

    with r the box's unit radius and f its factor. All samples see the same draws, and draw s uses the same δ at every
    ε. Evaluated in float64, with weights inside the box rounded inward.

    Args:
        model: any network; it stays as it is.
        x: inputs [N, ...].
        y: labels [N].
        epsilon: one or several ε ≥ 0.
        draws: S.
        kind: "uniform" over the box, or "corner", over its vertices.
        box: which tensors move and how far; every weight and bias by relative error when omitted.
        seed: of the draws.
        device: "auto", "cpu" or "cuda".
        chunk: samples of the data in one forward pass.
        batch: draws in one call; by default whatever is fastest.
        progress: called with (done, total) draws.

    Raises:
        InputError: anything wrong with the arguments.

    Source: random perturbation beside the attack, as in Büchel, Faber, Muir (ICLR 2022), section 4.
    """
    started = time.perf_counter()
    epsilons = levels(epsilon, "epsilon")
    if draws < 1 or chunk < 1:
        raise InputError(f"draws is {draws} and chunk is {chunk}; both must be at least 1")
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r} of random weights; choose {' or '.join(KINDS)}")
    model, inputs, labels = checked(model, x, y)
    where, chosen = choose_device(device), box or Box()
    model = of_box(model, chosen, inputs)
    precise = precise_copy(model, inputs, labels, where)
    predicted = torch.cat([precise(numbers_for(p, where, torch.float64)).argmax(1).cpu() for p in inputs.split(chunk)])
    many = ManyWeights(model, inputs, labels, where, chunk, batch, torch.float64)
    tensors = boxed(model, chosen)
    correct = (predicted == labels).expand(len(epsilons), -1).clone()
    shared = _drawn(many, tensors, epsilons, draws, kind, seed, labels, correct, progress)
    return RandomAttackResult(
        epsilon=torch.tensor(epsilons, dtype=torch.float64),
        correct=correct,
        shared=shared.T.contiguous(),
        label=labels,
        predicted=predicted,
        kind=kind,
        seed=seed,
        box=chosen,
        seconds=time.perf_counter() - started,
    )


def _drawn(
    many: ManyWeights,
    tensors: dict[str, tuple[Tensor, Tensor]],
    epsilons: list[float],
    draws: int,
    kind: str,
    seed: int,
    labels: Tensor,
    correct: Bool[Tensor, "epsilon sample"],
    progress: Callable[[int, int], None] | None,
) -> Float[Tensor, "draw epsilon"]:
    """Accuracies of all draws; what a draw makes wrong is taken out of ``correct``."""
    ends = [inward_ends(tensors, eps) for eps in epsilons]
    shared = torch.empty(draws, len(epsilons), dtype=torch.float64)

    @lru_cache(maxsize=1)
    def delta(draw: int) -> dict[str, Tensor]:
        stream = torch.Generator().manual_seed(seed * 1_000_003 + draw)
        drawn = {n: 2 * torch.rand(t.shape, generator=stream, dtype=torch.float64) - 1 for n, (t, _) in tensors.items()}
        return drawn if kind == "uniform" else {n: torch.where(d < 0, -1.0, 1.0) for n, d in drawn.items()}

    def weights(index: int) -> dict[str, Tensor]:
        draw, row = divmod(index, len(epsilons))
        return placed(ends[row], delta(draw), torch.float64)

    def see(stretch: slice, logits: list[Tensor]) -> None:
        classes = torch.cat([part.argmax(-1) for part in logits], -1).cpu().reshape(-1, len(labels))
        for index, right in enumerate(classes == labels, stretch.start):
            draw, row = divmod(index, len(epsilons))
            correct[row] &= right
            shared[draw, row] = right.double().mean()

    total = draws * len(epsilons)
    many.visit(weights, total, see, None if progress is None else lambda done: progress(done, total))
    return shared
