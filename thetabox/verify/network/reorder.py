"""The same values from operations in a cheaper order."""

from __future__ import annotations

from dataclasses import replace

from thetabox.verify.network.graph import Graph, Operation, Ref
from thetabox.verify.network.operators import MAX_POOLS, RELU


def pooled_first(graph: Graph) -> list[Operation]:
    """The graph's operations with every ReLU that only a max-pool reads after it: they commute, and less is left of it.

    What the pool writes takes the ReLU's position, and the other way round. Not where the pool is dilated: a window of
    padding alone has no largest value, which a ReLU behind it would hide.
    """
    operations = list(graph.operations)
    place = {operation.index: i for i, operation in enumerate(operations)}
    for i, pool in enumerate(operations):
        source = pool.args[0] if pool.operator in MAX_POOLS else None
        before = place.get(source.index) if isinstance(source, Ref) else None
        if before is None or graph.readers[operations[before].index] != 1:
            continue
        relu = operations[before]
        if relu.operator in RELU and not pool.kwargs and _dilation(pool) == {1}:
            operations[before] = replace(pool, index=relu.index, args=(*relu.args, *pool.args[1:]), inputs=relu.inputs)
            operations[i] = replace(relu, index=pool.index, args=(source,), inputs=pool.inputs, layout=pool.layout)
    return operations


def _dilation(pool: Operation) -> set[int]:
    dilation = pool.args[4] if len(pool.args) > 4 else 1
    return set(dilation) if isinstance(dilation, list | tuple) else {dilation}
