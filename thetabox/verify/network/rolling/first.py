"""The first body of a loop, which reads initial values where the others read states."""

from __future__ import annotations

from dataclasses import dataclass

from thetabox.verify.network.rolling.bodies import Body, Loop, OperationOrder, Slot, same_kind
from thetabox.verify.network.rolling.reads import TimeRead


@dataclass(frozen=True)
class FirstBody:
    """A first body that is like the others.

    Attributes:
        body: its results.
        slots: of the pattern, of every operation.
        moving: as :attr:`Loop.moving`.
        operands: for each operation, what it reads.
    """

    body: Body
    slots: list[list[Slot]]
    moving: set[int]
    operands: list[list[int]]


def first_body(loop: Loop) -> FirstBody | None:
    """The first body, if it is like the others but for the values that it reads in place of states."""
    places = aligned(loop.sequence, loop.start, loop.period)
    if places is None:
        return None
    sequence = loop.sequence
    body: Body = [sequence.order[i].index for i in places]
    of_first = {index: q for q, index in enumerate(body) if index is not None}
    of_pattern = {index: q for q, index in enumerate(loop.bodies[0]) if index is not None}
    initial_body = FirstBody(body, [], set(loop.moving), [sequence.operands[i] for i in places])
    for j, (i, first) in enumerate(zip(loop.pattern, places, strict=True)):
        slots = loop.slots[j]
        if slots is None:
            slots = [_slot(loop, index, of_first, of_pattern) for index in sequence.operands[i]]
            read, earlier = sequence.reads[i], sequence.reads[first]
            if read is not None and earlier is not None and (earlier.index, read.index) == (0, 1):
                initial_body.moving.add(j)
        initial_body.slots.append(slots)
        if not _reads_first(sequence.reads[first], sequence.reads[i], j in initial_body.moving):
            return None
        for (kind, of), second, index in zip(slots, sequence.operands[i], initial_body.operands[j], strict=True):
            if kind == "state":
                alike = second == body[of] and same_kind(sequence.values, index, second)
            else:
                alike = index == (of if kind == "fixed" else body[of])
            if not alike:
                return None
    return initial_body


def _slot(loop: Loop, index: int, of_first: dict[int, int], of_pattern: dict[int, int]) -> Slot:
    """What the second body reads, in the words of the first."""
    if index in of_pattern:
        return Slot("same", of_pattern[index])
    return Slot("state", of_first[index]) if index in of_first else Slot("fixed", index)


def _reads_first(first: TimeRead | None, second: TimeRead | None, moving: bool) -> bool:
    """Whether the first body reads at index 0 where the second reads at 1, or both at the same."""
    if first is None or second is None:
        return first is second
    if (first.dim, first.size) != (second.dim, second.size):
        return False
    if moving:
        return (first.source, first.index, second.index) == (second.source, 0, 1)
    return first.index == second.index


def aligned(sequence: OperationOrder, start: int, period: int) -> list[int] | None:
    """Where in front of the second body the operations of a first one may be, others between them; else ``None``."""
    places = []
    cursor = start
    for i in reversed(range(start, start + period)):
        cursor -= 1
        while cursor >= 0 and sequence.signatures[cursor] != sequence.signatures[i]:
            cursor -= 1
        if cursor < 0:
            return None
        places.append(cursor)
    return places[::-1]
