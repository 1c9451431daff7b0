"""Positions folded into the samples' dimension from the left, as ``nn.MultiheadAttention`` does, kept apart again.

Its output layer reads ``[tokens * samples, features]``, where a sample is every so-manieth row. A dense layer does the
same to ``[tokens, samples, features]``, which says whose rows they are; so the fold is left out, and what follows it up
to the view that undoes it keeps the shape in front of it.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from thetabox.verify.network.graph import Layout, Operation, Ref
from thetabox.verify.network.operators import RELU, RESHAPING

# What is done to every number, or to every row, by itself.
BY_ROW = (
    "aten.linear.default",
    "aten.clone.default",
    "aten.contiguous.default",
    "aten.detach.default",
    "aten.dropout.default",
    "aten.gelu.default",
    "aten.silu.default",
    *RELU,
)


def unfolded(operations: list[Operation], layouts: dict[int, Layout]) -> list[Operation]:
    """The operations with every such fold left out; ``layouts`` are brought in line."""
    apart: set[int] = set()
    out = []
    for operation in operations:
        layout = operation.layout
        source = operation.args[0] if operation.args and isinstance(operation.args[0], Ref) else None
        before = layouts.get(source.index) if source is not None else None
        if isinstance(layout, Layout) and before is not None and before.batch is not None:
            changed = _changed(operation, layout, before, source is not None and source.index in apart)
            if changed is not None:
                operation = changed
                assert isinstance(operation.layout, Layout)
                apart.add(operation.index)
                layouts[operation.index] = operation.layout
        out.append(operation)
    return out


def _changed(operation: Operation, layout: Layout, before: Layout, apart: bool) -> Operation | None:
    """The operation on values whose positions stay apart; ``None`` where it is as it was."""
    assert before.batch is not None
    lead = before.shape[: before.batch]
    if apart:
        others = [a for a in operation.args[1:] if isinstance(a, Ref)]
        by_row = operation.operator in BY_ROW and (operation.operator == "aten.linear.default" or not others)
        if not by_row or layout.batch != 0 or len(layout.shape) != 2:
            return None
        return replace(operation, layout=Layout((*lead, None, *layout.shape[1:]), before.batch))
    folds = operation.operator.startswith(RESHAPING) and before.merged == 1 and before.batch > 0
    positions = prod(s or 1 for s in lead)
    if not folds or positions == 1 or (layout.batch, layout.merged, len(layout.shape)) != (0, positions, 2):
        return None
    if prod(s or 1 for s in before.shape[before.batch + 1 :]) != layout.shape[1]:
        return None
    sizes = [*lead, -1, layout.shape[1]]
    return replace(
        operation, args=(operation.args[0], sizes), layout=Layout((*lead, None, layout.shape[1]), before.batch)
    )
