"""Margins of a sweep over all samples: of one domain, or of ``auto``'s stages, each beside plain intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thetabox.verify import bounds, cascade, domains
from thetabox.verify.chunkstore import ChunkStore
from thetabox.verify.domain import Domain
from thetabox.verify.engine import Engine, Progress
from thetabox.verify.plain import PlainIntervals

# A margin that failed by more than this share of the unperturbed margin leaves no hope for a larger ε.
HOPELESS = 0.5


@dataclass
class Proof:
    """What was proven.

    Attributes:
        margin: proven lower bounds ``[E, N]``.
        by: name of each stage, plain intervals first → how many samples it proved at each ε, ``[E]``.
        domain: the dearest one that ran.
        left_out: stage → why it gave up on this network; if none would take it, domain → why.
    """

    margin: Float[Tensor, "sweeps samples"]
    domain: Domain
    by: dict[str, list[int]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def in_domain(
    engine: Engine, labels: Tensor, sweep: Tensor, criterion: str, store: ChunkStore, progress: Progress | None
) -> Proof:
    """In the one domain that the settings name, every sample at every ε; a sound one intersected with intervals."""
    domain: Domain = PlainIntervals(engine)
    name = engine.settings.domain
    if name == domain.name:
        return Proof(grid(domain, labels, sweep, criterion, store, progress), domain)
    domain = domains.domain_class(name)(engine, engine.settings.options)
    margin = grid(domain, labels, sweep, criterion, store, progress)
    if domain.sound:
        margin = torch.maximum(margin, grid(PlainIntervals(engine), labels, sweep, criterion, store, None))
        margin = monotone(margin, sweep)
    return Proof(margin, domain)


def in_stages(
    engine: Engine,
    labels: Int[Tensor, " samples"],
    sweep: Float[Tensor, " sweeps"],
    criterion: str,
    store: ChunkStore,
    progress: Progress | None,
    clean: Float[Tensor, " samples"],
    budget: float,
) -> Proof:
    """``auto``: plain intervals on everything, then each stage on the samples and ε that are still open.

    Args:
        engine, labels, sweep, criterion, store: what to prove, and where finished parts are kept.
        progress: called with rows that the present stage need not treat any more, and rows in all.
        clean: margins of the unperturbed network; nothing dearer is tried where one is not above 0.
        budget: seconds a sample for everything after plain intervals.
    """
    plain = PlainIntervals(engine)
    # A box holds the boxes of every smaller ε, so a proof at one ε is a proof at all below.
    margin = monotone(grid(plain, labels, sweep, criterion, store, progress), sweep)
    proof = Proof(margin, plain, {plain.name: _counts(margin)})
    if not bool((_open(margin) & (clean > 0)).any()):
        return proof
    purse = cascade.Purse.of(budget, len(labels))
    rising = sweep.argsort()
    for stage in cascade.stages(engine, proof.left_out):
        open_ = _open(margin) & (clean > 0)
        # Where a budget ends the work, the samples far from a decision boundary were worth most.
        todo = clean.argsort(descending=True, stable=True)
        todo = todo[open_.any(0)[todo]]
        if len(todo) == 0 or purse.left <= 0:
            break

        def work(members: Tensor, stage: cascade.Stage = stage, open_: Tensor = open_) -> Tensor:
            found = bisect(
                stage.domain, members, open_[rising][:, members], sweep[rising], labels, criterion, clean[members]
            )
            return found[rising.argsort()]

        before = margin
        left = int(open_.sum())
        try:
            for members, found in cascade.parts(stage, todo, work, purse, store):
                margin = margin.clone()
                margin[:, members] = monotone(torch.maximum(margin[:, members], found), sweep)
                left -= int(open_[:, members].sum())
                if progress is not None:
                    progress(margin.numel() - left, margin.numel())
        except cascade.GaveUp as error:
            # The proofs so far stand; what this stage cannot do no dearer one of its kind will.
            proof.left_out[stage.name] = str(error)
            break
        proof.by[stage.name] = _counts((margin > 0) & ~(before > 0))
        proof.domain = stage.domain
    proof.margin = margin
    if progress is not None:
        progress(margin.numel(), margin.numel())
    return proof


def grid(
    domain: Domain, labels: Tensor, sweep: Tensor, criterion: str, store: ChunkStore, progress: Progress | None
) -> Float[Tensor, "sweeps samples"]:
    """Margins of every sample at every ε, in chunks that the store keeps."""
    total = len(labels) * len(sweep)
    margin = torch.empty(len(sweep), len(labels), dtype=torch.float64)
    # Samples of one class together: the margin's products are one for each class of a chunk.
    order = torch.argsort(labels, stable=True)
    prefix = "" if isinstance(domain, PlainIntervals) else f"{domain.name}-"
    size = max(1, domain.samples_at_once(len(sweep)))
    for start in range(0, len(labels), size):
        stop = min(start + size, len(labels))
        part = store.read(start, stop, prefix)
        if part is None:
            epsilon = sweep[:, None].expand(-1, stop - start)
            part = bounds.margins(domain, order[start:stop], epsilon, labels, criterion)
            store.write(start, stop, part, prefix)
        margin[:, order[start:stop]] = part
        if progress is not None:
            progress(stop * len(sweep), total)
    return margin


def bisect(
    domain: Domain,
    members: Int[Tensor, " members"],
    open_: Bool[Tensor, "sweeps members"],
    rising: Float[Tensor, " sweeps"],
    labels: Int[Tensor, " samples"],
    criterion: str,
    clean: Float[Tensor, " members"],
) -> Float[Tensor, "sweeps members"]:
    """Margins in one domain at open ε only, the middle one of each sample first; minus infinity where none was tried.

    What is proven at one ε needs no trial below it. What failed there is not tried above it, unless it failed by
    little: bounds need not be monotone in ε.

    Args:
        domain: of the trials.
        members: places of the samples.
        open_: which ε of each are not proven yet.
        rising: all ε, ascending.
        labels: of all samples.
        criterion: of the margin.
        clean: unperturbed margins of the members.
    """
    found = torch.full(open_.shape, -torch.inf, dtype=torch.float64)
    open_, places = open_.clone(), torch.arange(len(rising))[:, None]
    while bool(open_.any()):
        active = open_.any(0).nonzero().squeeze(1)
        rank = open_.cumsum(0)
        middle = ((rank == (rank[-1] + 1) // 2) & open_).int().argmax(0)[active]
        margin = bounds.margins(domain, members[active], rising[middle][None], labels, criterion)[0]
        found[middle, active] = margin
        closed = places == middle
        closed |= (margin > 0) & (places <= middle)
        closed |= (margin < -HOPELESS * clean[active]) & (places >= middle)
        open_[:, active] &= ~closed
    return found


def monotone(margin: Float[Tensor, "sweeps samples"], sweep: Float[Tensor, " sweeps"]) -> Tensor:
    """The best margin of each ε and all above it: a lower bound over a box holds over every smaller one."""
    falling = sweep.argsort(descending=True)
    return margin[falling].cummax(0).values[falling.argsort()]


def recorded(proof: Proof, budget: float | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the certificate: those of the domain, or what ``auto`` did."""
    if budget is None:
        return domains.recorded(options)
    found: dict[str, Any] = domains.recorded({"budget": budget}) | {"proven_by": proof.by}
    return found | ({"left_out": proof.left_out} if proof.left_out else {})


def _open(margin: Tensor) -> Tensor:
    return ~(margin > 0)


def _counts(proven: Tensor) -> list[int]:
    counts: Sequence[int] = (proven > 0).sum(1).tolist()
    return list(counts)
