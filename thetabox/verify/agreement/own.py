"""The module at its own weights: every sample, several batch sizes, both precisions."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.running import Running
from thetabox.models.twins import NARROW
from thetabox.verify.agreement.batches import FEW, SIZES, repeated, sizes
from thetabox.verify.agreement.given import asked, logits
from thetabox.verify.agreement.nearness import (
    NEAR,
    NEAR_OWN,
    Evaluated,
    at_zero,
    explained,
    near,
    outside,
    values,
)
from thetabox.verify.agreement.refusal import refuse
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.network.replay import replay
from thetabox.verify.problem import Problem


def holds_narrow(problem: Problem) -> bool:
    """Whether anything in the network is of less than double precision."""
    return any(dtype in NARROW for graph in problem.network.graphs.values() for dtype in graph.dtypes.values())


def as_traced(problem: Problem, run: Running) -> bool | None:
    """Whether a run answers the numbers of the graph for a few samples; ``None`` where the module cannot be run so."""
    try:
        answer = asked(problem, run, slice(FEW)).double()
    except InputError:
        return None
    graph = replay(problem.network, run.read, run.inputs(problem.x[:FEW]), wide=run.wide).double().cpu()
    return answer.shape == graph.shape and near(answer, graph, NEAR if run.wide else NEAR_OWN)


class OwnForward:
    """The module at its own weights."""

    def __init__(self, problem: Problem, run: Running) -> None:
        self.problem, self.run = problem, run
        self.near = NEAR if run.wide else NEAR_OWN
        self.logits = torch.empty(0)
        self.sizes: list[int] = []

    def compare_all(self, *, traced: bool = False) -> None:
        """Every sample, in one batch where memory allows, with its bounds at ε = 0; a few with the graph.

        Args:
            traced: the few are known to answer as the graph does.
        """
        problem, run = self.problem, self.run
        self.logits = logits(problem, run)
        if not bool(self.logits.isfinite().all()):
            raise InputError("the network answers NaN or infinite logits at its own weights")
        if not traced:
            graph = replay(problem.network, run.read, run.inputs(problem.x[:FEW]), wide=run.wide)
            self._same(graph, slice(0, FEW), "its forward differs from what was traced")
        beyond = outside(at_zero(problem, slice(None), values(run)), self.logits, self.near)
        if len(beyond):
            refuse(problem, f"its forward of sample {int(beyond[0])} lies outside the bounds at ε = 0")

    def compare_sizes(self) -> None:
        """A few samples in batches of several sizes, with gradients on and off, and in inference mode."""
        few = torch.arange(min(FEW, len(self.problem.x)))
        for size in sizes(self.problem.network):
            places = repeated(few, size)
            try:
                answer = self._asked(places, SIZES.get(size, "no_grad"))
            except InputError:
                if size == len(self.problem.x):
                    raise
                continue  # a batch that the network does not take is none that it answers otherwise
            self.sizes.append(size)
            self._same(
                answer, places, f"its answer in a batch of {size} differs from that in one of {len(self.logits)}"
            )

    def _asked(self, places: Tensor, mode: str) -> Tensor:
        """In a mode of torch, where operators of the network's own take it in a run."""
        with suppress(*() if mode == "no_grad" else (InputError,)):
            return asked(self.problem, self.run, places, mode=mode)
        return asked(self.problem, self.run, places)

    def _same(self, answer: Tensor, which: slice | Tensor, what: str) -> None:
        own, answer = self.logits[which], answer.double().cpu()
        if own.shape == answer.shape:
            if near(own, answer, self.near):
                return
            if explained(self.problem, which, values(self.run), answer, self.near):
                return
        refuse(self.problem, what)


def compare_precision(problem: Problem, run: Running, wide: Tensor) -> None:
    """Every sample in the network's own precision: near the answers in double precision, or within its rounding."""
    own = logits(problem, run)
    size = torch.maximum(wide.abs(), own.abs()).amax(1, keepdim=True)
    apart = ~((own - wide).abs() <= NEAR_OWN * size).all(1)
    places = apart.nonzero().squeeze(1)
    if not len(places):
        return
    if run.dtype is torch.float32:
        rounding = Rounding(torch.float64, "float32")
    else:
        rounding = Evaluated(torch.float64, "real", 4.0 * torch.finfo(run.dtype).eps)
    try:
        bounds = at_zero(problem, places, None, rounding)
    except InputError:  # sums too long for any bound in this precision
        return
    # Of what overflowed nothing is known, neither of the number nor of its bounds.
    known = bounds.lower.isfinite() & bounds.upper.isfinite()
    told = Interval(torch.where(known, bounds.lower, -torch.inf), torch.where(known, bounds.upper, torch.inf))
    beyond = outside(told, torch.where(known, own[places], 0.0), NEAR_OWN)
    if len(beyond):
        name = str(run.dtype).removeprefix("torch.")
        refuse(problem, f"its forward of sample {int(places[beyond[0]])} in {name} lies outside the bounds at ε = 0")
