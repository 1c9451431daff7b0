"""Projected gradient on the margins of a few samples, through rising ε, each sample with weights of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thetabox.measure.box_points import Weights
from thetabox.measure.inputs import numbers_for
from thetabox.measure.own_weights import OwnWeights
from thetabox.measure.two_precisions import margins

# A run is left when it took less than this share off the clean margin, after two steps, a quarter of all, and all.
# In runs that flipped a sample (LSNN and CNN) the shares were at least 0.23 after one step and 0.5 after a quarter.
GOALS = (0.05, 0.3, 0.5)
MOMENTUM = 0.5


@dataclass(frozen=True)
class Runs:
    """How the box is searched.

    Attributes:
        steps: gradient steps of one run.
        restarts: runs a sample and ε.
        goals: step → share of the clean margin that a run must have taken off by then.
    """

    steps: int
    restarts: int
    goals: dict[int, float]

    @classmethod
    def of(cls, steps: int, restarts: int, give_up: bool) -> Runs:
        """Runs that are left early, if that is wanted and they are long enough."""
        early = give_up and steps > 3
        return cls(steps, restarts, dict(zip((2, max(steps // 4, 3), steps), GOALS, strict=True)) if early else {})


class Descent:
    """A few samples on their way through rising ε."""

    def __init__(self, network: OwnWeights, runs: Runs, x: Tensor, y: Tensor, streams: range, keep: bool) -> None:
        self.network, self.runs, self.x, self.y, self.streams = network, runs, x, y, streams
        exact = network.precise(numbers_for(x, x.device, torch.float64))
        self.predicted = exact.argmax(1)
        self.clean = margins(exact, y)
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
            for restart in range(self.runs.restarts):
                rows = (~(self.wrong | (self.margin < 0) | given_up)).nonzero()[:, 0]
                if len(rows):
                    self._descend(epsilon, restart, rows, given_up)
        return self.margin.clone()

    def worst_weights(self) -> Weights:
        """The weights that gave the least margins, float64, on the CPU."""
        return {name: value.cpu().clone() for name, value in self._held().items()}

    def _descend(self, epsilon: float, restart: int, rows: Tensor, given_up: Tensor) -> None:
        """One run of the samples ``rows``; a sample leaves it when it flips or is given up."""
        network = self.network
        delta = self._start(restart, rows)
        best, best_delta = self.margin.new_full((len(rows),), torch.inf), delta
        momentum = {n: torch.zeros_like(d) for n, d in delta.items()}
        for step in range(self.runs.steps + 1):
            weights = network.weights(delta, epsilon, network.dtype)
            aim = self._aim(restart, step, rows)
            margin, gradient = network.slopes(weights, self.x[rows], self.y[rows], aim)
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
            goal = self.runs.goals.get(step)
            if goal is not None:
                hopeless = self.clean[rows] - best < goal * self.clean[rows]
                given_up[rows[hopeless]] = True
                stay &= ~hopeless
            size = 1 - step / self.runs.steps
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
        if restart == 0 or 2 * step >= self.runs.steps or self.rivals.shape[1] == 1:
            return torch.full_like(rows, -1)
        return self.rivals[rows, restart % self.rivals.shape[1]]

    def _start(self, restart: int, rows: Tensor) -> Weights:
        """δ at the centre, at the worst of the last ε, or at random; each sample has its own random stream."""
        shapes = {name: theta.shape for name, (theta, _) in self.network.tensors.items()}
        if restart == 0:
            return {
                n: torch.zeros(len(rows), *s, dtype=self.network.dtype, device=rows.device) for n, s in shapes.items()
            }
        if restart == 1 and self.delta is not None:
            return _take(self.delta, rows)
        drawn: dict[str, list[Tensor]] = {name: [] for name in shapes}
        for row in rows.tolist():
            stream = torch.Generator().manual_seed(self.streams[row] + 7_919 * restart)
            for name, shape in shapes.items():
                drawn[name].append(2 * torch.rand(shape, generator=stream, dtype=self.network.dtype) - 1)
        return {name: torch.stack(values).to(rows.device) for name, values in drawn.items()}

    def _judge(self, epsilon: float, rows: Tensor, delta: Weights) -> Tensor:
        """Margins in float64 with float64 weights inside the real box; the least ones are kept."""
        weights = self.network.weights(delta, epsilon, torch.float64)
        margin = self.network.margins(weights, self.x[rows], self.y[rows])
        better = (margin < self.margin[rows]).nonzero()[:, 0]
        self.margin[rows[better]] = margin[better]
        if self.keep:
            held = self._held()
            for name, values in weights.items():
                held[name][rows[better]] = values[better]
        return margin

    def _held(self) -> Weights:
        if self.worst is None:
            count = len(self.y)
            self.worst = {n: t.expand(count, *t.shape).clone() for n, (t, _) in self.network.tensors.items()}
        return self.worst

    def _remember(self, rows: Tensor, delta: Weights) -> None:
        if self.delta is None:
            self.delta = {n: d.new_zeros(len(self.y), *d.shape[1:]) for n, d in delta.items()}
        for name, values in delta.items():
            self.delta[name][rows] = values


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
