"""Certified radii: how large ε may be before a sample is no longer proven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox import checks
from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.verify import bounds, cascade, domains, request
from thetabox.verify.chunkstore import ChunkStore
from thetabox.verify.domain import Domain
from thetabox.verify.engine import Engine, Progress
from thetabox.verify.first_order import first_order_radius
from thetabox.verify.plain import PlainIntervals
from thetabox.verify.rounding import sound_kernels
from thetabox.verify.search import FLOOR, largest_proven

# Plain intervals prove about this share of the first-order radius of a network trained the standard way.
INTERVAL_SHARE = 16.0


@dataclass(frozen=True)
class Radii:
    """Radii with the reason where there is none.

    Attributes:
        radius: ``[N]`` float64.
        status: ``certified``, ``misclassified`` or ``unproven`` for each sample.
    """

    radius: Float[Tensor, " samples"]
    status: list[str]


def certified_radius(
    model: nn.Module,
    x: request.Array,
    y: request.Array,
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
    details: bool = False,
) -> Float[Tensor, " samples"] | Radii:
    """Largest proven ε of each sample, searched for all samples at once from the first-order estimate.

    Each radius r was itself proven; r (1 + rtol) was tried and not proven, or r is ``max_epsilon``. It is 0 where
    the network is wrong, or where nothing at or above 1e-9 could be proven. ``auto`` searches with plain intervals and
    goes on upward from there with each dearer stage; r (1 + rtol) was tried in the last stage that the budget reached.

    Args:
        model, x, y, domain, box, criterion, arithmetic, precision, device, options: as for :func:`certify`.
        max_epsilon: where the search ends.
        rtol: relative resolution.
        progress: called with samples done and samples in all.
        details: answer :class:`Radii` instead of the radii alone.

    Raises:
        InputError: anything wrong with what was given.
    """
    chosen = request.settings(domain, box, arithmetic, precision, device, options)
    if criterion not in request.CRITERIA:
        raise InputError(f"unknown criterion {criterion!r}; choose one of {', '.join(request.CRITERIA)}")
    top = checks.number(max_epsilon, "max_epsilon")
    if top < FLOOR:
        raise InputError(f"max_epsilon must be at least {FLOOR}")
    rtol = checks.number(rtol, "rtol")
    if not 1e-6 <= rtol <= 1.0:
        raise InputError(f"rtol must lie between 1e-6 and 1, not {rtol}")
    inputs = request.inputs(x)
    labels = request.labels(y, len(inputs))
    engine = Engine(model, chosen, inputs)
    chosen.box.check(engine.model)
    clean = engine.clean_logits()
    request.check_labels(labels, clean.shape[1])
    right = clean.argmax(1) == labels
    hunt = _Hunt(engine, labels, criterion, top, rtol, progress)
    start = first_order_radius(engine.model, inputs, labels, chosen.box)
    with sound_kernels():
        if domain == domains.AUTO:
            radius = hunt.in_stages(right, start, request.margins_of(clean, labels), chosen.options.get("budget"))
        elif domain == "interval":
            radius = hunt.over(PlainIntervals(engine), right, start / INTERVAL_SHARE)
        else:
            radius = hunt.over(domains.domain_class(domain)(engine, chosen.options), right, start)
    if not details:
        return radius
    status = [
        "certified" if r > 0 else "unproven" if ok else "misclassified" for r, ok in zip(radius, right, strict=True)
    ]
    return Radii(radius, status)


@dataclass(frozen=True)
class _Hunt:
    """One search for radii."""

    engine: Engine
    labels: Tensor
    criterion: str
    top: float
    rtol: float
    progress: Progress | None

    def over(self, domain: Domain, right: Tensor, start: Tensor) -> Tensor:
        """Radii in one domain of all samples that are right, in chunks."""
        radius = torch.zeros(len(self.labels), dtype=torch.float64)
        # Samples of one class together, as in a certificate.
        todo = torch.argsort(self.labels, stable=True)
        todo = todo[right[todo]]
        done = len(radius) - len(todo)
        for members in todo.split(max(1, domain.samples_at_once(1))):
            radius[members] = self.of(domain, members, start[members], radius[members])
            done += len(members)
            self.tell(done)
        self.tell(len(radius))
        return radius

    def in_stages(self, right: Tensor, start: Tensor, clean: Tensor, budget: float | None) -> Tensor:
        """``auto``: the radius of plain intervals, then upward from there stage by stage."""
        radius = self.over(PlainIntervals(self.engine), right, start / INTERVAL_SHARE)
        purse = cascade.Purse.of(cascade.budget_of(budget, len(radius)), len(radius))
        nowhere = ChunkStore(None, [], 0)
        order = clean.argsort(descending=True, stable=True)
        todo = order[(right & (radius < self.top))[order]]
        if len(todo) == 0 or purse.left <= 0:
            return radius
        for stage in cascade.stages(self.engine):
            todo = todo[radius[todo] < self.top]
            if len(todo) == 0 or purse.left <= 0:
                break
            known, done = radius.clone(), len(radius) - len(todo)

            def work(members: Tensor, stage: cascade.Stage = stage, known: Tensor = known) -> Tensor:
                return self.of(stage.domain, members, start[members], known[members])

            try:
                for members, found in cascade.parts(stage, todo, work, purse, nowhere):
                    radius[members] = found
                    done += len(members)
                    self.tell(done)
            except cascade.GaveUp:
                break
        self.tell(len(radius))
        return radius

    def of(self, domain: Domain, members: Tensor, start: Tensor, proven: Tensor) -> Tensor:
        """Radii of some samples in one domain, intersected with plain intervals where it is sound."""
        plain = PlainIntervals(self.engine)

        def margins(open_: Tensor, epsilon: Tensor) -> Tensor:
            which, rows = members[open_], epsilon[None]
            found = bounds.margins(domain, which, rows, self.labels, self.criterion)
            if domain.sound and not isinstance(domain, PlainIntervals):
                found = torch.maximum(found, bounds.margins(plain, which, rows, self.labels, self.criterion))
            return found[0]

        return largest_proven(margins, start, proven, self.top, self.rtol)

    def tell(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done, len(self.labels))
