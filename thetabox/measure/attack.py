"""The worst weights that can be found inside the box: projected gradient, each sample with weights of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.device import choose_device
from thetabox.errors import InputError
from thetabox.measure.box_points import Weights
from thetabox.measure.correctness import Correctness
from thetabox.measure.descent import Descent, Runs
from thetabox.measure.inputs import Levels, checked, class_count, levels, numbers_for, of_box
from thetabox.measure.own_weights import OwnWeights
from thetabox.shown import Columns, Shown
from thetabox.workers import OnlyFields, Pool, check_executor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class AttackResult(Correctness, Shown):
    """What the attack found: an upper bound of the accuracy that holds for every choice of weights in the box.

    A sequence of its samples' records.

    Attributes:
        epsilon: [E], as given.
        correct: [E, N], right at ε = 0 and no weights of the box at this ε were found that make it wrong.
        margin: [E, N], least min over k of logit_label − logit_k found, in float64 (up to this ε).
        label, predicted: [N], given and unperturbed (float64).
        weights: for each ε the worst weights found, name → [N, ...] float64; only when asked for.
    """

    epsilon: Float[Tensor, " epsilon"]
    correct: Bool[Tensor, "epsilon sample"]
    margin: Float[Tensor, "epsilon sample"]
    label: Int[Tensor, " sample"]
    predicted: Int[Tensor, " sample"]
    steps: int
    restarts: int
    seed: int
    box: Box
    seconds: float
    weights: list[Weights] | None = None

    def columns(self) -> Columns:
        samples = {"label": self.label, "predicted": self.predicted}
        return Columns.of(samples, {"epsilon": self.epsilon}, {"margin": self.margin, "correct": self.correct})

    def __len__(self) -> int:
        return self.label.numel()

    def headline(self) -> str:
        how = f"{self.steps} steps, {self.restarts} restarts, {self.box.kind} box"
        return f"attack on {len(self)} samples, clean accuracy {self.clean_accuracy:.3f}; {how}"

    def summary(self) -> tuple[list[str], list[list[str]]]:
        rows = zip(self.epsilon.tolist(), self.correct.sum(1).tolist(), strict=True)
        return ["ε", "not broken", "of"], [[f"{e:.4g}", str(count), str(len(self))] for e, count in rows]

    def plot(self) -> Figure:
        """What the attack leaves of the accuracy over ε; ``certificate.plot(attack)`` shows it above what is proven."""
        # Late: a report is made of results.
        from thetabox.report.measured_figures import attack_figure

        title = f"{len(self)} samples, attacked"
        return attack_figure(self.epsilon.numpy(), self.accuracy.numpy(), self.clean_accuracy, title)

    def to_json(self) -> dict[str, Any]:
        """The result without its samples, for a report or a file."""
        total = self.correct.shape[1]
        return {
            "steps": self.steps,
            "restarts": self.restarts,
            "seed": self.seed,
            "box": self.box.describe(),
            "clean_accuracy": self.clean_accuracy,
            "curve": [
                {"epsilon": float(e), "correct": int(c.sum()), "total": total, "accuracy": float(a)}
                for e, c, a in zip(self.epsilon, self.correct, self.accuracy, strict=True)
            ],
            "seconds": self.seconds,
        }


@torch.no_grad()
def attack(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    epsilon: Levels,
    *,
    steps: int = 20,
    restarts: int = 2,
    box: Box | None = None,
    seed: int = 0,
    device: str = "auto",
    chunk: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    give_up: bool = True,
    keep_weights: bool = False,
    executor: Executor | None = None,
) -> AttackResult:
    r"""Search the box for weights that change a prediction, for every sample by itself.

    Projected gradient on the margin :math:`m = \min_{k \ne y} z_y - z_k`: with
    :math:`\theta' = \theta + \varepsilon f r \delta`, r the box's unit radius and f its factor,

    .. math:: \delta \leftarrow \mathrm{clip}(\delta - \eta_t\, \mathrm{sign} \nabla_{\theta'} m, -1, 1)

    with :math:`\eta_t` falling from 1, a jump to a vertex of the box, to 1/steps. The first run of a sample starts at
    the centre, the second at the worst δ of the next smaller ε (random where there is none), others at random. From
    the second run on the sign is that of a running sum with momentum, and the first half of run r goes for one wrong
    class, the r-th closest, :math:`z_y - z_{k_r}`, before all count again. Each run ends with the vertex
    nearest to its worst δ. ε are taken in rising order, and a sample once flipped is flipped at all larger ε. A flip
    counts only when a wrong class wins strictly in float64, with weights inside the box rounded inward. Spiking
    networks go by their surrogate gradients.

    Each sample has weights of its own; :func:`thetabox.measure.shared_attack` looks for one perturbation that harms
    the whole set.

    Args:
        model: any network; it stays as it is. Recurrent ones may implement the protocol only.
        x: inputs [N, ...].
        y: labels [N].
        epsilon: one or several ε ≥ 0.
        steps: gradient steps of one run.
        restarts: runs a sample and ε.
        box: which tensors move and how far; every weight and bias by relative error when omitted.
        seed: of the random starts; each sample has its own stream, whatever the chunks.
        device: "auto", "cpu" or "cuda".
        chunk: samples at once; chosen by memory when omitted.
        progress: called with (done, total) rows, a row being one sample at one ε.
        give_up: leave a sample alone at an ε where the first steps take little off its margin (about twice as fast;
            the accuracies of LSNN and CNN were the same in all cases tried).
        keep_weights: keep the worst weights of every sample and ε (E·N copies of the parameters).
        executor: whose workers take the chunks (:mod:`thetabox.workers`); this process where ``None``. A chunk holds
            the same samples either way, so that margins are the same bits on as many threads; a worker has one.

    Raises:
        InputError: anything wrong with the arguments.

    Source: the relative box of Büchel, Faber, Muir (ICLR 2022); projected gradient after Madry et al. (2018), with the
    margin of Carlini and Wagner (2017), the momentum of Dong et al. (2018), the targeted runs of Gowal et al. (2019).

    Example:
        >>> import torch, thetabox as tb
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        >>> x, y = torch.eye(2), torch.tensor([0, 1])
        >>> tb.attack(model, x, y, epsilon=[0.1, 0.5]).accuracy
        tensor([1., 0.], dtype=torch.float64)
    """
    started = time.perf_counter()
    check_executor(executor)
    epsilons = levels(epsilon, "epsilon")
    if steps < 1 or restarts < 1:
        raise InputError(f"steps is {steps} and restarts is {restarts}; both must be at least 1")
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk is {chunk}; it must be at least 1")
    model, inputs, labels = checked(model, x, y)
    where = choose_device(device)
    box = box or Box()
    model = of_box(model, box, inputs, executor)
    runs = Runs.of(steps, restarts, give_up)
    search = _Search(model, box, where, runs, inputs, labels, sorted(epsilons), seed, keep_weights)
    class_count(search.network.precise, numbers_for(inputs[:1], where, torch.float64), labels)
    chunks = [(int(some[0]), int(some[-1]) + 1) for some in torch.arange(len(inputs)).split(chunk or search.chunk())]
    with Pool(executor, search) as pool:
        parts = _searched(pool, search, chunks, progress)
    # Back into the order in which the ε were given.
    rank = torch.tensor(epsilons, dtype=torch.float64).argsort(stable=True).argsort()
    margin = torch.cat([part.margin for part in parts], 1)[rank]
    predicted = torch.cat([part.predicted for part in parts])
    weights = [
        {name: torch.cat([part.weights[r][name] for part in parts]) for name in search.network.tensors}
        for r in (rank.tolist() if keep_weights else ())
    ]
    return AttackResult(
        epsilon=torch.tensor(epsilons, dtype=torch.float64),
        correct=(predicted == labels) & ~(margin < 0),
        margin=margin,
        label=labels,
        predicted=predicted,
        steps=steps,
        restarts=restarts,
        seed=seed,
        box=box,
        seconds=time.perf_counter() - started,
        weights=weights if keep_weights else None,
    )


@dataclass(frozen=True)
class _Part:
    """What was found for some samples: least margins [E, n], ε rising, predictions [n], weights of each ε if kept."""

    margin: Tensor
    predicted: Tensor
    weights: list[Weights]


@dataclass
class _Search(OnlyFields):
    """The search of one run, which each chunk of samples goes through by itself."""

    model: nn.Module
    box: Box
    device: torch.device
    runs: Runs
    inputs: Tensor
    labels: Tensor
    epsilons: list[float]
    seed: int
    keep: bool

    @cached_property
    def network(self) -> OwnWeights:
        """With weights for each sample."""
        return OwnWeights(self.model, self.box, self.device)

    def chunk(self) -> int:
        """Samples at once."""
        return self.network.chunk()

    @torch.no_grad()
    def found(self, first: int, stop: int, progress: Callable[[int], None] | None = None) -> _Part:
        """For the samples from ``first`` up to ``stop``; ``progress`` is called with the number of ε done."""
        streams = range(self.seed * 1_000_003 + first, self.seed * 1_000_003 + stop)
        x, y = (values[first:stop].to(self.device) for values in (self.inputs, self.labels))
        descent = Descent(self.network, self.runs, x, y, streams, self.keep)
        margins, kept = [], []
        for done, epsilon in enumerate(self.epsilons, 1):
            margins.append(descent.run(epsilon).cpu())
            if self.keep:
                kept.append(descent.worst_weights())
            if progress is not None:
                progress(done)
        return _Part(torch.stack(margins), descent.predicted.cpu(), kept)


def _some(search: _Search, which: tuple[int, int]) -> _Part:
    return search.found(*which)


def _searched(
    pool: Pool, search: _Search, chunks: list[tuple[int, int]], progress: Callable[[int, int], None] | None
) -> list[_Part]:
    """All chunks, in their order."""
    levels, total = len(search.epsilons), len(search.labels) * len(search.epsilons)

    def tell(rows: int) -> None:
        if progress is not None:
            progress(rows, total)

    def here(first: int, stop: int) -> _Part:
        return search.found(first, stop, lambda done: tell(first * levels + done * (stop - first)))

    if not pool.several:
        return [here(*which) for which in chunks]
    away = {pool.add(_some, which): place for place, which in enumerate(chunks)}
    parts: dict[int, _Part] = {}
    done = 0
    for number, part in pool.answers():
        parts[away[number]] = part
        done += len(part.predicted)
        tell(done * levels)
    return [parts[place] for place in range(len(chunks))]
