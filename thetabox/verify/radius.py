"""Certified radii: how large ε may be before a sample is no longer proven."""

from __future__ import annotations

import warnings
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.verify import agreement, arguments, domains
from thetabox.verify.effort import DEFAULT, Deadline, Meter
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.problem import Progress
from thetabox.verify.radii import Radii
from thetabox.verify.search import bounds, cascade
from thetabox.verify.search.failures import GaveUp, guarded, insisted
from thetabox.verify.search.first_order import first_order_radius
from thetabox.verify.search.largest_proven import FLOOR, largest_proven, searched_range
from thetabox.verify.search.question import Question
from thetabox.workers import Pool, check_executor

# Plain intervals prove about this share of the first-order radius of a network trained the standard way.
INTERVAL_SHARE = 16.0


def certified_radius(
    model: nn.Module,
    x: arguments.Inputs,
    y: arguments.Array,
    *,
    domain: str = "auto",
    max_epsilon: float = 1.0,
    rtol: float = 1e-2,
    box: Box | None = None,
    criterion: str = "margin",
    arithmetic: str = "real",
    precision: str = "float64",
    device: str = "auto",
    options: dict[str, Any] | None = None,
    progress: Progress | None = None,
    timeout: float | None = None,
    details: bool = False,
    executor: Executor | None = None,
) -> Float[Tensor, " samples"] | Radii:
    """Largest proven ε of each sample, searched for all samples at once from the first-order estimate.

    Each radius r was itself proven; r (1 + rtol) was tried and not proven, or r is ``max_epsilon``. It is 0 where
    the network is wrong, or where nothing at or above 1e-9 could be proven. ``auto`` searches with plain intervals and
    goes on upward from there with each dearer stage that the effort allows; r (1 + rtol) was tried in the last of them.
    Its ``effort`` is that of each trial, one sample at one ε.

    Args:
        model, x, y, domain, box, criterion, arithmetic, precision, device, options: as for :func:`certify`.
        max_epsilon: where the search ends.
        rtol: relative resolution.
        progress: called with samples done and samples in all.
        timeout: seconds after which every search stops with what it has proven; a warning says so, and ``finished`` of
            the details.
        details: return :class:`Radii` instead of the radii alone.
        executor: whose workers search (:mod:`thetabox.workers`); this process where ``None``. The radii are the same.

    Raises:
        InputError: anything wrong with what was given.

    Example:
        >>> import torch, thetabox as tb
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        >>> x, y = torch.eye(2), torch.tensor([0, 1])
        >>> tb.certified_radius(model, x, y, rtol=1e-3).round(decimals=2)
        tensor([0.3300, 0.3300], dtype=torch.float64)
    """
    deadline = Deadline(arguments.seconds(timeout))
    arguments.check_progress(progress)
    check_executor(executor)
    chosen = arguments.settings(domain, box, arithmetic, precision, device, options)
    arguments.check_criterion(criterion)
    top, rtol = searched_range("max_epsilon", max_epsilon, rtol)
    asked = arguments.network(model, x, chosen)
    model, inputs = asked.model, asked.x
    labels = arguments.labels(y, len(inputs))
    problem, agreed = agreement.checked_problem(
        model,
        chosen,
        inputs,
        torch.tensor([FLOOR, agreement.FAR], dtype=torch.float64),
        asked.x_as_given,
    )
    clean = agreed.logits
    arguments.check_labels(labels, clean.shape[1])
    right = clean.argmax(1) == labels
    start = first_order_radius(problem.model, inputs, labels, chosen.box)
    effort = float(chosen.options.get("effort", DEFAULT))
    question, how = Question(problem, labels), SearchSettings(criterion, top, rtol, deadline)
    with sound_kernels(), Pool(executor, question) as pool:
        search = RadiusSearch(question, how, pool, progress)
        if domain == domains.AUTO:
            radius = search.in_stages(right, start, arguments.margins_of(clean, labels), effort)
        else:
            insisted(domain, partial(question.domain, domain))
            first = start / INTERVAL_SHARE if domain == "interval" else start
            radius = insisted(domain, partial(search.over, domain, right, first))
        if domains.is_sound(domain):
            # What is certified at a radius is so at all smaller ε: the sign of the margins.
            tried = torch.tensor([0.0, agreement.FAR], dtype=torch.float64)
            claimed = torch.where(radius >= tried[:, None].clamp(min=FLOOR), 0.0, -torch.inf)
            agreement.check_margins(problem, agreed.observed, labels, tried, claimed)
    if not details:
        if deadline.passed:
            warnings.warn(f"the time of {timeout:g} s is over: radii may be larger", RuntimeWarning, stacklevel=2)
        return radius
    status = [
        "certified" if r > 0 else "unproven" if ok else "misclassified" for r, ok in zip(radius, right, strict=True)
    ]
    return Radii(radius, status, not deadline.passed)


@dataclass(frozen=True)
class SearchSettings:
    """How each sample's radius is searched: by which criterion, up to where, how finely and until when."""

    criterion: str
    top: float
    rtol: float
    deadline: Deadline


@dataclass(frozen=True)
class RadiusJob:
    """Samples whose radii are searched together, in one domain or stage.

    Attributes:
        search: how.
        members: indices of the samples.
        start, proven: of the search.
        domain: name; that of a stage where a trial has a limit.
        left: forward passes that a trial may take beyond its least, if there is a limit.
    """

    search: SearchSettings
    members: Tensor
    start: Tensor
    proven: Tensor
    domain: str
    left: float | None = None


def search_radii(question: Question, job: RadiusJob) -> Tensor:
    """Radii of some samples in one domain, intersected with plain intervals where it is sound."""
    how, members = job.search, job.members
    domain = question.domain(job.domain) if job.left is None else question.stage(job.domain).domain
    plain = question.domain(PlainIntervals.name)

    def margins(open_: Tensor, epsilon: Tensor) -> Tensor:
        how.deadline.check()
        which, rows = members[open_], epsilon[None]
        limit = None if job.left is None else torch.full((len(open_),), job.left, dtype=torch.float64)
        margin = bounds.margins(domain, which, rows, question.labels, how.criterion, Meter(limit, how.deadline))
        if domain.sound and domain.name != plain.name:
            margin = torch.maximum(margin, bounds.margins(plain, which, rows, question.labels, how.criterion))
        return margin[0]

    with sound_kernels():
        return largest_proven(margins, job.start, job.proven, how.top, how.rtol)


def search_in_stage(question: Question, job: RadiusJob) -> Tensor | None:
    """The same; nothing where the stage gave up."""
    try:
        return guarded(partial(search_radii, question, job))
    except GaveUp:
        return None


@dataclass(frozen=True)
class RadiusSearch:
    """One search for radii."""

    question: Question
    how: SearchSettings
    pool: Pool
    progress: Progress | None

    def over(self, name: str, right: Tensor, start: Tensor) -> Tensor:
        """Radii in one domain of all samples that are right, in chunks."""
        labels = self.question.labels
        radius = torch.zeros(len(labels), dtype=torch.float64)
        # Samples of one class together, as in a certificate.
        todo = torch.argsort(labels, stable=True)
        todo = todo[right[todo]]
        done = len(radius) - len(todo)
        away = {}
        for members in todo.split(max(1, self.question.domain(name).samples_at_once(1))) if len(todo) else ():
            job = RadiusJob(self.how, members, start[members], radius[members], name)
            away[self.pool.add(search_radii, job)] = members
        for number, result in self.pool.answers():
            members = away[number]
            radius[members] = result
            done += len(members)
            self.tell(done)
        self.tell(len(radius))
        return radius

    def in_stages(self, right: Tensor, start: Tensor, clean: Tensor, effort: float) -> Tensor:
        """``auto``: the radius of plain intervals, then upward from there stage by stage."""
        plain = PlainIntervals.name
        radius = insisted(plain, partial(self.over, plain, right, start / INTERVAL_SHARE))
        order = clean.argsort(descending=True, stable=True)
        todo = order[(right & (radius < self.how.top))[order]]
        # What a certificate leaves a stage at the same ε: all but what the stages before it take at least.
        left = effort
        for stage in cascade.stages(self.question.problem) if effort else ():
            passes = stage.passes(self.how.criterion)
            todo = todo[radius[todo] < self.how.top]
            if len(todo) == 0 or passes > left or self.how.deadline.passed:
                break
            left, done = left - passes, len(radius) - len(todo)
            self.question.stages[stage.name] = stage
            # A dearer stage often adds little: whether it adds anything is tried first.
            first = torch.where(radius > 0, 0.0, start) if stage.domain.follows else start
            away = {}
            for members in todo.split(cascade.part_size(stage)):
                job = RadiusJob(self.how, members, first[members], radius[members], stage.name, left)
                away[self.pool.add(search_in_stage, job)] = members
            for number, result in self.pool.answers():
                members = away[number]
                if result is None:
                    todo = todo[~torch.isin(todo, members)]
                else:
                    radius[members] = result
                done += len(members)
                self.tell(done)
        self.tell(len(radius))
        return radius

    def tell(self, done: int) -> None:
        """Report how many samples need no more."""
        if self.progress is not None:
            self.progress(done, len(self.question.labels))
