"""The module at its own weights: every sample, several batch sizes, both precisions."""

from __future__ import annotations

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.calls import Call, alike
from thetabox.models.running import Running
from thetabox.verify.agreement.batches import FEW, at_once, repeated, ways
from thetabox.verify.agreement.given import asked, asked_in, logits
from thetabox.verify.agreement.nearness import (
    NEAR_OWN,
    around,
    at_zero,
    explained,
    near,
    nearness,
    outside,
    values,
)
from thetabox.verify.agreement.refusal import refuse
from thetabox.verify.network.replay import replay
from thetabox.verify.problem import Problem


def as_traced(problem: Problem, run: Running) -> bool | None:
    """Whether a run returns the numbers of the graph for a few samples; ``None`` where the module cannot be run so."""
    try:
        answer = asked(problem, run, slice(FEW)).double()
    except InputError:
        return None
    graph = replay(problem.network, run.read, run.inputs(problem.x[:FEW]), wide=run.wide).double().cpu()
    return answer.shape == graph.shape and near(answer, graph, nearness(run) if run.wide else NEAR_OWN)


class OwnForward:
    """The module at its own weights."""

    def __init__(self, problem: Problem, run: Running) -> None:
        self.problem, self.run = problem, run
        self.logits = torch.empty(0)
        self.calls: list[Call] = []
        self.sizes: list[int] = []
        # Ways in which the code asks other things of torch than in the batch of all.
        self.otherwise: list[tuple[int, str]] = []

    def compare_all(self, *, traced: bool = False) -> None:
        """Every sample, in one batch where memory allows, with its bounds at ε = 0; a few with the graph.

        Args:
            traced: the few are known to answer as the graph does.
        """
        problem, run = self.problem, self.run
        self.logits = logits(problem, run)
        self.calls = run.calls
        if not bool(self.logits.isfinite().all()):
            raise InputError("the network answers NaN or infinite logits at its own weights")
        if not traced:
            graph = replay(problem.network, run.read, run.inputs(problem.x[:FEW]), wide=run.wide)
            self._same(graph, slice(0, FEW), "its forward differs from what was traced")
        bounds, room = around(problem, slice(None), run), nearness(run)
        if bounds is None:
            bounds, room = at_zero(problem, slice(None), values(run)), NEAR_OWN
        beyond = outside(bounds, self.logits, room)
        if len(beyond):
            refuse(problem, f"its forward of sample {int(beyond[0])} lies outside the bounds at ε = 0")

    def compare_sizes(self) -> None:
        """A few samples in batches of several sizes, with gradients on and off, and in inference mode.

        Where the code then asks other things of torch than in the batch of all, every sample: a few may not show it.
        """
        count, network = len(self.problem.x), self.problem.network
        last = (count - 1) % at_once(network) + 1
        few = torch.arange(min(FEW, count))
        for size, mode in ways(network):
            taken = self._compare_size(repeated(few, size), mode)
            if taken and not alike(self.run.calls, size, self.calls, last):
                self.otherwise.append((size, mode))
                self._compare_every(size, mode)
            if taken and size not in self.sizes:
                self.sizes.append(size)

    def _compare_every(self, size: int, mode: str) -> None:
        """Every sample in a mode, and in batches of a size where it is the size that makes the code ask otherwise."""
        count, calls = len(self.problem.x), self.run.calls
        if mode != "no_grad":
            for places in torch.arange(count).split(at_once(self.problem.network)):
                self._compare_size(places, mode)
            if alike(self.run.calls, len(places), calls, size):
                return
        everything = torch.arange(-(-count // size) * size) % count
        for places in everything.split(size):
            self._compare_size(places, mode)

    def _compare_size(self, places: Tensor, mode: str) -> bool:
        """One batch; whether the network takes it."""
        size = len(places)
        try:
            answer = asked_in(self.problem, self.run, places, mode)
        except InputError:
            if size == len(self.problem.x):
                raise
            return False  # a batch that the network does not take is none that it answers otherwise
        self._same(answer, places, f"its answer in a batch of {size} differs from that in one of {len(self.logits)}")
        return True

    def _same(self, answer: Tensor, which: slice | Tensor, what: str) -> None:
        own, answer = self.logits[which], answer.double().cpu()
        same = own.shape == answer.shape and near(own, answer, nearness(self.run))
        if not same and (own.shape != answer.shape or not explained(self.problem, which, self.run, answer, own)):
            refuse(self.problem, what)
