"""Certified radii: how large ε may be before a sample is no longer proven."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.verify import agreement, arguments, domains
from thetabox.verify.domain import Domain
from thetabox.verify.effort import DEFAULT, Deadline, Meter
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.problem import Problem, Progress
from thetabox.verify.radii import Radii
from thetabox.verify.search import bounds, cascade
from thetabox.verify.search.failures import GaveUp, guarded, insisted
from thetabox.verify.search.first_order import first_order_radius
from thetabox.verify.search.largest_proven import FLOOR, largest_proven, searched_range

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
        asked.given,
    )
    clean = agreed.logits
    arguments.check_labels(labels, clean.shape[1])
    right = clean.argmax(1) == labels
    search = RadiusSearch(problem, labels, criterion, top, rtol, progress, deadline)
    start = first_order_radius(problem.model, inputs, labels, chosen.box)
    effort = float(chosen.options.get("effort", DEFAULT))
    with sound_kernels():
        if domain == domains.AUTO:
            radius = search.in_stages(right, start, arguments.margins_of(clean, labels), effort)
        else:
            made = insisted(domain, partial(domains.domain_class(domain), problem, chosen.options))
            first = start / INTERVAL_SHARE if domain == "interval" else start
            radius = insisted(domain, partial(search.over, made, right, first))
    if not details:
        if deadline.passed:
            warnings.warn(f"the time of {timeout:g} s is over: radii may be larger", RuntimeWarning, stacklevel=2)
        return radius
    status = [
        "certified" if r > 0 else "unproven" if ok else "misclassified" for r, ok in zip(radius, right, strict=True)
    ]
    return Radii(radius, status, not deadline.passed)


@dataclass(frozen=True)
class RadiusSearch:
    """One search for radii."""

    problem: Problem
    labels: Tensor
    criterion: str
    top: float
    rtol: float
    progress: Progress | None
    deadline: Deadline

    def over(self, domain: Domain, right: Tensor, start: Tensor) -> Tensor:
        """Radii in one domain of all samples that are right, in chunks."""
        radius = torch.zeros(len(self.labels), dtype=torch.float64)
        # Samples of one class together, as in a certificate.
        todo = torch.argsort(self.labels, stable=True)
        todo = todo[right[todo]]
        done = len(radius) - len(todo)
        for members in todo.split(max(1, domain.samples_at_once(1))):
            if self.deadline.passed:
                break
            radius[members] = self.of(domain, members, start[members], radius[members])
            done += len(members)
            self.tell(done)
        self.tell(len(radius))
        return radius

    def in_stages(self, right: Tensor, start: Tensor, clean: Tensor, effort: float) -> Tensor:
        """``auto``: the radius of plain intervals, then upward from there stage by stage."""
        radius = insisted("interval", lambda: self.over(PlainIntervals(self.problem), right, start / INTERVAL_SHARE))
        order = clean.argsort(descending=True, stable=True)
        todo = order[(right & (radius < self.top))[order]]
        # What a certificate leaves a stage at the same ε: all but what the stages before it take at least.
        left = effort
        for stage in cascade.stages(self.problem) if effort else ():
            passes = stage.passes(self.criterion)
            todo = todo[radius[todo] < self.top]
            if len(todo) == 0 or passes > left or self.deadline.passed:
                break
            left, done = left - passes, len(radius) - len(todo)
            # A dearer stage often adds little: whether it adds anything is tried first.
            first = torch.where(radius > 0, 0.0, start) if stage.domain.follows else start
            for members in todo.split(cascade.part_size(stage)):
                if self.deadline.passed:
                    break
                search = partial(self.of, stage.domain, members, first[members], radius[members], left)
                try:
                    radius[members] = guarded(search)
                except GaveUp:
                    todo = todo[~torch.isin(todo, members)]
                done += len(members)
                self.tell(done)
        self.tell(len(radius))
        return radius

    def of(self, domain: Domain, members: Tensor, start: Tensor, proven: Tensor, left: float | None = None) -> Tensor:
        """Radii of some samples in one domain, intersected with plain intervals where it is sound.

        Args:
            domain: of the trials.
            members: places of the samples.
            start, proven: of the search.
            left: forward passes that a trial may take beyond its least, if there is a limit.
        """
        plain = PlainIntervals(self.problem)

        def margins(open_: Tensor, epsilon: Tensor) -> Tensor:
            self.deadline.check()
            which, rows = members[open_], epsilon[None]
            limit = None if left is None else torch.full((len(open_),), left, dtype=torch.float64)
            margin = bounds.margins(domain, which, rows, self.labels, self.criterion, Meter(limit, self.deadline))
            if domain.sound and domain.name != plain.name:
                margin = torch.maximum(margin, bounds.margins(plain, which, rows, self.labels, self.criterion))
            return margin[0]

        return largest_proven(margins, start, proven, self.top, self.rtol)

    def tell(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done, len(self.labels))
