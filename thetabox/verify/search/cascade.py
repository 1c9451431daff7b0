"""``auto``: plain intervals first, then dearer stages on what is still open, as far as the effort goes.

Every sample and ε is decided by itself: which stages it is given follows from what they cost, counted, and from what
the cheaper ones proved of it. So the verdict is the same whatever other ε stand beside it, and whatever other samples
do, but for rounding: what a bound allows for it is one number a tensor, which grows with the largest value in it.
Beside samples many orders of magnitude larger a margin may come out smaller by that much, and a verdict may differ
where the margin is less. It is sound in either company.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from thetabox.verify import domains
from thetabox.verify.domain import Domain
from thetabox.verify.effort import Deadline, Meter
from thetabox.verify.problem import Problem
from thetabox.verify.search.chunkstore import ChunkStore
from thetabox.verify.search.failures import GaveUp, guarded

# The most samples of any part on a processor, where larger ones are no faster and only make the progress coarser.
LARGEST_PART = 64


@dataclass(frozen=True)
class Stage:
    """One domain with its options, and a name for reports."""

    name: str
    domain: Domain

    def passes(self, criterion: str) -> float:
        """Forward passes that it costs at least."""
        return self.domain.passes(criterion)


def stages(problem: Problem, refused: dict[str, str] | None = None) -> Iterator[Stage]:
    """The stages of the first dearer sound domain that fits the network, cheap ones first; none where none does.

    Args:
        problem: of the network.
        refused: is given domain → why it does not fit, if none does or the network is of its kind, and stage → why it
            cannot be had.
    """
    refused = {} if refused is None else refused
    reasons: dict[str, str] = {}
    names = [n for n in domains.names() if n not in (domains.AUTO, "interval") and domains.is_sound(n)]
    kinds = {name: kind for name in names if (kind := domains.domain_class(name)).cascade}
    meant = {name for name, kind in kinds.items() if kind.is_meant_for(problem)}
    for name, kind in sorted(kinds.items(), key=lambda pair: pair[0] not in meant):
        for place, options in enumerate(kind.cascade):
            try:
                domain = guarded(partial(kind, problem, options))
            except GaveUp as error:
                if place == 0:
                    (refused if name in meant else reasons)[name] = str(error)
                    break
                refused[_name(kind, place)] = str(error)
                return
            domain.follows = place > 0
            yield Stage(_name(kind, place), domain)
        else:
            return
    refused.update(reasons)


@dataclass
class Part:
    """A part of a stage: which samples, and what it bounds of them (nothing where it gave up)."""

    members: Tensor
    bounds: Tensor | None
    why: str = ""


def parts(
    stage: Stage,
    label: str,
    todo: Tensor,
    left: Tensor,
    criterion: str,
    work: Callable[[Tensor, Meter], Tensor],
    store: ChunkStore,
    deadline: Deadline,
) -> Iterator[Part]:
    """The stage on those of the samples that can pay for it, part by part.

    A part that the store holds is not computed again: an interrupted run goes on to the same end. Which samples stand
    in a part may differ from run to run, for their order is that of computed margins; one that holds others, or the
    same with other means, is computed anew.

    Args:
        stage: for the size of its parts and what they cost.
        label: tells the stage's parts apart in the store.
        todo: places of the samples, the most promising ones first.
        left: forward passes that each sample of all may still take; written over.
        criterion: of the margin.
        work: places, what they may cost → a tensor whose last dimension is those samples.
        store: keeps finished parts.
        deadline: when to stop.

    Raises:
        OutOfTime: the deadline has passed; the present part is lost.
    """
    passes = stage.passes(criterion)
    todo = todo[left[todo] >= passes]
    for part, members in enumerate(todo.split(part_size(stage)) if len(todo) else ()):
        name = f"{stage.name}-{label}-{part}"
        given = left[members]
        held = store.read_part(name, ("members", "given", "found", "left"))
        if held is None or not (torch.equal(held["members"], members) and torch.equal(held["given"], given)):
            deadline.check()
            meter = Meter(given - passes, deadline)
            try:
                result = guarded(partial(work, members, meter))
            except GaveUp as error:
                left[members] = 0.0
                yield Part(members, None, str(error))
                continue
            assert meter.left is not None
            held = {"members": members, "given": given, "found": result, "left": meter.left}
            store.write_part(name, held)
        left[members] = held["left"]
        yield Part(members, held["found"])


def part_size(stage: Stage) -> int:
    """Samples of a part of a stage: by the problem and the kind of device alone."""
    size = max(1, stage.domain.samples_at_once(1))
    return min(size, LARGEST_PART) if stage.domain.problem.settings.device.type == "cpu" else size


def _name(kind: type[Domain], place: int) -> str:
    changed = {k: v for k, v in kind.cascade[place].items() if len(kind.cascade) > 1 or kind.defaults.get(k) != v}
    return " ".join([kind.name, *(f"{k}={v}" for k, v in changed.items())])
