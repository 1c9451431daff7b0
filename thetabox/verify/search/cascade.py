"""``auto``: plain intervals first, then dearer stages on what is still open, as far as the effort goes.

Every ε is decided by itself, and every sample has an effort of its own: which stages it is given follows from what they
cost, counted, and from what the cheaper ones proved of it. So what is proven of a sample alone is proven whatever other
ε stand beside it, and in any company, but for rounding: what a bound allows for it is one number a tensor, which grows
with the largest value in it. Beside samples many orders of magnitude larger a margin may come out smaller by that much,
and a verdict may differ where the margin is less. It is sound in either company. More may be proven than alone, by the
effort that others leave (:mod:`thetabox.verify.search.surplus`).
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


# Places, and what they may cost → a tensor whose last dimension is those samples.
Work = Callable[[Tensor, Meter], Tensor]


@dataclass
class Part:
    """A part of a stage: which samples, and what it bounds of them (nothing where it gave up).

    Attributes:
        given: forward passes that each of them could pay for it.
        promise: of each, as :class:`~thetabox.verify.unfinished.Unfinished` tells it, of a stage that can go on.
        more: whether these samples were in a part before, and were given more.
    """

    members: Tensor
    given: Tensor
    bounds: Tensor | None = None
    why: str = ""
    promise: Tensor | None = None
    more: bool = False


@dataclass(frozen=True)
class Parts:
    """A stage at one ε, in parts that the store keeps.

    A part that the store holds is not computed again: an interrupted run goes on to the same end. Which samples stand
    in a part may differ from run to run, for their order is that of computed margins; one that holds others, or the
    same with other means, is computed anew.

    Attributes:
        stage: what is run.
        label: tells the stage's parts apart in the store.
        epsilon, criterion: of the margins.
        left: forward passes that each sample of all may still take; written over.
        work: what is done with a part.
        store: keeps finished parts.
        deadline: when to stop.
    """

    stage: Stage
    label: str
    epsilon: float
    criterion: str
    left: Tensor
    work: Work
    store: ChunkStore
    deadline: Deadline

    def over(self, todo: Tensor) -> Iterator[Part]:
        """Those of the samples that can pay for it, as they come.

        Raises:
            OutOfTime: the deadline has passed; the present part is lost.
        """
        passes = self.stage.passes(self.criterion)
        todo = todo[self.left[todo] >= passes]
        for place, members in enumerate(todo.split(part_size(self.stage)) if len(todo) else ()):
            yield self.one(str(place), members, passes)

    def one(self, name: str, members: Tensor, least: float, before: Callable[[], None] | None = None) -> Part:
        """One part; each of its samples pays ``least``, and what the stage takes beyond that.

        Args:
            name: among the parts of this stage and ε.
            members: places of the samples.
            least: forward passes.
            before: is called if the part has to be computed.
        """
        name = f"{self.stage.name}-{self.label}-{name}"
        resumes, given = self.stage.domain.resumes(self.criterion), self.left[members]
        keys = ("members", "given", "found", "left", *(("promise",) if resumes else ()))
        held = self.store.read_part(name, keys)
        if held is None or not (torch.equal(held["members"], members) and torch.equal(held["given"], given)):
            self.deadline.check()
            meter = Meter(given - least, self.deadline)
            try:
                if before is not None:
                    before()
                result = guarded(partial(self.work, members, meter))
            except GaveUp as error:
                self.left[members] = 0.0
                return Part(members, given, why=str(error))
            assert meter.left is not None
            held = {"members": members, "given": given, "found": result, "left": meter.left}
            if resumes:
                held["promise"] = self._promises(members)
            self.store.write_part(name, held)
        self.left[members] = held["left"]
        return Part(members, given, held["found"], promise=held.get("promise"))

    def again(self, part: Part) -> None:
        """Do a part of before once more: its open proofs are then at hand."""
        kept = self.stage.domain.unfinished
        if kept is not None:
            for sample in part.members.tolist():
                kept.take((sample, self.epsilon))
        meter = Meter(part.given - self.stage.passes(self.criterion), self.deadline)
        guarded(partial(self.work, part.members, meter))

    def _promises(self, members: Tensor) -> Tensor:
        kept = self.stage.domain.unfinished
        values = [-1.0 if kept is None else kept.promise((n, self.epsilon)) for n in members.tolist()]
        return torch.tensor(values, dtype=torch.float64)


def part_size(stage: Stage) -> int:
    """Samples of a part of a stage: by the problem and the kind of device alone."""
    size = max(1, stage.domain.samples_at_once(1))
    return min(size, LARGEST_PART) if stage.domain.problem.settings.device.type == "cpu" else size


def _name(kind: type[Domain], place: int) -> str:
    changed = {k: v for k, v in kind.cascade[place].items() if len(kind.cascade) > 1 or kind.defaults.get(k) != v}
    return " ".join([kind.name, *(f"{k}={v}" for k, v in changed.items())])
