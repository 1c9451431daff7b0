"""Which values are worth bounding by rows of their own, told from the graph alone."""

from __future__ import annotations

from dataclasses import dataclass

from thetabox.verify.linear.samples import first_layout
from thetabox.verify.network.graph import Graph
from thetabox.verify.network.operators import CONVOLUTIONS, TWO_SLOPES


@dataclass(frozen=True)
class _Depth:
    """What stands in front of a value: how many kinks on a path, and whether any layer shares its weights."""

    kinks: int = 0
    shared: bool = False


def targets(graph: Graph) -> set[int]:
    """Values whose intervals are looser than need be and in front of a ReLU.

    The intervals in front of the first ReLU are exact, and so are those of the second of two dense layers, whose
    inputs know nothing of each other.
    """
    depth: dict[int, _Depth] = {}
    positions = set()
    for operation in graph.operations:
        before = [depth[i] for i in operation.inputs if i in depth]
        kinks = max((d.kinks for d in before), default=0)
        shared = any(d.shared for d in before) or operation.operator in CONVOLUTIONS
        if operation.operator in TWO_SLOPES:
            if kinks >= 2 or (kinks == 1 and shared):
                positions.add(operation.inputs[0])
            kinks += 1
        depth[operation.index] = _Depth(kinks, shared)
    return positions


def narrows(graph: Graph) -> set[int]:
    """Values that everything behind them is computed from: no path leads past them."""
    order = {o.index: position for position, o in enumerate(graph.operations)}
    farthest, narrow = -1, set()
    for position, operation in enumerate(graph.operations):
        layout = first_layout(operation)
        if layout is None or layout.batch is None:
            continue
        if farthest <= position:
            narrow.add(operation.index)
        farthest = max(farthest, order.get(graph.last_use.get(operation.index, -1), position))
    return narrow
