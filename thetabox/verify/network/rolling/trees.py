"""Arguments of operations as trees of positions and literals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from thetabox.verify.network.graph import Operation, Ref, map_arg_refs


def refs(tree: Any) -> list[int]:
    """Positions in a tree of arguments, in order, with repetitions."""
    positions: list[int] = []
    map_arg_refs(tree, lambda ref: positions.append(ref.index))
    return positions


def operands(operation: Operation) -> list[int]:
    """Positions that an operation reads, one for each place in its arguments."""
    return refs((operation.args, operation.kwargs))


def with_operands(operation: Operation, places: Iterable[int], index: int) -> Operation:
    """An operation on other operands, one for each place in its arguments, at another position."""
    rest: Iterator[int] = iter(places)
    args, kwargs = map_arg_refs((operation.args, operation.kwargs), lambda _: Ref(next(rest)))
    inputs = tuple(dict.fromkeys(refs((args, kwargs))))
    return replace(operation, index=index, args=args, kwargs=kwargs, inputs=inputs)


def frozen(tree: Any, name: Any = lambda index: index) -> Any:
    """A tree of arguments as something to compare: 1, 1.0 and True differ, and so do 0.0 and -0.0.

    Args:
        tree: arguments.
        name: what stands for a value at a position.
    """
    if isinstance(tree, Ref):
        return ("value", name(tree.index))
    if isinstance(tree, (list, tuple)):
        return (type(tree).__name__, *(frozen(t, name) for t in tree))
    if isinstance(tree, dict):
        return ("dict", *((k, frozen(tree[k], name)) for k in sorted(tree)))
    return (type(tree).__name__, repr(tree))
