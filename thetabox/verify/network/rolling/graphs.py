"""The graphs of a loop that was found."""

from __future__ import annotations

from thetabox.verify.network.graph import Graph
from thetabox.verify.network.rolling.bodies import same_kind
from thetabox.verify.network.rolling.build import Builder, part
from thetabox.verify.network.rolling.candidate import LEAST_STEPS, Candidate
from thetabox.verify.network.rolling.ending import JOINS, Ending
from thetabox.verify.network.rolling.reads import time_read
from thetabox.verify.network.rolling.result import ReadoutInput, Rolled, StepRead
from thetabox.verify.network.rolling.trees import refs
from thetabox.verify.network.rolling.values import NotRolled, SeveralLoops


def rolled_graphs(candidate: Candidate) -> Rolled:
    """A loop with its graphs.

    Raises:
        NotRolled: something shows that it is no loop, or nothing that it is one.
    """
    count, ending = candidate.complete()
    return _Graphs(candidate, count, ending).rolled()


class _Graphs:
    """What the graphs of a loop are made of.

    Attributes:
        states: of each, which operation's result it is, and its value where it is first read.
        reads: (source, axis, length) of what is read at the step's index → an operation of the pattern that does.
        constants: values that enter every step and the readout.
    """

    def __init__(self, candidate: Candidate, count: int, ending: Ending) -> None:
        self.candidate, self.count, self.ending = candidate, count, ending
        self.values = candidate.values
        self.pattern = candidate.loop.pattern_values
        self.slots, self.initials = candidate.slots(), candidate.initials()
        self.moving = frozenset(candidate.moving)
        self.results = [joined.place for joined in ending.joined] + ending.last
        self.needed = self._needed()
        initials = [state for (j, _), state in self.initials.items() if j in self.needed]
        self.states = list(dict.fromkeys(initials))
        self.reads: dict[tuple[int, int, int | None], int] = {}
        for j in sorted(self.needed & self.moving):
            read = candidate.read(j)
            self.reads.setdefault((read.source, read.dim, read.length), j)
        rows = [self.slots[j] for j in sorted(self.needed - self.moving)]
        self.fixed = [of for row in rows for kind, of in row if kind == "fixed"]
        entering = [i for i in [*self.fixed, *ending.others] if i not in self.values.settled]
        self.constants = list(dict.fromkeys(entering))
        self.sources = list(dict.fromkeys(source for source, _, _ in self.reads))
        self._check()

    def _needed(self) -> set[int]:
        """Operations of the pattern that a result depends on, not counting how a sequence is read."""
        needed = set(self.results)
        waiting = list(needed)
        while waiting:
            j = waiting.pop()
            inputs = {of for kind, of in self.slots[j] if kind != "fixed"} if j not in self.moving else set()
            waiting += inputs - needed
            needed |= inputs
        return needed

    def _check(self) -> None:
        values, layouts = self.values, self.values.graph.layouts
        if self.candidate.first is None and not all(same_kind(values, r, self.pattern[q]) for q, r in self.states):
            raise NotRolled("a state has another shape or type behind the first step than behind the others")
        entering = [*self.constants, *self.sources, *(self.pattern[q] for q, _ in self.states)]
        if not all(i in layouts for i in entering):
            raise NotRolled("a step reads several results of one operator as a whole")
        initials = [] if self.candidate.first is None else [r for _, r in self.states]
        _check_no_loop(part(values, values.graph.inputs, [*self.sources, *self.constants, *initials]))

    def rolled(self) -> Rolled:
        """The loop with its graphs."""
        values, candidate, ending = self.values, self.candidate, self.ending
        x = values.graph.inputs
        initials = [r for _, r in self.states]
        first = initial = None
        if candidate.first is not None:
            initial = part(values, x, initials)
        else:
            zeroth = [self._zeroth(j) for j in self.reads.values()]
            joined = [join.first for join in ending.joined]
            first = part(values, [*x, *zeroth, *self.constants], [*joined, *initials])
        lasts = [candidate.loop.bodies[self.count - 1][j] for j in ending.last]
        known = [join.at for join in ending.joined] + [i for i in lasts if i is not None]
        readout = part(values, [*known, *self.constants], refs(values.output))
        _check_no_loop(readout)
        return Rolled(
            steps=self.count + 1,
            drive=part(values, x, self.sources),
            reads=tuple(StepRead(self.sources.index(source), dim, length) for source, dim, length in self.reads),
            constant=part(values, x, self.constants),
            initial=initial,
            first=first,
            step=self._step(),
            outputs=(
                *(ReadoutInput(o.join, o.dim) for o in ending.joined),
                *(ReadoutInput("last") for _ in ending.last),
            ),
            readout=readout,
        )

    def _step(self) -> Graph:
        pattern, order = self.pattern, self.candidate.sequence.order
        read_like = [pattern[j] for j in self.reads.values()]
        state_like = [pattern[q] for q, _ in self.states]
        builder = Builder(self.values, [*read_like, *self.constants, *state_like])
        entries = iter(builder.inputs)
        of_read = {key: next(entries) for key in self.reads}
        # Values are known by what they are in the step, not by where the second body happens to find them.
        builder.position_of = {index: next(entries) for index in self.constants}
        of_state = {state: next(entries) for state in self.states}
        builder.copy(i for i in self.fixed if i in self.values.settled)
        places: dict[int, int] = {}
        for j in sorted(self.needed):
            if j in self.moving:
                read = self.candidate.read(j)
                places[j] = of_read[read.source, read.dim, read.length]
                continue
            operands = []
            for i, (kind, of) in enumerate(self.slots[j]):
                if kind == "fixed":
                    operands.append(builder.position_of[of])
                else:
                    operands.append(places[of] if kind == "same" else of_state[self.initials[j, i]])
            places[j] = builder.placed(order[self.candidate.loop.pattern[j]], operands)
        return builder.graph([places[j] for j in [*self.results, *(q for q, _ in self.states)]])

    def _zeroth(self, j: int) -> int:
        """What the first step reads in place of the second's read; where it reads nothing there, a value like it."""
        read, sequence = self.candidate.read(j), self.candidate.sequence
        wanted = (read.source, read.dim, read.length, 0)
        for operation, other in zip(sequence.order[: self.candidate.loop.start], sequence.reads, strict=False):
            if other is not None and (other.source, other.dim, other.length, other.index) == wanted:
                return operation.index
        return sequence.order[self.candidate.loop.pattern[j]].index


def _check_no_loop(graph: Graph) -> None:
    """What is in front of the loop or behind it holds no other, of which nothing would be seen here."""
    operations = {o.index: o for o in graph.operations}
    indices: dict[tuple[int, int, int | None], set[int]] = {}
    for operation in graph.operations:
        joined = operation.operator in JOINS and len(operations.keys() & set(operation.inputs)) >= LEAST_STEPS
        read = time_read(graph, operations, operation)
        if read is not None:
            indices.setdefault((read.source, read.dim, read.length), set()).add(read.index)
        if joined or any(len(steps) >= LEAST_STEPS for steps in indices.values()):
            raise SeveralLoops
