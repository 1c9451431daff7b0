"""Bodies of an unrolled loop: a stretch of operations, and the same on the results of the stretch before.

The second body is the pattern: the first may read other things, and the last lacks what nobody reads. Every operand of
every later body is compared with the pattern's. What is found to be so of all of them is a proof, however the pattern
was guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from thetabox.verify.network.graph import Operation
from thetabox.verify.network.rolling.reads import TimeRead, time_read, without_index
from thetabox.verify.network.rolling.trees import frozen, operands
from thetabox.verify.network.rolling.values import SIZE, NotRolled, Values


class Slot(NamedTuple):
    """What stands in one operand's place in every body.

    Attributes:
        kind: ``"fixed"``, one value for all; ``"same"``, a result of the same body; ``"state"``, of the one before.
        of: position of the fixed value, or which operation of a body.
    """

    kind: str
    of: int


Body = list[int | None]
"""Position of the result of every operation of the pattern, ``None`` for what a body lacks."""


@dataclass(frozen=True)
class OperationOrder:
    """Operations in some order, with what is compared of them.

    Attributes:
        values: whose operations they are.
        order: of evaluation.
        operands: of each.
        reads: of each, as a read at an index.
        signatures: of each: all but the operands that are computed and the index of a read.
        position: where in the order each position is computed.
    """

    values: Values
    order: list[Operation]
    operands: list[list[int]]
    reads: list[TimeRead | None]
    signatures: list[int]
    position: dict[int, int]


def sequence_of(values: Values, order: Sequence[Operation]) -> OperationOrder:
    """The operations that may repeat: all but the number of samples."""
    operations = {o.index: o for o in values.operations}
    leaves = {*values.graph.tensors, *values.graph.constants, *values.graph.inputs}
    leaves |= {o.index for o in order if o.operator == SIZE}
    order = [o for o in order if o.operator != SIZE]
    reads = [time_read(values.graph, operations, o) for o in order]
    numbers: dict[object, int] = {}
    signatures = []
    for operation, read in zip(order, reads, strict=True):
        shown = operation if read is None else without_index(operation)
        tree = frozen((shown.args, shown.kwargs), lambda i: i if i in leaves else None)
        key = (operation.target, tree, operation.layout, operation.dtype, None if read is None else read.length)
        signatures.append(numbers.setdefault(key, len(numbers)))
    position = {o.index: i for i, o in enumerate(order)}
    return OperationOrder(values, order, [operands(o) for o in order], reads, signatures, position)


class Loop:
    """A stretch of a sequence as the second body of a loop, and the bodies that follow it.

    Args:
        sequence: of operations.
        start: where in the sequence the second body starts.
        period: how many operations a body has.

    Attributes:
        pattern: where in the sequence the operations of the second body are.
        pattern_values: positions of their results.
        bodies: from the second to the last.
        ends: where in the sequence each ends.
        slots: for each operation, of its operands.
        moving: operations that read at the index of the step, and not at one index in all of them.

    Raises:
        NotRolled: no two bodies are alike.
    """

    def __init__(self, sequence: OperationOrder, start: int, period: int) -> None:
        self.sequence, self.start, self.period = sequence, start, period
        self.pattern = range(start, start + period)
        self.slots: list[list[Slot] | None] = [None] * period
        self.moving: set[int] = set()
        self.pattern_values = [sequence.order[i].index for i in self.pattern]
        self.bodies: list[Body] = [[*self.pattern_values]]
        self.ends = [start + period]
        if not self.follow():
            raise NotRolled("no two steps are alike")

    def in_front(self, index: int) -> bool:
        """Whether a value is there in front of the second body."""
        return self.sequence.position.get(index, -1) < self.start

    def follow(self) -> bool:
        """Find one more body, if it is there."""
        signatures, before = self.sequence.signatures, self.bodies[-1]
        body: Body = [None] * self.period
        cursor, end = self.ends[-1], len(signatures)
        for j, i in enumerate(self.pattern):
            if cursor == end:
                break
            if signatures[cursor] == signatures[i] and before[j] is not None and self._agrees(j, cursor, body):
                body[j] = self.sequence.order[cursor].index
                cursor += 1
        if cursor == self.ends[-1]:
            return False
        self.bodies.append(body)
        self.ends.append(cursor)
        return True

    def _agrees(self, j: int, cursor: int, body: Body) -> bool:
        """Whether an operation is that of the pattern, on this body's operands."""
        if not self._reads_next(j, cursor):
            return False
        operands = self.sequence.operands[cursor]
        slots = self.slots[j]
        if slots is None:
            slots = self._slots(j, operands, body)
            if slots is None:
                return False
            self.slots[j] = slots
        before = self.bodies[-1]
        for (kind, of), index in zip(slots, operands, strict=True):
            if index != (of if kind == "fixed" else body[of] if kind == "same" else before[of]):
                return False
        return True

    def _reads_next(self, j: int, cursor: int) -> bool:
        """Whether the index of a read is that of the pattern, or that of the step in both."""
        read, first = self.sequence.reads[cursor], self.sequence.reads[self.pattern[j]]
        if read is None or first is None:
            return read is first
        if (read.dim, read.size) != (first.dim, first.size):
            return False
        step = len(self.bodies) + 1
        if step == 2 and (first.index, read.index) == (1, 2) and read.source == first.source:
            self.moving.add(j)
        return read.index == (step if j in self.moving else first.index)

    def _slots(self, j: int, operands: list[int], body: Body) -> list[Slot] | None:
        """What the third body reads, in the words of the second."""
        if len(self.bodies) != 1:
            return None
        pattern = self.bodies[0]
        of_pattern = {index: q for q, index in enumerate(pattern) if index is not None}
        of_body = {index: q for q, index in enumerate(body) if index is not None}
        slots = []
        for index, first in zip(operands, self.sequence.operands[self.pattern[j]], strict=True):
            if index == first and self.in_front(index):
                slots.append(Slot("fixed", index))
            elif index in of_body and pattern[of_body[index]] == first:
                slots.append(Slot("same", of_body[index]))
            elif index in of_pattern and self.in_front(first):
                slots.append(Slot("state", of_pattern[index]))
            else:
                return None
        return slots


def same_kind(values: Values, one: int, other: int) -> bool:
    """Whether two values are tensors of one shape and type."""
    layouts, dtypes = values.graph.layouts, values.graph.dtypes
    return one in layouts and layouts[one] == layouts.get(other) and dtypes.get(one) == dtypes.get(other)


def periods(signatures: Sequence[int], most: int = 12) -> list[int]:
    """How far apart like operations are, the most frequent distances first."""
    seen: dict[int, list[int]] = {}
    counts: dict[int, int] = {}
    for i, signature in enumerate(signatures):
        earlier = seen.setdefault(signature, [])
        for position in earlier[-4:]:
            counts[i - position] = counts.get(i - position, 0) + 1
        earlier.append(i)
    return sorted(counts, key=lambda p: (-counts[p], p))[:most]


def runs(signatures: Sequence[int], period: int) -> list[tuple[int, int]]:
    """Stretches in which every operation is like the one a period later, the longest first."""
    stretches, start = [], 0
    count = len(signatures) - period
    for i in range(count + 1):
        if i == count or signatures[i] != signatures[i + period]:
            if i > start:
                stretches.append((start, i))
            start = i + 1
    return sorted(stretches, key=lambda run: run[0] - run[1])
