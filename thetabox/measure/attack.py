"""The worst weights that can be found inside the box: projected gradient, each sample with weights of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from thetabox.box import Box
from thetabox.device import choose_device
from thetabox.errors import InputError
from thetabox.measure.box_points import inward_ends, placed
from thetabox.measure.correctness import Correctness
from thetabox.measure.inputs import (
    Levels,
    Logits,
    boxed,
    checked,
    class_count,
    levels,
    numbers_for,
    working_copy,
)
from thetabox.models.copies import not_followed
from thetabox.models.fold import folded

Weights = dict[str, Tensor]
"""Tensors by parameter name; where each sample has its own, the first dimension is the sample."""

MEMORY = 512 * 2**20
LARGEST_CHUNK = 64
# A run is left when it took less than this share off the clean margin, after two steps, a quarter of all, and all.
# In runs that flipped a sample (LSNN and CNN) the shares were at least 0.23 after one step and 0.5 after a quarter.
GOALS = (0.05, 0.3, 0.5)
MOMENTUM = 0.5


@dataclass(frozen=True)
class AttackResult(Correctness):
    """What the attack found: an upper bound of the accuracy that holds for every choice of weights in the box.

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
    epsilons = levels(epsilon, "epsilon")
    if steps < 1 or restarts < 1:
        raise InputError(f"steps is {steps} and restarts is {restarts}; both must be at least 1")
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk is {chunk}; it must be at least 1")
    model, inputs, labels = checked(model, x, y)
    where = choose_device(device)
    box = box or Box()
    search = _Search(folded(model) if box.fold else model, box, where, steps, restarts, give_up)
    class_count(search.precise, numbers_for(inputs[:1], where, torch.float64), labels)
    order = sorted(range(len(epsilons)), key=epsilons.__getitem__)
    parts: list[tuple[Tensor, Tensor, list[Weights]]] = []
    for some in torch.arange(len(inputs)).split(chunk or search.chunk()):
        first = int(some[0])
        streams = range(seed * 1_000_003 + first, seed * 1_000_003 + first + len(some))
        part = _Part(search, inputs[some].to(where), labels[some].to(where), streams, keep_weights)
        margins, kept = [], []
        for place, index in enumerate(order, 1):
            margins.append(part.run(epsilons[index]).cpu())
            if keep_weights:
                kept.append(part.worst_weights())
            if progress is not None:
                progress(first * len(order) + place * len(some), len(inputs) * len(order))
        parts.append((torch.stack(margins), part.predicted.cpu(), kept))
    rank = torch.tensor(order).argsort()
    margin = torch.cat([part[0] for part in parts], 1)[rank]
    predicted = torch.cat([part[1] for part in parts])
    weights = [
        {name: torch.cat([part[2][r][name] for part in parts]) for name in search.precise_box}
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
        box=search.box,
        seconds=time.perf_counter() - started,
        weights=weights if keep_weights else None,
    )


class _Search:
    """The network in two precisions (its own, to search in, and float64, to judge in) and its box."""

    def __init__(
        self, model: nn.Module, box: Box, device: torch.device, steps: int, restarts: int, give_up: bool
    ) -> None:
        kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
        self.dtype = torch.float64 if torch.float64 in kinds else torch.float32
        self.box, self.device = box, device
        self.steps, self.restarts = steps, restarts
        self.goals = dict(zip((2, max(steps // 4, 3), steps), GOALS, strict=True)) if give_up and steps > 3 else {}
        self.fast = working_copy(model, device, self.dtype)
        self.precise = working_copy(model, device, torch.float64)
        self.precise_box = {
            name: (theta.to(device), radius.to(device)) for name, (theta, radius) in boxed(model, box).items()
        }
        self.batched = True

    def chunk(self) -> int:
        """Samples at once: about six copies of the boxed tensors for each."""
        numbers = sum(theta.numel() for theta, _ in self.precise_box.values())
        memory = MEMORY if self.device.type == "cpu" else torch.cuda.mem_get_info(self.device)[0] // 4
        return max(1, min(LARGEST_CHUNK if self.device.type == "cpu" else 512, memory // (32 * numbers)))

    def weights(self, delta: Weights, epsilon: float, dtype: torch.dtype) -> Weights:
        """Weights of every sample at its δ."""
        return placed(inward_ends(self.precise_box, epsilon), delta, dtype)

    def margins(self, weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        """Margins in float64, each sample with its own weights."""
        return self._each(lambda *one: _margin(self.precise, *one), weights, numbers_for(x, x.device, torch.float64), y)

    def slopes(self, weights: Weights, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Weights]:
        """Margins, and gradients of the margins over ``target`` (−1: over the closest class), by each sample's weights.

        In the network's precision.
        """
        x = numbers_for(x, x.device, self.dtype)

        def one(w: Weights, a: Tensor, b: Tensor, k: Tensor) -> tuple[Weights, Tensor]:
            if self.batched:
                gradient, (_, margin) = grad_and_value(lambda v: _margins(self.fast, v, a, b, k), has_aux=True)(w)
                return gradient, margin
            with torch.enable_grad():
                leaves = {name: value.detach().requires_grad_() for name, value in w.items()}
                aimed, margin = _margins(self.fast, leaves, a, b, k)
                derivatives = torch.autograd.grad(
                    aimed, list(leaves.values()), allow_unused=True, materialize_grads=True
                )
            return dict(zip(leaves, derivatives, strict=True)), margin.detach()

        gradients, margins = self._each(one, weights, x, y, target)
        return margins, gradients

    def _each(self, function: Callable[..., Any], weights: Weights, *rows_of: Tensor) -> Any:
        """``function`` of every sample: batched by vmap, in a loop where the network has parts that vmap refuses."""
        if self.batched:
            try:
                return vmap(function)(weights, *rows_of)
            except (InputError, torch.OutOfMemoryError):
                raise
            except Exception:  # whatever torch, or the network, cannot do in a batch of weights
                self.batched = False
        count = len(rows_of[0])
        try:
            rows = [function({n: w[i] for n, w in weights.items()}, *(r[i] for r in rows_of)) for i in range(count)]
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a network raises whatever it likes
            raise not_followed(error) from error
        leaves = [torch.utils._pytree.tree_flatten(row) for row in rows]
        stacked = [torch.stack(column) for column in zip(*(leaf for leaf, _ in leaves), strict=True)]
        return torch.utils._pytree.tree_unflatten(stacked, leaves[0][1])


class _Part:
    """A few samples on their way through rising ε."""

    def __init__(self, search: _Search, x: Tensor, y: Tensor, streams: range, keep: bool) -> None:
        self.search, self.x, self.y, self.streams = search, x, y, streams
        exact = search.precise(numbers_for(x, x.device, torch.float64))
        self.predicted = exact.argmax(1)
        self.clean = _row_margin(exact, y)
        # Wrong classes, the closest first.
        right = torch.arange(exact.shape[1], device=y.device) == y[:, None]
        self.rivals = exact.masked_fill(right, -torch.inf).argsort(1, descending=True)[:, :-1]
        self.margin = self.clean.clone()
        self.wrong = self.predicted != y
        self.delta: Weights | None = None
        self.worst: Weights | None = None
        self.keep = keep

    def run(self, epsilon: float) -> Tensor:
        """Least margins found up to this ε."""
        if epsilon > 0:
            given_up = torch.zeros_like(self.wrong)
            for restart in range(self.search.restarts):
                rows = (~(self.wrong | (self.margin < 0) | given_up)).nonzero()[:, 0]
                if len(rows):
                    self._descend(epsilon, restart, rows, given_up)
        return self.margin.clone()

    def worst_weights(self) -> Weights:
        """The weights that gave the least margins, float64, on the CPU."""
        return {name: value.cpu().clone() for name, value in self._found().items()}

    def _descend(self, epsilon: float, restart: int, rows: Tensor, given_up: Tensor) -> None:
        """One run of the samples ``rows``; a sample leaves it when it flips or is given up."""
        search = self.search
        delta = self._start(restart, rows)
        best, best_delta = self.margin.new_full((len(rows),), torch.inf), delta
        momentum = {n: torch.zeros_like(d) for n, d in delta.items()}
        for step in range(search.steps + 1):
            weights = search.weights(delta, epsilon, search.dtype)
            aim = self._aim(restart, step, rows)
            margin, gradient = search.slopes(weights, self.x[rows], self.y[rows], aim)
            if restart:
                gradient = _with_momentum(momentum, gradient)
                momentum = gradient
            better = margin < best
            best = torch.where(better, margin.double(), best)
            best_delta = {n: torch.where(_like(better, d), d, best_delta[n]) for n, d in delta.items()}
            stay = torch.ones_like(better)
            hits = (margin < 0).nonzero()[:, 0]
            if len(hits):
                stay[hits] = ~(self._judge(epsilon, rows[hits], _take(delta, hits)) < 0)
            goal = search.goals.get(step)
            if goal is not None:
                hopeless = self.clean[rows] - best < goal * self.clean[rows]
                given_up[rows[hopeless]] = True
                stay &= ~hopeless
            size = 1 - step / search.steps
            delta = {n: (d - size * gradient[n].sign()).clamp(-1, 1) for n, d in delta.items()}
            if not stay.all():
                left = stay.nonzero()[:, 0]
                self._judge(epsilon, rows[~stay], _take(best_delta, (~stay).nonzero()[:, 0]))
                rows, best = rows[left], best[left]
                delta, best_delta, momentum = (_take(values, left) for values in (delta, best_delta, momentum))
            if not len(rows):
                return
        self._judge(epsilon, rows, best_delta)
        self._judge(epsilon, rows, {n: d.sign() for n, d in best_delta.items()})
        self._remember(rows, best_delta)

    def _aim(self, restart: int, step: int, rows: Tensor) -> Tensor:
        """The wrong class that this step of a run goes for; −1: whichever is closest now."""
        if restart == 0 or 2 * step >= self.search.steps or self.rivals.shape[1] == 1:
            return torch.full_like(rows, -1)
        return self.rivals[rows, restart % self.rivals.shape[1]]

    def _start(self, restart: int, rows: Tensor) -> Weights:
        """δ at the centre, at the worst of the last ε, or at random; each sample has its own random stream."""
        shapes = {name: theta.shape for name, (theta, _) in self.search.precise_box.items()}
        if restart == 0:
            return {
                n: torch.zeros(len(rows), *s, dtype=self.search.dtype, device=rows.device) for n, s in shapes.items()
            }
        if restart == 1 and self.delta is not None:
            return _take(self.delta, rows)
        drawn: dict[str, list[Tensor]] = {name: [] for name in shapes}
        for row in rows.tolist():
            stream = torch.Generator().manual_seed(self.streams[row] + 7_919 * restart)
            for name, shape in shapes.items():
                drawn[name].append(2 * torch.rand(shape, generator=stream, dtype=self.search.dtype) - 1)
        return {name: torch.stack(values).to(rows.device) for name, values in drawn.items()}

    def _judge(self, epsilon: float, rows: Tensor, delta: Weights) -> Tensor:
        """Margins in float64 with float64 weights inside the real box; the least ones are kept."""
        weights = self.search.weights(delta, epsilon, torch.float64)
        margin = self.search.margins(weights, self.x[rows], self.y[rows])
        better = (margin < self.margin[rows]).nonzero()[:, 0]
        self.margin[rows[better]] = margin[better]
        if self.keep:
            found = self._found()
            for name, values in weights.items():
                found[name][rows[better]] = values[better]
        return margin

    def _found(self) -> Weights:
        if self.worst is None:
            count = len(self.y)
            self.worst = {n: t.expand(count, *t.shape).clone() for n, (t, _) in self.search.precise_box.items()}
        return self.worst

    def _remember(self, rows: Tensor, delta: Weights) -> None:
        if self.delta is None:
            self.delta = {n: d.new_zeros(len(self.y), *d.shape[1:]) for n, d in delta.items()}
        for name, values in delta.items():
            self.delta[name][rows] = values


def _margin(model: Logits, weights: Weights, x: Tensor, y: Tensor) -> Tensor:
    """Min over k ≠ y of logit_y − logit_k of one sample."""
    return _margins(model, weights, x, y, torch.full_like(y, -1))[1]


def _margins(model: Logits, weights: Weights, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """logit_y − logit_target of one sample (−1: the least such difference), and the least one."""
    answer = functional_call(model, {f"network.{name}": value for name, value in weights.items()}, (x[None],))[0]
    classes = torch.arange(len(answer), device=answer.device)
    right = torch.where(classes == y, answer, 0).sum()
    least = right - torch.where(classes == y, -torch.inf, answer).amax()
    aimed = right - torch.where(classes == target, answer, 0).sum()
    return torch.where(target < 0, least, aimed), least


def _row_margin(answer: Tensor, y: Tensor) -> Tensor:
    right = torch.arange(answer.shape[1], device=answer.device) == y[:, None]
    return torch.where(right, answer, 0).sum(1) - torch.where(right, -torch.inf, answer).amax(1)


def _with_momentum(momentum: Weights, gradient: Weights) -> Weights:
    """Momentum times the sum so far, plus the gradient at a mean size of 1, tensor by tensor."""
    updated = {}
    for name, value in gradient.items():
        size = value.abs().reshape(len(value), -1).mean(1)
        updated[name] = MOMENTUM * momentum[name] + value / _like(size.clamp(min=1e-30), value)
    return updated


def _take(values: Weights, rows: Tensor) -> Weights:
    return {name: value[rows] for name, value in values.items()}


def _like(mask: Tensor, value: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (value.ndim - 1))
