"""The values of a traced graph that its output needs, in fewer words.

Operators of a trace write to nothing and draw nothing (:func:`values_of` makes sure), so two calls of one operator on
the same arguments have the same result. Views of the input are merged, questions for the number of samples, and lifted
constants of the same bits. Other calls stay where they are, each in its step, though it be the same in all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from thetabox.verify.network.graph import Graph, Layout, Operation, Ref, map_arg_refs
from thetabox.verify.network.rolling.simplify import Simplifier
from thetabox.verify.network.rolling.trees import frozen, operands, refs, with_operands

SIZE = "aten.sym_size.int"
# Results that depend on the shape of an operand, and not on its numbers.
CREATION = tuple(
    f"aten.{name}."
    for name in ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "sym_size")
)
# Operators that read the same numbers elsewhere.
VIEWS = ("getitem", *(
    f"aten.{name}"
    for name in ("select.int", "slice.Tensor", "unbind.int", "split.Tensor", "permute.default", "transpose.int",
                 "t.default", "view.default", "reshape.default", "unsqueeze.default", "squeeze.dim")
))  # names, several to a line  # fmt: skip


class NotRolled(Exception):
    """A graph that is not seen to be one step, repeated.

    Attributes:
        reason: one sentence.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SeveralLoops(NotRolled):
    """A graph with a loop that is one step, repeated, and another."""

    def __init__(self) -> None:
        super().__init__("there are several loops, of which one reads what another has computed")


@dataclass(frozen=True)
class Values:
    """Distinct values of a graph that its output needs.

    Attributes:
        graph: as traced.
        operations: in order, reading distinct values alone; positions are those of ``graph``.
        output: tree of the distinct results.
        settled: positions of parameters, constants, and what depends on them and the number of samples alone.
    """

    graph: Graph
    operations: list[Operation]
    output: Any
    settled: frozenset[int]

    def layout(self, index: int) -> Layout | None:
        """Shape of a value that is one tensor."""
        return self.graph.layouts.get(index)


def values_of(graph: Graph) -> Values:
    """The values that a graph's output needs.

    Raises:
        NotRolled: an operator draws at random or writes to its operands, or the graph has several inputs.
    """
    if len(graph.inputs) != 1:
        raise NotRolled("the network has several inputs")
    same = _same_leaves(graph)
    first_of: dict[Any, int] = {}
    settled = {*graph.tensors, *graph.constants}
    views = {*graph.inputs}
    simplifier = Simplifier(graph)
    for operation in graph.operations:
        _check_pure(operation)
        changed = simplifier.of(_renamed(graph, operation, same))
        if isinstance(changed, int):
            same[operation.index] = changed
            continue
        if changed.operator == SIZE or settled.issuperset(changed.inputs):
            settled.add(operation.index)
        viewed = changed.operator in VIEWS and views.issuperset(changed.inputs)
        if changed.operator != SIZE and not viewed:
            simplifier.add(changed)
            continue
        key = (changed.target, frozen((changed.args, changed.kwargs)), changed.layout, changed.dtype)
        first = first_of.setdefault(key, operation.index)
        if first == operation.index:
            simplifier.add(changed)
            views |= {first} if viewed else set()
        else:
            same[operation.index] = first
    operations = list(simplifier.operations.values())
    output = map_arg_refs(graph.output, lambda ref: Ref(same.get(ref.index, ref.index)))
    needed = set(refs(output))
    for operation in reversed(operations):
        if operation.index in needed:
            needed.update(operation.inputs)
    return Values(graph, [o for o in operations if o.index in needed], output, frozenset(settled))


def _check_pure(operation: Operation) -> None:
    tags = getattr(operation.target, "tags", ())
    if torch.Tag.nondeterministic_seeded in tags:
        raise NotRolled(f"{operation.describe()} draws at random")
    schema = getattr(operation.target, "_schema", None)
    if schema is not None and schema.is_mutable:
        raise NotRolled(f"{operation.describe()} writes to its operands")


def _same_leaves(graph: Graph) -> dict[int, int]:
    """Of parameters and constants that are the same, the first."""
    first_of: dict[Any, int] = {}
    same = {}
    for index, name in graph.tensors.items():
        view = graph.views.get(index)
        places = None if view is None or view.entries is None else _bits(view.entries)
        same[index] = first_of.setdefault((name, places), index)
    for index, constant in graph.constants.items():
        same[index] = first_of.setdefault(_bits(constant), index)
    return same


def _bits(tensor: Tensor) -> Any:
    held = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return (tensor.dtype, tuple(tensor.shape), tensor.device, held.numpy().tobytes())


def _renamed(graph: Graph, operation: Operation, same: dict[int, int]) -> Operation:
    """On distinct values; the number of samples is always asked of the network's input."""
    if operation.operator == SIZE:
        layout, whole = graph.layouts.get(operation.args[0].index), graph.layouts.get(graph.inputs[0])
        counts = [(v.batch, v.merged) for v in (layout, whole) if v is not None]
        if counts == [(operation.args[1], 1), (0, 1)]:
            return replace(operation, args=(Ref(graph.inputs[0]), 0), inputs=(graph.inputs[0],))
    return with_operands(operation, [same.get(i, i) for i in operands(operation)], operation.index)
