"""A loop that a graph may be, checked to its end."""

from __future__ import annotations

from thetabox.verify.network.rolling.bodies import Loop, Slot
from thetabox.verify.network.rolling.ending import Ending, ending_of
from thetabox.verify.network.rolling.first import FirstBody
from thetabox.verify.network.rolling.reads import TimeRead
from thetabox.verify.network.rolling.trees import operands
from thetabox.verify.network.rolling.values import CREATION, NotRolled

# A loop has at least so many steps.
LEAST_STEPS = 3


class Candidate:
    """A loop, with a first body of its form or without.

    Args:
        loop: of which two bodies are known at least.
        first: the body in front of it, ``None`` where that is not like the others.
    """

    def __init__(self, loop: Loop, first: FirstBody | None) -> None:
        self.loop, self.first = loop, first
        self.sequence, self.values = loop.sequence, loop.sequence.values

    @property
    def length(self) -> int:
        """How many operations the loop holds."""
        return self.loop.ends[-1] - self.loop.start

    @property
    def repeats(self) -> bool:
        """Whether the second body is found again as a whole."""
        return any(None not in body for body in self.loop.bodies[1:])

    @property
    def moving(self) -> list[int]:
        """Operations of the pattern that read at the step's index."""
        return sorted(self.loop.moving if self.first is None else self.first.moving)

    def complete(self) -> tuple[int, Ending]:
        """How many bodies follow the first, and what follows them.

        Raises:
            NotRolled: the loop is not the whole graph but for what is in front of it and a readout.
        """
        while self.loop.follow():
            pass
        count = len(self.loop.bodies)
        try:
            return count, self._ending(count)
        except NotRolled as error:
            if None not in self.loop.bodies[-1] or count < LEAST_STEPS:
                raise
            try:
                return count - 1, self._ending(count - 1)  # what follows the loop may begin like a step
            except NotRolled:
                raise error from None

    def _ending(self, count: int) -> Ending:
        if count + 1 < LEAST_STEPS:
            raise NotRolled(f"only {count + 1} steps are alike")
        if not (self.moving or self.first or self.repeats):
            raise NotRolled("a part of its operations is found twice, which makes no loop")
        for j in self.moving:
            if self.read(j).size != count + 1:
                raise self._differing(f"not all of {self.read(j).size} time steps")
        signatures, end = self.sequence.signatures, self.loop.ends[-1]
        try:
            ending = ending_of(self.loop, None if self.first is None else self.first.body, count)
        except NotRolled as error:
            if end < len(signatures) and signatures[end] in {signatures[i] for i in self.loop.pattern}:
                raise self._differing("not all time steps") from error
            raise
        if not ending.joined and not ending.last:
            raise NotRolled("nothing that its steps compute is read")
        return ending

    def _differing(self, of: str) -> NotRolled:
        """That the step behind the last body is not like the others."""
        order, end = self.sequence.order, self.loop.ends[-1]
        where = order[end].describe() if end < len(order) else "the end"
        return NotRolled(f"{of} are alike; they first differ at {where}")

    def read(self, j: int) -> TimeRead:
        """How an operation of the pattern reads at the step's index."""
        read = self.sequence.reads[self.loop.pattern[j]]
        assert read is not None
        return read

    def slots(self) -> list[list[Slot]]:
        """What every operation of the pattern reads.

        Raises:
            NotRolled: nothing shows what it is.
        """
        if self.first is not None:
            return self.first.slots
        return [self._of_second(j) if row is None else row for j, row in enumerate(self.loop.slots)]

    def _of_second(self, j: int) -> list[Slot]:
        """What an operation reads that the second body alone has, so that no other can contradict."""
        pattern = self.loop.bodies[0]
        slot_of: dict[int, Slot] = {}
        for place, row in zip(self.loop.pattern, self.loop.slots, strict=True):
            indices = zip(row or [], self.sequence.operands[place], strict=False)
            slot_of |= {index: slot for slot, index in indices if slot.kind == "state"}
        operation = self.sequence.order[self.loop.pattern[j]]
        slots = []
        for index in operands(operation):
            if index in pattern:
                slots.append(Slot("same", pattern.index(index)))
            elif index in self.values.settled:
                slots.append(Slot("fixed", index))
            elif index in slot_of:
                slots.append(slot_of[index])
            else:
                raise NotRolled(f"{operation.describe()} is in no other step")
        return slots

    def initials(self) -> dict[tuple[int, int], tuple[int, int]]:
        """For (operation, operand) that is a state: which operation's result, and its value where it is first read."""
        states: dict[tuple[int, int], tuple[int, int]] = {}
        for j, slots in enumerate(self.slots()):
            indices = self.sequence.operands[self.loop.pattern[j]] if self.first is None else self.first.operands[j]
            states |= {(j, i): (of, indices[i]) for i, (kind, of) in enumerate(slots) if kind == "state"}
        return states

    def crossing(self) -> int:
        """How many values a step takes from the one before."""
        return len({of for row in self.loop.slots for kind, of in row or [] if kind == "state"})

    def start_cost(self) -> tuple[bool, int]:
        """Whether the initial value of a state depends on more of the input than its shape, and how many operations it
        takes beside those that make new tensors.
        """
        needed = {initial for _, initial in self.initials().values()}
        count, (x,) = 0, self.values.graph.inputs
        for operation in reversed(self.values.operations):
            if operation.index in needed and not operation.operator.startswith(CREATION):
                needed.update(operation.inputs)
                count += 1
        return x in needed, count
