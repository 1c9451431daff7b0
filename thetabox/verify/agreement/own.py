"""The module at its own weights: every sample, several batch sizes, both precisions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.calls import Call, alike
from thetabox.models.running import Running
from thetabox.verify.agreement.batches import FEW, LARGE, at_once, repeated, ways
from thetabox.verify.agreement.given import RecordedRun, all_logits, logits_in, logits_of
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
from thetabox.verify.agreement.precision import holds_narrow
from thetabox.verify.agreement.refusal import refuse
from thetabox.verify.network.replay import replay
from thetabox.verify.problem import Problem


class OwnForward:
    """The module at its own weights.

    Args:
        problem: of the module.
        run: in double precision, or its own.

    Attributes:
        logits: of every sample.
        calls: what the code asked of torch for all of them, in the last batch if memory holds several.
        batch: samples of that.
        sizes: of batches that the network takes.
        otherwise: ways in which the code asks other things of torch than in the batch of all.
    """

    def __init__(self, problem: Problem, run: Running) -> None:
        self.problem, self.run = problem, run
        self.logits = torch.empty(0)
        self.calls: Sequence[Call] = []
        self.batch = (len(problem.x) - 1) % at_once(problem.network) + 1
        self.sizes: list[int] = []
        self.otherwise: list[tuple[int, str]] = []
        self._few = torch.arange(min(FEW, len(problem.x)))
        # The run of the few, and whether it returns what the graph does.
        self._recorded: RecordedRun | None = None
        self._traced: bool | None = None

    def is_traced(self) -> bool | None:
        """Whether the module returns for a few samples what the graph does; ``None`` where it cannot be run so."""
        problem, run = self.problem, self.run
        try:
            logits = logits_of(problem, run, self._few).double()
        except InputError:
            return None
        self._recorded = logits, run.calls
        graph = self._graph(self._few)
        self._traced = logits.shape == graph.shape and near(logits, graph, nearness(run) if run.wide else NEAR_OWN)
        return self._traced

    def compare_all(self) -> None:
        """Every sample, in one batch where memory allows, with its bounds at ε = 0; a few with the graph.

        In one of many where a run in the network's own precision follows, in the batch that the user has: the two sizes
        in one. Where that fails, in the user's, and :meth:`compare_sizes` says which size it is.
        """
        problem, run = self.problem, self.run
        narrow_follows = run.wide and holds_narrow(problem)
        if narrow_follows and problem.x_as_given is None and len(problem.x) < LARGE <= at_once(problem.network):
            with suppress(InputError):
                everything = repeated(torch.arange(len(problem.x)), LARGE)
                self._compare_logits(run(problem.x[everything]).double())
                self.batch = LARGE
                return
        self._compare_logits(all_logits(problem, run))

    def compare_as_given(self) -> None:
        """Every sample in the batch that the user has, where that was not made."""
        if self.batch == LARGE != len(self.problem.x):
            self.run.recording = True
            self._compare_size(torch.arange(len(self.problem.x)), "no_grad")

    def every_way(self) -> Iterator[tuple[Tensor, str]]:
        """A few samples and a mode of torch for each way in which the code asks other things of torch."""
        for size, mode in [(len(self._few), "no_grad"), (self.batch, "no_grad"), *self.otherwise]:
            yield self.problem.x[repeated(self._few, size)], mode

    def _compare_logits(self, logits: Tensor) -> None:
        """Logits of every sample; what is more than that, of the first ones again."""
        problem, run = self.problem, self.run
        count = len(problem.x)
        self.logits, self.calls = logits[:count], run.calls
        batch = repeated(torch.arange(count), len(logits))
        self._same(logits, batch, "its forward differs within a batch", slice(count, None))
        if not bool(self.logits.isfinite().all()):
            raise InputError("the network returns NaN or infinite logits at its own weights")
        if not self._traced:
            self._same(self._graph(self._few), self._few, "its forward differs from what was traced")
        bounds, tolerance = around(problem, slice(None), run), nearness(run)
        if bounds is None:
            bounds, tolerance = at_zero(problem, slice(None), values(run)), NEAR_OWN
        beyond = outside(bounds, self.logits, tolerance)
        if len(beyond):
            refuse(problem, f"its forward of sample {int(beyond[0])} lies outside the bounds at ε = 0")

    def compare_sizes(self) -> None:
        """A few samples in batches of several sizes, with gradients on and off, and in inference mode.

        Where the code then asks other things of torch than in the batch of all, every sample: a few may not show it.
        """
        for size, mode in ways(self.problem.network):
            if mode == "no_grad" and size == self.batch == LARGE:
                recorded: RecordedRun | None = self.logits[repeated(self._few, size)], self.calls
            else:
                recorded = self._recorded if (size, mode) == (len(self._few), "no_grad") else None
            calls = self._compare_size(repeated(self._few, size), mode, recorded)
            if calls is None:
                continue
            if not alike(calls, size, self.calls, self.batch):
                self.otherwise.append((size, mode))
                self._compare_every(size, mode, calls)
            if size not in self.sizes:
                self.sizes.append(size)

    def _compare_every(self, size: int, mode: str, calls: Sequence[Call]) -> None:
        """Every sample in a mode, and in batches of a size where it is the size that makes the code ask otherwise."""
        count = len(self.problem.x)
        if mode != "no_grad":
            for samples in torch.arange(count).split(at_once(self.problem.network)):
                calls_now = self._compare_size(samples, mode)
            if calls_now is not None and alike(calls_now, len(samples), calls, size):
                return
        everything = torch.arange(-(-count // size) * size) % count
        for samples in everything.split(size):
            self._compare_size(samples, mode)

    def _compare_size(self, samples: Tensor, mode: str, recorded: RecordedRun | None = None) -> Sequence[Call] | None:
        """One batch, unless that run is recorded; what the code asked of torch, ``None`` where the network takes none.

        A batch that it does not take is none that it returns otherwise.
        """
        size = len(samples)
        try:
            logits, calls = recorded or (logits_in(self.problem, self.run, samples, mode), self.run.calls)
        except InputError:
            if size == len(self.problem.x):
                raise
            return None
        self._same(logits, samples, f"its answer in a batch of {size} differs from that in one of {self.batch}")
        return calls

    def _same(self, logits: Tensor, batch: Tensor, what: str, rows: slice = slice(None)) -> None:
        """Hold what was returned for a batch, or some rows of it, against what is known of its samples."""
        expected, logits = self.logits[batch], logits.double().cpu()
        if expected.shape != logits.shape:
            refuse(self.problem, what)
        expected, logits = expected[rows], logits[rows]
        if not near(expected, logits, nearness(self.run)) and not explained(
            self.problem, batch[rows], self.run, logits, expected, lambda: self._graph(batch)[rows]
        ):
            refuse(self.problem, what)

    def _graph(self, batch: Tensor) -> Tensor:
        """What the graph returns for a batch at the module's own weights."""
        x = self.run.inputs(self.problem.x[batch])
        return replay(self.problem.network, self.run.read, x, wide=self.run.wide).double().cpu()
