"""Recurrent layers inside the domain ``linear``: affine forms through time in place of boxes.

The layers have no backward rule yet, so a walk ends at their outputs; what stands for those is the intersection of the
interval rule with :mod:`~thetabox.verify.interpreter.rules.recurrent_forms`.
"""

from __future__ import annotations

from thetabox.verify.interpreter.rules.recurrent_forms import WALKED, work
from thetabox.verify.network.graph import Graph, Operation, Ref

# Generators of a state, with intermediate bounds by intervals (as many of these as are cheap) and by backward rows.
FEW, MANY = (256, 128, 64, 32), 1024
# Forward passes that the few may take: the cheap stage of ``auto`` does without them where layers are wide.
CHEAP = 250.0


def generators(graph: Graph, forward: int, *, backward: bool) -> int:
    """How many generators the layers may keep; 0 where there is no such layer, or boxes must do."""
    if not any(_sizes(graph, o) for o in graph.operations):
        return 0
    return MANY if backward else next((n for n in FEW if passes(graph, n, forward) <= CHEAP), 0)


def passes(graph: Graph, wanted: int, forward: int) -> float:
    """Forward passes that the affine forms of all layers take; none without generators."""
    if not wanted:
        return 0.0
    total = 0
    for operation in graph.operations:
        total += sum(work(operation.operator, wanted, units, steps) for units, steps in _sizes(graph, operation))
    return total / forward


def _sizes(graph: Graph, operation: Operation) -> list[tuple[int, int]]:
    """Units and steps of every layer and direction that is walked so."""
    if operation.operator not in WALKED or not isinstance(operation.layout, tuple) or operation.layout[0] is None:
        return []
    layout = operation.layout[0]
    _, gates = WALKED[operation.operator]
    steps = layout.shape[1 if layout.batch == 0 else 0] or 1
    shapes = [
        graph.layouts[p.index].shape for p in operation.args[2] if isinstance(p, Ref) and p.index in graph.layouts
    ]
    # The weights of a state have a row for each gate of each unit; those of an input may look the same.
    matrices = [shape for shape in shapes if len(shape) == 2]
    hidden = matrices[1::2]
    if len(matrices) % 2 or any((rows or 1) != gates * (units or 1) for rows, units in hidden):
        return []  # a layer that projects
    return [(units or 1, steps) for _, units in hidden]
