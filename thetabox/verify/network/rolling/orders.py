"""Orders in which the operations of a graph may be done, so that those of one time step stand together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from thetabox.verify.network.graph import Operation
from thetabox.verify.network.rolling.reads import time_read
from thetabox.verify.network.rolling.trees import refs
from thetabox.verify.network.rolling.values import Values


def orders(values: Values) -> Iterator[list[Operation]]:
    """As the code does them, but for reads of a sequence, each done when it is needed; then all when they are needed.

    The second order brings loops together that follow one another, step by step, as where a list comprehension
    computes the currents of all steps in front.
    """
    yield _ordered(values, late=_reads_of_whole_axes(values))
    yield _ordered(values, late={o.index for o in values.operations})


def _reads_of_whole_axes(values: Values) -> set[int]:
    """Reads of an axis that is read at every index."""
    operations = {o.index: o for o in values.operations}
    groups: dict[Any, dict[int, list[int]]] = defaultdict(dict)
    for operation in values.operations:
        read = time_read(values.graph, operations, operation)
        if read is not None:
            groups[read.source, read.dim, read.length, read.size].setdefault(read.index, []).append(operation.index)
    return {i for (*_, size), reads in groups.items() if len(reads) == size > 2 for at in reads.values() for i in at}


def _ordered(values: Values, late: set[int]) -> list[Operation]:
    """Operations in order, the late ones each in front of the first that needs it."""
    operations = {o.index: o for o in values.operations}
    done: dict[int, Operation] = {}
    for root in [*(o.index for o in values.operations if o.index not in late), *refs(values.output)]:
        stack = [root]
        while stack:
            operation = operations.get(stack[-1])
            missing = [i for i in operation.inputs if i in operations and i not in done] if operation else []
            if missing:
                stack += reversed(missing)
                continue
            stack.pop()
            if operation is not None:
                done.setdefault(operation.index, operation)
    return list(done.values())
