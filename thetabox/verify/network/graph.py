"""A traced module: operators in order, with the samples' axis known at every value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from thetabox.models.views import View


@dataclass(frozen=True)
class Ref:
    """A value of the graph, by its position."""

    index: int


class BatchSize:
    """Stands for the number of samples, which no value of a network may depend on."""


@dataclass(frozen=True)
class Layout:
    """Shape of a traced value.

    Attributes:
        shape: sizes; ``None`` in the samples' dimension.
        batch: the samples' dimension, ``None`` where the value is the same for all samples.
        merged: positions that a sample holds in that dimension.
    """

    shape: tuple[int | None, ...]
    batch: int | None = None
    merged: int = 1

    def sizes(self, rows: int) -> list[int]:
        """Concrete sizes for ``rows`` samples."""
        return [rows * self.merged if s is None else s for s in self.shape]

    @property
    def before_batch(self) -> int:
        """Number of elements in front of the samples' dimension."""
        count = 1
        for size in self.shape[: self.batch or 0]:
            count *= size or 1
        return count


@dataclass(frozen=True)
class Operation:
    """One call of an operator; ``call`` names that of the code, where torch has written it out as others."""

    index: int
    name: str
    operator: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    layout: Layout | tuple[Layout | None, ...] | None
    inputs: tuple[int, ...]
    where: str
    dtype: torch.dtype | None = None
    call: str = ""

    @cached_property
    def operands(self) -> tuple[int, ...]:
        """Positions of the values that it reads, each as often as it stands among the arguments."""
        refs: list[Ref] = []
        map_arg_refs((self.args, self.kwargs), refs.append)
        return tuple(ref.index for ref in refs)

    @cached_property
    def flat(self) -> bool:
        """Whether every operand is an argument by itself, none in a list or by keyword."""
        return len(self.operands) == sum(isinstance(a, Ref) for a in self.args)

    def describe(self) -> str:
        """For messages: the operator and where it stands."""
        call = f" of {self.call}" if self.call else ""
        return f"{self.operator}{call} at {self.where or 'the top level'} ({self.name})"


@dataclass(eq=False)
class Graph:
    """A traced module; equal to itself alone.

    Attributes:
        inputs: positions of the module's arguments.
        tensors: position → name of a parameter or buffer.
        constants: position → tensor lifted out of the code.
        operations: in order of evaluation; each writes the position ``index``.
        output: tree of :class:`Ref` and numbers.
        layouts: of every value that is one tensor.
        dtypes: of every value that is one tensor, as it was traced.
        views: position → which part of the tensor that it names stands there, where it is not the whole as it is.
        batch_sizes: at which the code may do something else than what was traced.
        checked: what was found to be so of this trace and need not be looked at again.
    """

    inputs: list[int]
    tensors: dict[int, str]
    constants: dict[int, Tensor]
    operations: list[Operation]
    output: Any
    layouts: dict[int, Layout]
    dtypes: dict[int, torch.dtype] = field(default_factory=dict)
    last_use: dict[int, int] = field(default_factory=dict)
    readers: Counter[int] = field(default_factory=Counter)
    views: dict[int, View] = field(default_factory=dict)
    batch_sizes: list[int] = field(default_factory=list)
    checked: set[Any] = field(default_factory=set)

    def __post_init__(self) -> None:
        def read(ref: Ref) -> None:
            self.readers[ref.index] += 1

        for operation in self.operations:
            self.last_use.update(dict.fromkeys(operation.inputs, operation.index))
            map_arg_refs((operation.args, operation.kwargs), read)
        for index in self.outputs:
            self.last_use[index] = 1 << 60
            self.readers[index] += 1

    @property
    def outputs(self) -> list[int]:
        """Positions of the module's results."""
        positions: list[int] = []
        map_arg_refs(self.output, lambda ref: positions.append(ref.index))
        return positions

    def describe(self) -> str:
        """Every operation with its arguments, parameters and which part of each is read, places of constants."""
        steps = [(o.index, o.operator, o.args, o.kwargs) for o in self.operations]
        views = {
            i: [view.entries.shape, view.entries.flatten().tolist()]
            for i, view in self.views.items()
            if view.entries is not None
        }
        return repr((self.inputs, self.tensors, views, sorted(self.constants), steps, self.output))


def map_arg_refs(tree: Any, function: Any) -> Any:
    """Replace every :class:`Ref` in nested lists, tuples, dictionaries and slices."""
    if isinstance(tree, Ref):
        return function(tree)
    if isinstance(tree, (list, tuple)):
        return type(tree)(map_arg_refs(t, function) for t in tree)
    if isinstance(tree, dict):
        return {k: map_arg_refs(v, function) for k, v in tree.items()}
    return tree


def dependants(graph: Graph, roots: Iterable[int]) -> set[int]:
    """Positions of everything that depends on one of the given positions."""
    positions = set(roots)
    for operation in graph.operations:
        if any(i in positions for i in operation.inputs):
            positions.add(operation.index)
    return positions


def arguments(operation: Operation) -> dict[str, Any]:
    """All arguments of an operation by the names of its schema, defaults included."""
    defaults = {a.name: a.default_value for a in operation.target._schema.arguments if a.has_default_value()}
    places = [a.name for a in operation.target._schema.arguments if not a.kwarg_only]
    return defaults | dict(zip(places, operation.args, strict=False)) | operation.kwargs
