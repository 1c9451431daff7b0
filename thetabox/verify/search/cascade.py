"""``auto``: plain intervals first, then dearer stages on what is still open, as far as the effort goes.

Every ε is decided by itself, and every sample has an effort of its own: which stages it is given follows from what they
cost, counted, and from what the cheaper ones proved of it. So what is proven of a sample alone is proven whatever other
ε stand beside it, and in any company, but for rounding: what a bound allows for it is one number a tensor, which grows
with the largest value in it. Beside samples many orders of magnitude larger a margin may come out smaller by that much,
and a verdict may differ where the margin is less. It is sound in either company. More may be proven than alone, by the
effort that others leave (:mod:`thetabox.verify.search.surplus`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from thetabox.verify import domains
from thetabox.verify.domain import Domain
from thetabox.verify.problem import Problem
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
        for number, options in enumerate(kind.cascade):
            try:
                domain = guarded(partial(kind, problem, options))
            except GaveUp as error:
                if number == 0:
                    (refused if name in meant else reasons)[name] = str(error)
                    break
                refused[_name(kind, number)] = str(error)
                return
            domain.follows = number > 0
            yield Stage(_name(kind, number), domain)
        else:
            return
    refused.update(reasons)


def part_size(stage: Stage) -> int:
    """Samples of a part of a stage: by the problem and the kind of device alone."""
    size = max(1, stage.domain.samples_at_once(1))
    return min(size, LARGEST_PART) if stage.domain.problem.settings.device.type == "cpu" else size


def _name(kind: type[Domain], number: int) -> str:
    changed = {k: v for k, v in kind.cascade[number].items() if len(kind.cascade) > 1 or kind.defaults.get(k) != v}
    return " ".join([kind.name, *(f"{k}={v}" for k, v in changed.items())])
