"""What follows a loop: how it reads the results of the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thetabox.verify.network.graph import Operation, Ref, arguments
from thetabox.verify.network.rolling.bodies import Body, Loop, same_kind
from thetabox.verify.network.rolling.trees import operands, refs
from thetabox.verify.network.rolling.values import NotRolled

JOINS = {"aten.stack.default": "stack", "aten.cat.default": "cat"}


@dataclass(frozen=True)
class Joined:
    """The results of one operation in all steps, joined.

    Attributes:
        at: position of the join.
        place: which operation of a body.
        first: position of the first step's result.
        join: ``"stack"`` or ``"cat"``.
        dim: of the joined value, counted from 0.
    """

    at: int
    place: int
    first: int
    join: str
    dim: int


@dataclass(frozen=True)
class Ending:
    """What is behind the last body.

    Attributes:
        joined: results of all steps that are read.
        last: operations of a body whose result in the last step is read.
        others: positions of values in front of the loop that are read.
    """

    joined: list[Joined]
    last: list[int]
    others: list[int]


def ending_of(loop: Loop, first: Body | None, count: int) -> Ending:
    """What follows ``count`` bodies, the second to the last; ``first`` is the first, where it is like them.

    Raises:
        NotRolled: it reads a step's result in another way than is known.
    """
    values, bodies = loop.sequence.values, loop.bodies[:count]
    rest = loop.sequence.order[loop.ends[count - 1] :]
    made = {o.index for o in rest}
    steps = {index: k + 1 for k, body in enumerate(bodies) for index in body if index is not None}
    steps |= {index: 0 for index in first or [] if index is not None}
    place = {index: j for j, index in enumerate(bodies[-1]) if index is not None}
    joined: list[Joined] = []
    last: dict[int, None] = {}
    others: dict[int, None] = {}
    of_first = _of_first_step(loop)

    def read(index: int, by: str) -> None:
        if index in made or index in values.settled:
            return
        if index in place:
            last[place[index]] = None
        elif index in steps or index in of_first:
            raise NotRolled(f"{by} reads a result of step {steps.get(index, 0) + 1} of {count + 1}")
        else:
            others[index] = None

    for operation in rest:
        join = _join(loop, operation, bodies, first)
        if join is None:
            for index in operands(operation):
                read(index, operation.describe())
        else:
            joined.append(join)
    for index in refs(values.output):
        read(index, "the network's answer")
    return Ending(joined, list(last), list(others))


def _join(loop: Loop, operation: Operation, bodies: Sequence[Body], first: Body | None) -> Joined | None:
    """An operation that joins the results of one operation in all steps."""
    layouts = loop.sequence.values.graph.layouts
    if operation.operator not in JOINS or operation.index not in layouts:
        return None
    named = arguments(operation)
    parts = [p.index for p in named["tensors"] if isinstance(p, Ref)]
    if len(parts) != len(bodies) + 1 or parts[-1] not in bodies[-1]:
        return None
    j = bodies[-1].index(parts[-1])
    if parts[1:] != [body[j] for body in bodies] or (first is not None and parts[0] != first[j]):
        return None
    if not loop.in_front(parts[0]) or not same_kind(loop.sequence.values, parts[0], parts[1]):
        return None
    rank = len(layouts[operation.index].shape)
    return Joined(operation.index, j, parts[0], JOINS[operation.operator], named["dim"] % rank)


def _of_first_step(loop: Loop) -> set[int]:
    """Values in front of the second body that depend on what a step reads at its index."""
    sequence = loop.sequence
    sources = {(r.source, r.dim) for j in loop.moving if (r := sequence.reads[loop.pattern[j]]) is not None}
    dependent: set[int] = set()
    for operation, indices, read in zip(sequence.order[: loop.start], sequence.operands, sequence.reads, strict=False):
        reads = read is not None and (read.source, read.dim) in sources
        if reads or not dependent.isdisjoint(indices):
            dependent.add(operation.index)
    return dependent
