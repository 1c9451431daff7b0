"""``auto``: plain intervals first, then dearer stages on what is still open, as long as the budget lasts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify import domains
from thetabox.verify.chunkstore import ChunkStore
from thetabox.verify.domain import Domain
from thetabox.verify.engine import Engine

# Seconds a sample that the stages after plain intervals take by default, and what they may take in all at least, so
# that a few samples are not given up for want of a second.
SECONDS = 0.25
SECONDS_IN_ALL = 5.0

# Samples of a stage's first part, whose cost is not known yet, and the most of any part on a processor, where larger
# ones are no faster and only make the progress coarser.
FIRST_PART = 4
LARGEST_PART = 64


class GaveUp(Exception):
    """A stage met something in the network that it cannot bound; its message says what."""


@dataclass(frozen=True)
class Stage:
    """One domain with its options, and a name for reports."""

    name: str
    domain: Domain


@dataclass
class Purse:
    """Seconds that all stages after plain intervals may take together.

    Attributes:
        left: what is left of them; infinite for no limit.
        costs: what a sample of each stage has cost so far: name → (seconds, samples).
    """

    left: float
    costs: dict[str, tuple[float, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, budget: float, samples: int) -> Purse:
        """``budget`` seconds for each of the samples."""
        return cls(math.inf if math.isinf(budget) else budget * samples)

    def affords(self, stage: str, samples: int) -> int:
        """For how many of the samples the stage may be started."""
        if self.left == math.inf:
            return samples
        if self.left <= 0:
            return 0
        seconds, count = self.costs.get(stage, (0.0, 0))
        if count == 0:
            # A dearer stage costs at least what the one before it did.
            samples = min(samples, FIRST_PART)
            seconds, count = next(reversed(self.costs.values()), (0.0, 1))
        each = seconds / count
        return samples if each * samples <= self.left else int(self.left / each)

    def spend(self, stage: str, seconds: float, samples: int) -> None:
        """Note what a part of a stage has cost."""
        before, count = self.costs.get(stage, (0.0, 0))
        self.costs[stage] = (before + seconds, count + samples)
        self.left -= seconds


def budget_of(options: object, samples: int) -> float:
    """The budget that was asked for, or the default: a quarter of a second a sample, and 5 seconds in all at least."""
    return max(SECONDS, SECONDS_IN_ALL / samples) if options is None else float(options)  # type: ignore[arg-type]  # checked by domains.check


def stages(engine: Engine, refused: dict[str, str] | None = None) -> Iterator[Stage]:
    """The stages of the first dearer sound domain that fits the network, cheap ones first; none where none does.

    Args:
        engine: of the network.
        refused: is given domain → why it does not fit, if none does.
    """
    reasons = {}
    for name in domains.names():
        if name in (domains.AUTO, "interval") or not domains.is_sound(name):
            continue
        kind = domains.domain_class(name)
        if not kind.cascade:
            continue
        try:
            first = kind(engine, kind.cascade[0])
        except InputError as error:
            reasons[name] = str(error)
            continue
        yield Stage(_name(kind, 0), first)
        for place in range(1, len(kind.cascade)):
            yield Stage(_name(kind, place), kind(engine, kind.cascade[place]))
        return
    if refused is not None:
        refused.update(reasons)


def parts(
    stage: Stage, todo: Tensor, work: Callable[[Tensor], Tensor], purse: Purse, store: ChunkStore
) -> Iterator[tuple[Tensor, Tensor]]:
    """The stage on as many of the samples as the purse affords, part by part: (samples, what ``work`` found of them).

    A part that the store holds is not computed again, and what it cost then counts now: an interrupted run goes on
    to the same end.

    Args:
        stage: for its name and the size of its parts.
        todo: places of the samples, the most promising ones first.
        work: places → a tensor whose last dimension is those samples.
        purse: is charged.
        store: keeps finished parts.

    Raises:
        GaveUp: the stage's domain refused the network half-way.
    """
    for part in range(len(todo)):
        name = f"{stage.name}-{part}"
        held = store.read_part(name)
        if held is None:
            size = min(len(todo), max(1, stage.domain.samples_at_once(1)))
            if stage.domain.engine.settings.device.type == "cpu":
                size = min(size, LARGEST_PART)
            size = purse.affords(stage.name, size)
            if size == 0:
                return
            started = time.perf_counter()
            try:
                found = work(todo[:size])
            except InputError as error:
                raise GaveUp(str(error)) from error
            held = {"found": found, "seconds": torch.tensor(time.perf_counter() - started, dtype=torch.float64)}
            store.write_part(name, held)
        size = held["found"].shape[-1]
        purse.spend(stage.name, float(held["seconds"]), size)
        yield todo[:size], held["found"]
        todo = todo[size:]
        if len(todo) == 0:
            return


def _name(kind: type[Domain], place: int) -> str:
    changed = {k: v for k, v in kind.cascade[place].items() if len(kind.cascade) > 1 or kind.defaults.get(k) != v}
    return " ".join([kind.name, *(f"{k}={v}" for k, v in changed.items())])
