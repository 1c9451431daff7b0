"""The module with its parameters moved in place beside the graph with the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thetabox.errors import InputError, OneEpsilonAtATime
from thetabox.models.running import Running
from thetabox.verify.agreement.batches import FEW, at_once, repeated
from thetabox.verify.agreement.given import asked, asked_in
from thetabox.verify.agreement.nearness import NEAR_OWN, around, explained, near, nearness, outside
from thetabox.verify.agreement.refusal import refuse
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.network.kinds import kinds
from thetabox.verify.network.replay import replay
from thetabox.verify.problem import Problem
from thetabox.verify.search import bounds

# How far parameters are moved at least.
FAR = 0.05
# Points of a box: every parameter larger, every one smaller, a random corner, somewhere inside.
POINTS = ("larger", "smaller", "corner", "inside")


ALL_MOVED = "with all parameters moved, the module answers another thing than the traced graph"


class Moving:
    """Parameters at random points and corners of the box."""

    def __init__(self, problem: Problem, run: Running, names: list[str], few: int) -> None:
        self.problem, self.run, self.names = problem, run, names
        # Silent samples would show nothing, so the loudest are among the few.
        loud = problem.x.double().abs().flatten(1).amax(1).argsort(descending=True, stable=True)
        self.few = torch.cat([torch.arange(min(few, len(problem.x))), loud[:few]]).unique()
        self.own = {name: run.read(name).clone() for name in names}
        self.generator = torch.Generator().manual_seed(0)
        self.radius = {name: self._radius(name) for name in names}
        self.answers: list[tuple[Tensor, Tensor, Tensor]] = []

    def compare_all(self, reach: float, points: Sequence[str]) -> None:
        """All tensors moved, to several points; the module against the graph."""
        self.answers = []
        for point in points:
            self.run.move({name: self.moved(name, reach, point) for name in self.names})
            answer, rows = self._compare(ALL_MOVED, all_moved=True)
            # In its own precision it may be off by what rounding does there.
            ends = None if self.run.wide else around(self.problem, self.few[rows], self.run)
            slack = torch.zeros(len(rows)) if ends is None else (ends.upper - ends.lower).amax(1)
            self.answers.append((answer, rows, slack.nan_to_num(torch.inf)))

    def compare_bounds(self, epsilon: float) -> None:
        """What was answered last lies inside the certificate's own bounds at that ε, where the graph has a number."""
        inside = _plain_bounds(self.problem, self.few, epsilon)
        if inside is None:
            return
        # A wide run does not round to float32 what the network rounds in the middle, as the bounds do.
        rounds = any(kind.rounded for g in self.problem.network.graphs.values() for kind in kinds(g).values())
        room = NEAR_OWN if rounds or not self.run.wide else nearness(self.run)
        for answer, rows, slack in self.answers:
            ends = Interval(inside.lower[rows] - slack[:, None], inside.upper[rows] + slack[:, None])
            if len(outside(ends, answer, room)):
                refuse(self.problem, f"with its parameters moved by ε = {epsilon:g} its answer lies outside the bounds")

    def compare_sizes(self, sizes: Sequence[int], otherwise: Sequence[tuple[int, str]], *, whole: bool) -> None:
        """All tensors moved, in batches of several sizes, and in one of all samples if ``whole``.

        Where the code does ``otherwise``, in as many batches as hold all of the few, in the mode in which it does.
        """
        self.run.move({name: self.moved(name, FAR, "larger") for name in self.names})
        count = len(self.problem.x)
        rest = torch.arange(count)
        everything = torch.cat([self.few, rest[~torch.isin(rest, self.few)]])
        everything = everything[: max(len(self.few), at_once(self.problem.network)) if whole else len(self.few)]
        graph = self.graph(everything)
        expected = torch.full((count, *graph.shape[1:]), torch.nan, dtype=torch.float64)
        expected[everything] = graph
        batches = [(repeated(self.few, n), "no_grad") for n in sizes]
        for n, mode in otherwise:
            batches += [(part, mode) for part in repeated(self.few, -(-len(self.few) // n) * n).split(n)]
        for places, mode in [*batches, (everything, "no_grad")] if whole else batches:
            answer = asked_in(self.problem, self.run, places, mode).double()
            if not self.same(answer, expected[places], places):
                refuse(self.problem, f"{ALL_MOVED} in a batch of {len(places)}")
        self.run.move(self.own)

    def compare_alone(self, name: str) -> None:
        """One tensor moved."""
        self.run.move({name: self.moved(name, FAR, "corner")})
        self._compare(f"moving {name!r} does not change the module's answer as it changes that of the traced graph")
        self.run.move({name: self.own[name]})

    def moved(self, name: str, reach: float, point: str) -> Tensor:
        own = self.own[name]
        drawn = 2.0 * torch.rand(own.shape, generator=self.generator, dtype=torch.float64) - 1.0
        drawn = (drawn if point == "inside" else drawn.sign()).to(own.device)
        if point in ("larger", "smaller"):
            up = 1.0 if point == "larger" else -1.0
            drawn = torch.where(own < 0, -up, up).to(torch.float64)
        return own + drawn * (self.radius[name] * reach)

    def _radius(self, name: str) -> Tensor:
        """At ε = 1; a little inside the box, whose ends are rounded outward as those of a move are not."""
        factor = self.problem.tensors.factors[id(self.problem.tensors.values[name])]
        return self.problem.settings.box.unit_radius(self.own[name].double()) * (factor * (1.0 - 2.0**-40))

    def graph(self, places: Tensor | None = None) -> Tensor:
        x = self.run.inputs(self.problem.x[self.few if places is None else places])
        return replay(self.problem.network, self.run.read, x, wide=self.run.wide).double().cpu()

    def same(self, answer: Tensor, expected: Tensor, places: Tensor, run: Running | None = None) -> bool:
        """Whether two answers at the weights as they are moved in a run are one, but for rounding.

        Where the graph has no number the box reaches a pole, and nothing can be proven of that sample.
        """
        if answer.shape != expected.shape:
            return False
        rows, run = numbers(expected), run or self.run
        if not len(rows) or near(answer[rows], expected[rows], nearness(run)):
            return True
        return explained(self.problem, places[rows], run, answer[rows], expected[rows])

    def _compare(self, what: str, *, all_moved: bool = False) -> tuple[Tensor, Tensor]:
        """The module's answers, once they are known to be those of the graph, and the rows in which it has numbers."""
        answer, graph = asked(self.problem, self.run, self.few).double(), self.graph()
        if not self.same(answer, graph, self.few):
            refuse(self.problem, what, self._culprit() if all_moved else None)
        rows = numbers(graph)
        return answer[rows], rows

    def _culprit(self) -> str | None:
        """The tensor whose movement alone shows the difference."""
        self.run.move(self.own)
        for name in self.names:
            try:
                self.compare_alone(name)
            except InputError:
                return name
            finally:
                self.run.move(self.own)
        return None


def moved_far(problem: Problem, run: Running) -> dict[str, Tensor]:
    """Values of all parameters in the box, at a corner that is far from their own."""
    moving = Moving(problem, run, problem.tensors.boxed, FEW)
    return {name: moving.moved(name, FAR, "corner") for name in moving.names}


def numbers(answer: Tensor) -> Tensor:
    """Rows without an infinite number or none at all."""
    return answer.isfinite().all(1).nonzero().squeeze(1)


def _plain_bounds(problem: Problem, which: Tensor, epsilon: float) -> Interval | None:
    """The certificate's own bounds, where intervals have any."""
    try:
        return bounds.logits(PlainIntervals(problem), which, torch.full((1, len(which)), epsilon, dtype=torch.float64))
    except OneEpsilonAtATime:
        return None
