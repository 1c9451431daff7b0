"""A stage of ``auto`` at one ε, in parts of some samples: each is a job by itself, and kept by the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from thetabox.verify.effort import Deadline, Meter
from thetabox.verify.search import bounds
from thetabox.verify.search.cascade import Stage, part_size
from thetabox.verify.search.chunkstore import ChunkStore
from thetabox.verify.search.failures import GaveUp, guarded
from thetabox.verify.search.question import Question
from thetabox.verify.unfinished import Pair, Unfinished


@dataclass(frozen=True)
class PartJob:
    """A part as it is given to a process.

    Attributes:
        stage: its name.
        epsilon, criterion: of the margins.
        members: indices of the samples.
        effort, least: forward passes that each may take, and that each pays in any case.
        proofs: that are open and go on, each with its promise.
        deadline: when to stop.
    """

    stage: str
    epsilon: float
    criterion: str
    members: Tensor
    effort: Tensor
    least: float
    proofs: Mapping[Pair, tuple[float, Any]]
    deadline: Deadline


@dataclass(frozen=True)
class PartResult:
    """What a process says of a part: bounds, effort that is left, promises and open proofs; or why it gave up."""

    bounds: Tensor | None = None
    left: Tensor | None = None
    promise: Tensor | None = None
    proofs: Mapping[Pair, tuple[float, Any]] = field(default_factory=dict)
    why: str = ""


def bound_part(question: Question, job: PartJob) -> PartResult:
    """Bound the margins of a part."""
    try:
        domain = guarded(partial(question.stage, job.stage)).domain
        meter = Meter(job.effort - job.least, job.deadline)
        kept: Unfinished[Any] | None = None
        if domain.resumes(job.criterion):
            kept = domain.unfinished = Unfinished(len(job.members), job.proofs)
        epsilon = torch.full((1, len(job.members)), job.epsilon, dtype=torch.float64)
        margins = partial(bounds.margins, domain, job.members, epsilon, question.labels, job.criterion, meter)
        try:
            lower = guarded(margins)[0]
        finally:
            domain.unfinished = None
    except GaveUp as error:
        return PartResult(why=str(error))
    if kept is None:
        return PartResult(lower, meter.left)
    promise = [kept.promise((n, job.epsilon)) for n in job.members.tolist()]
    return PartResult(lower, meter.left, torch.tensor(promise, dtype=torch.float64), kept.proofs)


@dataclass
class Part:
    """A part of a stage: which samples, and what it bounds of them (nothing where it gave up).

    Attributes:
        effort: forward passes that each of them could pay for it.
        promise: of each, as :class:`~thetabox.verify.unfinished.Unfinished` tells it, of a stage that can go on.
        more: whether these samples were in a part before, and were given more.
    """

    members: Tensor
    effort: Tensor
    bounds: Tensor | None = None
    why: str = ""
    promise: Tensor | None = None
    more: bool = False


@dataclass(frozen=True)
class Request:
    """A part that is wanted.

    Attributes:
        name: among the parts of its stage and ε; empty for one that was done before, whose open proofs are wanted.
        members: indices of the samples.
        effort: forward passes that each may take.
        least: those that each pays.
        more: whether these samples were in a part before.
    """

    name: str
    members: Tensor
    effort: Tensor
    least: float
    more: bool = False


@dataclass(frozen=True)
class Parts:
    """A stage at one ε.

    A part that the store holds is not computed again: an interrupted run goes on to the same end. Which samples stand
    in a part may differ from run to run, for their order is that of computed margins; one that holds others, or the
    same with other means, is computed anew.

    Attributes:
        stage: what is run.
        label: tells the stage's parts apart in the store.
        epsilon, criterion: of the margins.
        left: forward passes that each sample of all may still take; written over.
        store: keeps finished parts.
        deadline: when to stop.
        kept: open proofs, of a stage that can go on with more effort.
    """

    stage: Stage
    label: str
    epsilon: float
    criterion: str
    left: Tensor
    store: ChunkStore
    deadline: Deadline
    kept: Unfinished[Any]

    @property
    def resumes(self) -> bool:
        """Whether more effort goes on where a proof ended."""
        return self.stage.domain.resumes(self.criterion)

    @property
    def least(self) -> float:
        """Forward passes that a sample pays in any case."""
        return self.stage.passes(self.criterion)

    def over(self, todo: Tensor) -> list[Request]:
        """Those of the samples that can pay for it."""
        todo = todo[self.left[todo] >= self.least]
        parts = todo.split(part_size(self.stage)) if len(todo) else ()
        return [Request(str(place), some, self.left[some], self.least) for place, some in enumerate(parts)]

    def again(self, part: Part) -> Request:
        """A part of before once more: its open proofs are then at hand."""
        return Request("", part.members, part.effort, self.least)

    def held(self, request: Request) -> Part | None:
        """The part, if it was finished before."""
        if not request.name:
            return None
        keys = ("members", "given", "found", "left", *(("promise",) if self.resumes else ()))
        held = self.store.read_part(self._name(request), keys)
        asked = {"members": request.members, "given": request.effort}
        if held is None or not all(torch.equal(held[key], value) for key, value in asked.items()):
            return None
        self.left[request.members] = held["left"]
        return Part(request.members, request.effort, held["found"], promise=held.get("promise"), more=request.more)

    def job(self, request: Request) -> PartJob:
        """What a process is to do."""
        pairs = [(n, self.epsilon) for n in request.members.tolist()] if request.more else []
        proofs = {pair: kept for pair in pairs if (kept := self.kept.taken(pair)) is not None}
        return PartJob(
            self.stage.name,
            self.epsilon,
            self.criterion,
            request.members,
            request.effort,
            request.least,
            proofs,
            self.deadline,
        )

    def finished(self, request: Request, result: PartResult) -> Part:
        """Take in what came of it."""
        for pair, (promise, proof) in result.proofs.items():
            self.kept.keep(pair, proof, promise)
        if not request.name:
            return Part(request.members, request.effort)
        if result.bounds is None or result.left is None:
            self.left[request.members] = 0.0
            return Part(request.members, request.effort, why=result.why, more=request.more)
        self.left[request.members] = result.left
        tensors = {"members": request.members, "given": request.effort, "found": result.bounds, "left": result.left}
        if result.promise is not None:
            tensors["promise"] = result.promise
        self.store.write_part(self._name(request), tensors)
        return Part(request.members, request.effort, result.bounds, promise=result.promise, more=request.more)

    def _name(self, request: Request) -> str:
        return f"{self.stage.name}-{self.label}-{request.name}"
