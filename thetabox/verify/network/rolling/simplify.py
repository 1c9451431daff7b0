"""Operations that only return a value that is there already, and writes to every entry along an axis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from thetabox.verify.network.graph import Graph, Layout, Operation, Ref, arguments

# The last index of a slice that has none.
WHOLE_AXIS = (1 << 63) - 1


class Simplifier:
    """Says of one operation after the other what it makes in simpler terms.

    Args:
        graph: whose operations they are.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.operations: dict[int, Operation] = {}
        # Of a value that was written to entry by entry: along which axis, and what stands at which index.
        self.writes: dict[int, tuple[int, dict[int, int]]] = {}

    def add(self, operation: Operation) -> None:
        """One that stays."""
        self.operations[operation.index] = operation

    def of(self, operation: Operation) -> Operation | int:
        """The operation, another that makes the same, or the position of a value that is what it makes."""
        match operation.operator:
            case "aten.slice.Tensor" if _whole(operation, operation.args[1:]):
                return self._alike(operation, operation.args[0])
            case "aten.slice_scatter.default" if _whole(operation, operation.args[2:]):
                return self._alike(operation, operation.args[1])
            case "aten.copy.default" if len(operation.args) == 2 and not operation.kwargs:
                return self._alike(operation, operation.args[1])
            case "aten.select_scatter.default":
                return self._written(operation)
            case "aten.select.int":
                return self._selected(operation, operation.args[0], operation.args[1], operation.args[2])
            case "getitem":
                parts = self.operations.get(operation.args[0].index)
                if parts is not None and parts.operator == "aten.unbind.int":
                    return self._selected(operation, parts.args[0], arguments(parts)["dim"], operation.args[1])
        return operation

    def _alike(self, operation: Operation, value: Any) -> Operation | int:
        """The position of a value, if that has the shape and type of the result."""
        if not isinstance(value, Ref) or not isinstance(operation.layout, Layout):
            return operation
        graph = self.graph
        alike = graph.layouts.get(value.index) == operation.layout
        return value.index if alike and graph.dtypes.get(value.index) == operation.dtype else operation

    def _selected(self, operation: Operation, source: Ref, dim: int, index: Any) -> Operation | int:
        """One of the values that a stack was made of."""
        stack = self.operations.get(source.index)
        if stack is None or stack.operator != "aten.stack.default" or not isinstance(stack.layout, Layout):
            return operation
        rank, named = len(stack.layout.shape), arguments(stack)
        if named["dim"] % rank != dim % rank or not isinstance(index, int):
            return operation
        return self._alike(operation, named["tensors"][index])

    def _written(self, operation: Operation) -> Operation:
        """A value of which every entry along an axis has been written is their stack."""
        named = arguments(operation)
        base, source, dim, index = named["self"], named["src"], named["dim"], named["index"]
        layouts, layout = self.graph.layouts, operation.layout
        if not isinstance(layout, Layout) or not isinstance(index, int) or source.index not in layouts:
            return operation
        dim %= len(layout.shape)
        size = layout.shape[dim]
        before, entries = self.writes.get(base.index, (dim, {}))
        typed = self.graph.dtypes.get(source.index) == operation.dtype
        if size is None or not typed or list(layouts[source.index].shape) != _without(layout.shape, dim):
            return operation
        entries = {**(entries if before == dim else {}), index % size: source.index}
        self.writes[operation.index] = (dim, entries)
        if len(entries) < size:
            return operation
        parts = [entries[i] for i in range(size)]
        return replace(
            operation,
            operator="aten.stack.default",
            target=torch.ops.aten.stack.default,
            args=([Ref(i) for i in parts], dim),
            kwargs={},
            inputs=tuple(dict.fromkeys(parts)),
        )


def _without(shape: tuple[int | None, ...], dim: int) -> list[int | None]:
    return [size for d, size in enumerate(shape) if d != dim]


def _whole(operation: Operation, bounds: tuple[Any, ...]) -> bool:
    """Whether the bounds (dimension, start, end, step) of a slice take the whole axis."""
    if operation.kwargs or len(bounds) not in (3, 4):
        return False
    _, start, end, *step = bounds
    return start in (0, None) and end in (WHOLE_AXIS, None) and step in ([], [1])
