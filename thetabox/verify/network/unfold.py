"""Positions folded into the samples' dimension from the left, as ``nn.MultiheadAttention`` does, kept apart again.

Its output layer reads ``[tokens * samples, features]``, where a sample is every so-manieth row; so does a network that
multiplies the inputs of all its time steps at once. A dense layer does the same to ``[tokens, samples, features]``,
which says whose rows they are; so the fold is left out, and what follows it up to the view that undoes it keeps the
shape in front of it.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import torch

from thetabox.verify.network.graph import Layout, Operation, Ref
from thetabox.verify.network.operators import NEVER_NEGATIVE, PIECEWISE_LINEAR, RESHAPING

# What is done to every number, or to every row, by itself.
BY_ROW = (
    "aten.linear.default",
    "aten.clone.default",
    "aten.contiguous.default",
    "aten.detach.default",
    "aten.dropout.default",
    "aten.gelu.default",
    "aten.silu.default",
    "aten.tanh.default",
    "aten.elu.default",
    *PIECEWISE_LINEAR,
    *NEVER_NEGATIVE,
)
# By one matrix, which is the same for every row.
PRODUCTS = ("aten.matmul.default", "aten.mm.default")
# Of a number with another, which is the same for every row.
WITH_ROW = tuple(f"aten.{name}.Tensor" for name in ("add", "sub", "mul", "div"))


def unfolded(operations: list[Operation], layouts: dict[int, Layout]) -> list[Operation]:
    """The operations with every such fold left out; ``layouts`` are brought in line."""
    apart: set[int] = set()
    out = []
    for operation in operations:
        layout = operation.layout
        folded = next((a for a in operation.args if isinstance(a, Ref) and a.index in apart), None)
        source = folded or (operation.args[0] if operation.args else None)
        before = layouts.get(source.index) if isinstance(source, Ref) else None
        if isinstance(layout, Layout) and before is not None and before.batch is not None:
            kept = (
                _kept_apart(operation, layout, layouts, before) if folded else _without_fold(operation, layout, before)
            )
            if kept is not None:
                operation = kept
                assert isinstance(operation.layout, Layout)
                apart.add(operation.index)
                layouts[operation.index] = operation.layout
        out.append(operation)
    return out


def _kept_apart(operation: Operation, layout: Layout, layouts: dict[int, Layout], before: Layout) -> Operation | None:
    """What is done to rows, done to rows whose positions are apart; ``None`` where it is not known to be the same."""
    assert before.batch is not None
    if layout.batch != 0 or len(layout.shape) != 2 or not _by_row(operation, layouts):
        return None
    kept = replace(operation, layout=Layout((*before.shape[: before.batch], None, layout.shape[1]), before.batch))
    if operation.operator == "aten.mm.default":  # which takes two matrices and nothing else
        return replace(kept, operator="aten.matmul.default", target=torch.ops.aten.matmul.default)
    return kept


def _by_row(operation: Operation, layouts: dict[int, Layout]) -> bool:
    """Whether an operator does to every row the same, by itself; one of its operands are the rows."""
    if operation.operator == "aten.linear.default":
        return True
    if operation.operator == "aten.layer_norm.default":  # of a row, and not of several
        return len(operation.args[1]) == 1
    first, others = operation.args[0], [a for a in operation.args[1:] if isinstance(a, Ref)]
    if operation.operator in BY_ROW:
        return not others
    operands = [layouts.get(a.index) for a in operation.args if isinstance(a, Ref)]
    same = [o.shape for o in operands if o is not None and o.batch is None]
    if operation.operator in PRODUCTS:
        rows = layouts.get(first.index) if isinstance(first, Ref) else None
        return rows is not None and rows.batch is not None and len(same) == 1 and len(same[0]) == 2
    alone = len(operands) - len(same) == 1 and None not in operands and not operation.kwargs
    return operation.operator in WITH_ROW and alone and all(len(shape) <= 1 for shape in same)


def _without_fold(operation: Operation, layout: Layout, before: Layout) -> Operation | None:
    """A fold of positions into the samples' dimension that is none any more; ``None`` of any other operator."""
    assert before.batch is not None
    lead = before.shape[: before.batch]
    folds = operation.operator.startswith(RESHAPING) and before.batch > 0
    positions = prod(s or 1 for s in lead)
    if not folds or positions == 1 or (layout.batch, layout.merged, len(layout.shape)) != (0, positions, 2):
        return None
    # What shares the samples' dimension, as heads do, goes with the features.
    if before.merged * prod(s or 1 for s in before.shape[before.batch + 1 :]) != layout.shape[1]:
        return None
    sizes = [*lead, -1, layout.shape[1]]
    return replace(
        operation, args=(operation.args[0], sizes), layout=Layout((*lead, None, layout.shape[1]), before.batch)
    )
