"""Reads of a sequence at one index of its time axis: ``x[:, t]``, ``x[:, t : t + 1]``, ``x.unbind(1)[t]``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from thetabox.verify.network.graph import Graph, Layout, Operation, Ref, arguments

# Stands for an index in a tree of arguments that is compared with others.
ANY_INDEX = "any index"


@dataclass(frozen=True)
class TimeRead:
    """A read of a value at one index of an axis.

    Attributes:
        source: position of the value.
        dim: the axis, counted from 0.
        length: how many entries a slice takes; ``None`` for one entry whose axis goes away.
        index: which, the first of them at ``index * length``.
        size: of the axis, in such reads.
    """

    source: int
    dim: int
    length: int | None
    index: int
    size: int


def time_read(graph: Graph, operations: dict[int, Operation], operation: Operation) -> TimeRead | None:
    """An operation as a read at an index, ``None`` where it is none."""
    if not operation.args or not isinstance(operation.args[0], Ref) or not isinstance(operation.layout, Layout):
        return None
    if operation.operator == "getitem":
        return _of_parts(graph, operations.get(operation.args[0].index), operation.args[1])
    source = operation.args[0].index
    if operation.operator not in ("aten.select.int", "aten.slice.Tensor") or graph.layouts.get(source) is None:
        return None
    named = arguments(operation)
    axis = _axis(graph, source, named["dim"])
    if axis is None:
        return None
    dim, size = axis
    if operation.operator == "aten.select.int":
        index = named["index"]
        return TimeRead(source, dim, None, index % size, size) if isinstance(index, int) and size else None
    return _slice(source, dim, size, named)


def without_index(operation: Operation) -> Operation:
    """The operation with its index left out, for a comparison of reads."""
    args: list[Any] = list(operation.args)
    if operation.operator == "aten.select.int":
        args[2:] = [ANY_INDEX]
    elif operation.operator == "aten.slice.Tensor":
        args[2:4] = [ANY_INDEX, ANY_INDEX]
    elif operation.operator == "getitem":
        args[1:] = [ANY_INDEX]
    else:
        return operation
    return Operation(**{**vars_of(operation), "args": tuple(args)})


def vars_of(operation: Operation) -> dict[str, Any]:
    """Fields of an operation."""
    return {name: getattr(operation, name) for name in Operation.__dataclass_fields__}


def _axis(graph: Graph, source: int, dim: int) -> tuple[int, int] | None:
    """An axis counted from 0, and its size where that is not the number of samples."""
    layout = graph.layouts.get(source)
    if layout is None:
        return None
    size = layout.shape[dim]
    return None if size is None else (dim % len(layout.shape), size)


def _slice(source: int, dim: int, size: int, named: dict[str, Any]) -> TimeRead | None:
    start, end = named["start"] or 0, size if named["end"] is None else named["end"]
    if named["step"] != 1 or not isinstance(start, int) or not isinstance(end, int):
        return None
    start, end, _ = slice(start, end).indices(size)
    length = end - start
    if length < 1 or start % length or size % length:
        return None
    return TimeRead(source, dim, length, start // length, size // length)


def _of_parts(graph: Graph, parts: Operation | None, index: Any) -> TimeRead | None:
    """One of the parts that ``unbind`` or ``split`` makes."""
    if parts is None or parts.operator not in ("aten.unbind.int", "aten.split.Tensor"):
        return None
    named = arguments(parts)
    source = parts.args[0].index
    axis = _axis(graph, source, named["dim"])
    if axis is None or not isinstance(index, int):
        return None
    dim, size = axis
    if parts.operator == "aten.unbind.int":
        return TimeRead(source, dim, None, index % size, size)
    length = named["split_size"]
    if not isinstance(length, int) or length < 1 or size % length:
        return None
    return TimeRead(source, dim, length, index % (size // length), size // length)
