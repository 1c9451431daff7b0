"""A graph in which the samples' dimension always comes first and holds nothing else.

Attention moves tokens in front of the samples and folds its heads into them; what is done to a sample is the same. With
``[.., N m, ..]`` written as ``[N, .., m, ..]``, dense layers and functions of every number stay as they are, and what
only rearranges becomes one index.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from thetabox.verify.network.graph import Graph, Layout, Operation, Ref
from thetabox.verify.network.unfold import BY_ROW

REARRANGE = tuple(
    f"aten.{name}."
    for name in ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "movedim", "select",
                 "squeeze", "unsqueeze")
)  # names, several to a line  # fmt: skip
# Of two values of one shape.
TOGETHER = ("aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor")


def samples_first(graph: Graph) -> Graph:
    """The same function of every sample; the graph itself where an operator in the way is not known to be one."""
    layouts, operations, moved = dict(graph.layouts), [], False
    for operation in graph.operations:
        old = [graph.layouts[i] for i in operation.inputs if i in graph.layouts]
        old += [operation.layout] if isinstance(operation.layout, Layout) else []
        if isinstance(operation.layout, Layout) and not all(map(_first, old)):
            changed = _changed(operation, graph.layouts)
            if changed is None:
                return graph
            operation, moved = changed, True
            assert isinstance(operation.layout, Layout)
            layouts[operation.index] = operation.layout
        elif operation.layout is not None and not all(map(_first, old)):
            return graph
        operations.append(operation)
    if not moved:
        return graph
    return replace(graph, operations=operations, layouts=layouts, last_use={}, readers=Counter())


def _first(layout: Layout) -> bool:
    return layout.batch is None or (layout.batch, layout.merged) == (0, 1)


def _shape(layout: Layout) -> tuple[int, ...]:
    """Of one sample, positions apart."""
    if layout.batch is None:
        raise ValueError("a value of all samples")
    inner = (layout.merged,) if layout.merged > 1 else ()
    return tuple(s or 1 for s in (*layout.shape[: layout.batch], *inner, *layout.shape[layout.batch + 1 :]))


def _changed(operation: Operation, layouts: dict[int, Layout]) -> Operation | None:
    """The operation on values with their samples first; ``None`` where it may not be the same."""
    layout, name = operation.layout, operation.operator
    assert isinstance(layout, Layout)
    refs = [a.index for a in operation.args if isinstance(a, Ref)]
    if layout.batch is None or not refs or not isinstance(operation.args[0], Ref):
        return None
    if not set(operation.kwargs) <= {"memory_format"}:
        return None
    source = layouts.get(refs[0])
    if source is None or source.batch is None:
        return None
    after = Layout((None, *_shape(layout)), 0)
    others = [layouts[i] for i in refs[1:] if i in layouts]
    if name.startswith(REARRANGE):
        where = _places(operation, source, layout)
        index = [None, *where.unbind(0)] if where is not None else None
        if index is None:
            return None
        target = torch.ops.aten.index.Tensor
        return replace(
            operation, operator="aten.index.Tensor", target=target, args=(operation.args[0], index), inputs=(refs[0],),
            layout=after,
        )  # arguments, several to a line  # fmt: skip
    last = source.batch < len(source.shape) - 1
    by_row = name in BY_ROW and last and all(o.batch is None for o in others)
    together = name in TOGETHER and len(refs) == 2 and others == [source]
    return replace(operation, layout=after) if by_row or together else None


def _places(operation: Operation, source: Layout, layout: Layout) -> Tensor | None:
    """Where every number of a sample comes from, ``[dimensions of the operand, *shape]``; ``None`` where unknown."""
    before = _shape(source)
    numbers = torch.arange(prod(before)).view(source.sizes(1))
    sizes = layout.sizes(1)
    if operation.operator.startswith(
        ("aten.view.", "aten.reshape.", "aten._unsafe_view.", "aten.flatten.", "aten.unfl")
    ):
        taken = numbers.reshape(sizes)
    elif any(isinstance(a, Ref) for a in operation.args[1:]):
        return None
    else:
        taken = operation.target(numbers, *operation.args[1:])
    if taken.numel() != prod(sizes):
        return None
    return torch.stack(torch.unravel_index(taken.reshape(_shape(layout)), before))
