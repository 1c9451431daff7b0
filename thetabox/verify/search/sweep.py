"""Margins of a sweep over all samples: of one domain, or of ``auto``'s stages, each beside plain intervals.

Each ε goes its own way: nothing that is said at one depends on the others of the sweep.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.verify import domains
from thetabox.verify.domain import Domain
from thetabox.verify.effort import Deadline, Meter, OutOfTime
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.problem import Problem, Progress
from thetabox.verify.search import bounds, cascade, rounds, surplus
from thetabox.verify.search.chunkstore import ChunkStore
from thetabox.verify.search.failures import insisted
from thetabox.verify.search.parts import Part, Parts
from thetabox.verify.search.question import Question
from thetabox.verify.unfinished import Unfinished
from thetabox.workers import Pool


@dataclass
class SweepResult:
    """What was proven.

    Attributes:
        margin: proven lower bounds ``[E, N]``; minus infinity where nothing is known.
        domain: the dearest one that ran.
        finished: nothing was left undone for want of time.
        by: name of each stage, plain intervals first → how many samples it proved at each ε, ``[E]``.
        left_out: stage → why it gave up, or was not begun; if no domain would take the network, domain → why.
    """

    margin: Float[Tensor, "levels samples"]
    domain: Domain
    finished: bool = True
    by: dict[str, list[int]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepTask:
    """What is to be proven, and what the run has at hand.

    Attributes:
        question, sweep, criterion: what to prove.
        pool: does the parts.
        store: where finished parts are kept.
        progress: called with pairs that the present stage need not treat any more, and pairs in all.
        deadline: when to stop.
    """

    question: Question
    sweep: Float[Tensor, " levels"]
    criterion: str
    pool: Pool
    store: ChunkStore
    progress: Progress | None = None
    deadline: Deadline = field(default_factory=Deadline)

    @property
    def problem(self) -> Problem:
        """The problem in question."""
        return self.question.problem

    @property
    def labels(self) -> Int[Tensor, " samples"]:
        """Of its samples."""
        return self.question.labels

    @property
    def pairs(self) -> int:
        """Samples times ε."""
        return len(self.labels) * len(self.sweep)

    def tell(self, done: int) -> None:
        """Report how many pairs need no more."""
        if self.progress is not None:
            self.progress(done, self.pairs)


def in_domain(task: SweepTask) -> SweepResult:
    """In the one domain that the settings name, every sample at every ε; a sound one intersected with intervals."""
    name = task.problem.settings.domain
    if name == PlainIntervals.name:
        return insisted(name, partial(grid, task, name))
    domain = insisted(name, partial(task.question.domain, name))
    beside = grid(replace(task, progress=None), PlainIntervals.name) if domain.sound else None
    proof = insisted(name, partial(grid, task, name))
    if beside is not None:
        proof.margin = torch.maximum(proof.margin, beside.margin)
        proof.finished &= beside.finished
    return proof


def in_stages(task: SweepTask, clean: Float[Tensor, " samples"], effort: float) -> SweepResult:
    """``auto``: plain intervals on everything, then each stage on the samples and ε that are still open.

    Args:
        task: what to prove.
        clean: margins of the unperturbed network; nothing dearer is tried where one is not above 0.
        effort: forward passes for each sample and ε that everything after plain intervals may take; what samples leave
            of it is for others at the same ε (:mod:`~thetabox.verify.search.surplus`).
    """
    plain = PlainIntervals.name
    proof = insisted(plain, partial(grid, task, plain))
    proof.by[plain] = _counts(proof.margin)
    left = torch.full_like(proof.margin, effort)
    # Where the time ends the work, the samples far from a decision boundary were worth most.
    order = clean.argsort(descending=True, stable=True)
    order = order[clean[order] > 0]
    least = 0.0
    for stage in cascade.stages(task.problem, proof.left_out) if effort and proof.finished else ():
        if not bool((_open(proof.margin)[:, order]).any()):
            break
        least += stage.passes(task.criterion)
        if least > effort:
            proof.left_out[stage.name] = (
                f"it takes {least:g} forward passes for a sample and ε at least, cheaper stages included; the effort "
                f"is {effort:g}"
            )
            break
        task.question.stages[stage.name] = stage
        try:
            _in_stage(task, stage, order, left, proof)
        except OutOfTime:
            proof.finished = False
            break
    task.tell(task.pairs)
    return proof


def _in_stage(task: SweepTask, stage: cascade.Stage, order: Tensor, left: Tensor, proof: SweepResult) -> None:
    """One stage on everything that is open at each ε; writes what it proves and takes into ``proof`` and ``left``."""
    before = proof.margin.clone()
    open_ = _open(before)
    waiting = int(open_.sum())
    reasons: dict[tuple[int, int], str] = {}
    most = surplus.MOST_KEPT // (rounds.AT_ONCE if task.pool.several else 1)

    def lines() -> Iterator[tuple[Parts, rounds.Line]]:
        for level, epsilon in enumerate(task.sweep.tolist()):
            parts = Parts(
                stage, str(level), epsilon, task.criterion, left[level], task.store, task.deadline, Unfinished(most)
            )
            yield parts, surplus.spent(parts, order[open_[level, order]], order)

    def note(level: int, number: int, part: Part) -> None:
        nonlocal waiting
        if not part.more:
            waiting -= len(part.members)
            task.tell(task.pairs - waiting)
        if part.bounds is None:
            # The proofs so far stand; what this stage cannot do no dearer one of its kind will.
            reasons[level, number] = part.why
            return
        proof.domain = stage.domain
        proof.margin[level, part.members] = torch.maximum(proof.margin[level, part.members], part.bounds)

    try:
        rounds.run(task.pool, lines(), task.deadline, note)
    finally:
        if reasons:
            proof.left_out.setdefault(stage.name, reasons[min(reasons)])
        if proof.domain is stage.domain:
            proof.by[stage.name] = _counts((proof.margin > 0) & ~(before > 0))


@dataclass(frozen=True)
class Chunk:
    """Some samples, each at some ε ``[levels, samples]``, as a job: in which domain, by which criterion, until when."""

    domain: str
    criterion: str
    members: Tensor
    epsilon: Tensor
    deadline: Deadline


def bound_chunk(question: Question, chunk: Chunk) -> Float[Tensor, "levels samples"]:
    """Margins of a chunk."""
    domain, meter = question.domain(chunk.domain), Meter(deadline=chunk.deadline)
    return bounds.margins(domain, chunk.members, chunk.epsilon, question.labels, chunk.criterion, meter)


def grid(task: SweepTask, name: str) -> SweepResult:
    """Margins of every sample at every ε in one domain, in chunks that the store keeps."""
    domain = task.question.domain(name)
    margin = torch.full((len(task.sweep), len(task.labels)), -torch.inf, dtype=torch.float64)
    proof = SweepResult(margin, domain)
    # Samples of one class together: the margin's products are one for each class of a chunk.
    order = torch.argsort(task.labels, stable=True)
    together = [slice(None)] if domain.shares else [slice(e, e + 1) for e in range(len(task.sweep))]
    size = max(1, domain.samples_at_once(1))
    done = 0

    def take(levels: slice, members: Tensor, part: Tensor) -> None:
        nonlocal done
        margin[levels, members] = part
        done += part.numel()
        task.tell(done)

    away: dict[int, tuple[slice, Tensor, tuple[int, int, str]]] = {}
    for levels in together:
        prefix = f"{name}-" if domain.shares else f"{name}-{levels.start}-"
        for members, start in zip(order.split(size), range(0, len(order), size), strict=True):
            where = (start, start + len(members), prefix)
            part = task.store.read(*where)
            if part is not None:
                take(levels, members, part)
                continue
            epsilon = task.sweep[levels, None].expand(-1, len(members))
            chunk = Chunk(name, task.criterion, members, epsilon, task.deadline)
            away[task.pool.add(bound_chunk, chunk)] = levels, members, where
    try:
        for number, part in task.pool.answers(task.deadline.check):
            levels, members, (start, stop, prefix) = away.pop(number)
            task.store.write(start, stop, part, prefix)
            take(levels, members, part)
    except OutOfTime:
        proof.finished = False
    return proof


def recorded(proof: SweepResult, effort: float | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the certificate: those of the domain, or what ``auto`` did."""
    if effort is None:
        return domains.recorded(options)
    facts: dict[str, Any] = domains.recorded({"effort": effort}) | {"proven_by": proof.by}
    return facts | ({"left_out": proof.left_out} if proof.left_out else {})


def _open(margin: Tensor) -> Tensor:
    return ~(margin > 0)


def _counts(proven: Tensor) -> list[int]:
    counts: list[int] = (proven > 0).sum(1).tolist()
    return counts
