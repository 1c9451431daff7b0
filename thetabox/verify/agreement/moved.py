"""The module with its parameters moved in place beside the graph with the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from thetabox.errors import InputError, OneEpsilonAtATime
from thetabox.models.running import Running
from thetabox.verify.agreement.batches import at_once, repeated
from thetabox.verify.agreement.claims import Observed
from thetabox.verify.agreement.given import logits_in, logits_of
from thetabox.verify.agreement.nearness import NEAR_OWN, around, explained, jumps, near, nearness, outside
from thetabox.verify.agreement.points import FAR, POINTS, BoxPoints
from thetabox.verify.agreement.refusal import refuse
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.network.kinds import kinds
from thetabox.verify.network.replay import replay
from thetabox.verify.problem import Problem
from thetabox.verify.search import bounds

ALL_MOVED = "with all parameters moved, the module returns another thing than the traced graph"


class Moving:
    """A module and its graph with parameters at random points and corners of the box.

    Args:
        problem: of the module.
        run: of the module.
        names: of the parameters.
        few: so many of the first samples, and of the loudest, stand for all.

    Attributes:
        few: which samples those are.
        x: their inputs.
        points: to which the parameters are moved.
        corner: one of them that is far, whatever the certificate's ε.
        expected: what the graph returns there.
    """

    def __init__(self, problem: Problem, run: Running, names: list[str], few: int) -> None:
        self.problem, self.run, self.names = problem, run, names
        # Silent samples would show nothing, so the loudest are among the few.
        loud = problem.x.double().abs().flatten(1).amax(1).argsort(descending=True, stable=True)
        self.few = torch.cat([torch.arange(min(few, len(problem.x))), loud[:few]]).unique()
        self.x = run.inputs(problem.x[self.few])
        self.points = BoxPoints(problem, run, names)
        self.corner = self.points.at(FAR, "corner")
        self.expected = torch.empty(0)
        self._returned: list[tuple[Tensor, Tensor, Tensor]] = []

    def observed(self, epsilon: float) -> list[Observed]:
        """What the network returned at the points of the box of that ε; nothing where rounding may become anything."""
        if not self.run.wide or jumps(self.problem):
            return []
        return [Observed(epsilon, self.few[rows], logits, NEAR_OWN) for logits, rows, _ in self._returned]

    def compare_corner(self) -> None:
        """The module with all tensors at the corner, where they stay, against the graph."""
        self.expected = self._compare(ALL_MOVED, self.corner)[1]

    def compare_points(self, epsilon: float) -> None:
        """The module at several points of the box of that ε against the graph.

        What it returns lies inside the certificate's own bounds, where the graph has a number.
        """
        self._returned = []
        for point in POINTS:
            logits, expected = self._compare(ALL_MOVED, self.points.at(epsilon, point))
            rows = numbers(expected)
            # In its own precision it may be off by what rounding does there.
            ends = None if self.run.wide else around(self.problem, self.few[rows], self.run)
            slack = torch.zeros(len(rows)) if ends is None else (ends.upper - ends.lower).amax(1)
            self._returned.append((logits[rows], rows, slack.nan_to_num(torch.inf)))
        self.back(self.names)
        self._compare_bounds(epsilon)

    def _compare_bounds(self, epsilon: float) -> None:
        inside = _plain_bounds(self.problem, self.few, epsilon)
        if inside is None:
            return
        # A wide run does not round to float32 what the network rounds in the middle, as the bounds do.
        rounds = any(kind.rounded for g in self.problem.network.graphs.values() for kind in kinds(g).values())
        tolerance = NEAR_OWN if rounds or not self.run.wide else nearness(self.run)
        for logits, rows, slack in self._returned:
            ends = Interval(inside.lower[rows] - slack[:, None], inside.upper[rows] + slack[:, None])
            if len(outside(ends, logits, tolerance)):
                refuse(self.problem, f"with its parameters moved by ε = {epsilon:g} its answer lies outside the bounds")

    def compare_sizes(self, sizes: Sequence[int]) -> None:
        """All tensors at the corner, in batches of several sizes."""
        for size in sizes:
            rows = repeated(torch.arange(len(self.few)), size)
            self._compare_batch(self.few[rows], self.expected[rows], "no_grad")

    def compare_otherwise(self, ways: Sequence[tuple[int, str]]) -> None:
        """The few at the corner, in batches of sizes and in modes in which the code does otherwise."""
        for size, mode in ways:
            for rows in repeated(torch.arange(len(self.few)), -(-len(self.few) // size) * size).split(size):
                self._compare_batch(self.few[rows], self.expected[rows], mode)

    def compare_whole(self) -> None:
        """All samples at the corner, in one batch where memory allows."""
        rest = torch.arange(len(self.problem.x))
        everything = torch.cat([self.few, rest[~torch.isin(rest, self.few)]])
        everything = everything[: max(len(self.few), at_once(self.problem.network))]
        self._compare_batch(everything, self.graph(everything), "no_grad")

    def _compare_batch(self, samples: Tensor, expected: Tensor, mode: str) -> None:
        logits = logits_in(self.problem, self.run, samples, mode).double()
        if not self.same(logits, expected, samples):
            refuse(self.problem, f"{ALL_MOVED} in a batch of {len(samples)}")

    def compare_alone(self, name: str) -> None:
        """One tensor moved; the module against the graph."""
        what = f"moving {name!r} does not change the module's answer as it changes that of the traced graph"
        self._compare(what, {name: self.corner[name]})
        self.back([name])

    def back(self, names: list[str]) -> None:
        """The named tensors at their own values again."""
        self.run.move({name: self.points.own[name] for name in names})

    def graph(self, samples: Tensor | None = None) -> Tensor:
        """What the graph returns for the few samples, or others, at the weights as they are moved in the run."""
        x = self.x if samples is None else self.run.inputs(self.problem.x[samples])
        return replay(self.problem.network, self.run.read, x, wide=self.run.wide).double().cpu()

    def same(self, logits: Tensor, expected: Tensor, samples: Tensor, run: Running | None = None) -> bool:
        """Whether logits at the weights as they are moved in a run are those that are expected, but for rounding.

        Where the graph has no number the box reaches a pole, and nothing can be proven of that sample.
        """
        if logits.shape != expected.shape:
            return False
        run = run or self.run
        if near(logits, expected, nearness(run)):
            return True
        rows = numbers(expected)
        if not len(rows) or near(logits[rows], expected[rows], nearness(run)):
            return True
        graph = (lambda: self.graph(samples)[rows]) if run is self.run else None
        return explained(self.problem, samples[rows], run, logits[rows], expected[rows], graph)

    def _compare(self, what: str, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits of the module and of the graph at moved weights, once they are known to be the same."""
        self.run.move(values)
        logits, expected = logits_of(self.problem, self.run, self.few).double(), self.graph()
        if not self.same(logits, expected, self.few):
            refuse(self.problem, what, self._culprit() if what == ALL_MOVED else None)
        return logits, expected

    def _culprit(self) -> str | None:
        """The tensor whose movement alone shows the difference."""
        self.run.move(self.points.own)
        for name in self.names:
            try:
                self.compare_alone(name)
            except InputError:
                return name
            finally:
                self.run.move(self.points.own)
        return None


def numbers(logits: Tensor) -> Tensor:
    """Rows without an infinite number or none at all."""
    return logits.isfinite().all(1).nonzero().squeeze(1)


def _plain_bounds(problem: Problem, which: Tensor, epsilon: float) -> Interval | None:
    """The certificate's own bounds, where intervals have any."""
    try:
        rows = torch.full((1, len(which)), epsilon, dtype=torch.float64)
        return bounds.logits(PlainIntervals(problem.with_ending), which, rows)
    except OneEpsilonAtATime:
        return None
