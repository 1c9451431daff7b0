"""torch's types of every operation of a graph: what a number in a bound stands for depends on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch

from thetabox.verify.graph import Graph, Layout, Operation, Ref


@dataclass(frozen=True)
class Kind:
    """The types of one operation.

    Attributes:
        result: type of the one result; ``None`` where there are several.
        operands: types of the positional arguments that are tensors, ``None`` for the others.
        common: type in which an elementwise operator computes.
        network: type of the network's input.
        constant: one result of whole numbers or truth values that belongs to no sample.
    """

    result: torch.dtype | None
    operands: tuple[torch.dtype | None, ...]
    common: torch.dtype | None
    network: torch.dtype | None
    constant: bool

    @property
    def whole(self) -> bool:
        """Whether the result is whole numbers or truth values."""
        return is_whole(self.result)

    @property
    def rounded(self) -> bool:
        """Whether a network in float64 computes this in float32."""
        return self.network is torch.float64 and self.common is torch.float32

    @property
    def narrow(self) -> bool:
        """Whether the result is a floating type of fewer digits than float32 and not the network's own.

        Of several results, whether an operand is.
        """
        types = self.operands if self.result is None else (self.result,)
        return any(t is not None and t.is_floating_point and t.itemsize < 4 and t is not self.network for t in types)

    @property
    def narrows(self) -> bool:
        """Whether operands in float64 are first rounded to float32."""
        return self.common is torch.float32 and torch.float64 in self.operands

    @property
    def plain(self) -> bool:
        """Whether the result is real numbers with the network's own rounding, and nothing else was rounded."""
        return not (self.whole or self.rounded or self.narrow or self.narrows)


def is_whole(dtype: torch.dtype | None) -> bool:
    """Whether a type holds whole numbers or truth values, which do not round but wrap."""
    return dtype is not None and not dtype.is_floating_point and not dtype.is_complex


def ends_of(dtype: torch.dtype) -> tuple[int, int]:
    """Least and largest number of a type of whole numbers."""
    if dtype is torch.bool:
        return 0, 1
    limits = torch.iinfo(dtype)
    return limits.min, limits.max


_known: dict[int, tuple[Any, dict[int, Kind]]] = {}


def kinds(graph: Graph) -> dict[int, Kind]:
    """The types of every operation, by position; found once a graph."""
    known = _known.get(id(graph))
    if known is None or known[0]() is not graph:
        key = id(graph)
        known = ref(graph, lambda _: _known.pop(key, None)), {o.index: kind(graph, o) for o in graph.operations}
        _known[key] = known
    return known[1]


def kind(graph: Graph, operation: Operation) -> Kind:
    """The types of one operation."""
    layout = operation.layout
    operands = tuple(graph.dtypes.get(a.index) if isinstance(a, Ref) else None for a in operation.args)
    return Kind(
        result=operation.dtype,
        operands=operands,
        common=_common(graph, operation),
        network=graph.dtypes.get(graph.inputs[0]) if graph.inputs else None,
        constant=is_whole(operation.dtype) and isinstance(layout, Layout) and layout.batch is None,
    )


def _common(graph: Graph, operation: Operation) -> torch.dtype | None:
    """The result's type; of truth values, that in which the operands are compared."""
    if operation.dtype is not torch.bool:
        return operation.dtype
    operands = [_like(graph, a) for a in operation.args if isinstance(a, Ref | int | float)]
    operands = [v for v in operands if v is not None]
    if not operands:
        return operation.dtype
    return torch.result_type(operands[0], operands[-1])


def _like(graph: Graph, argument: Any) -> Any:
    """A number, or a tensor without content of the same type and rank."""
    if not isinstance(argument, Ref):
        return argument
    dtype, layout = graph.dtypes.get(argument.index), graph.layouts.get(argument.index)
    if dtype is None or layout is None:
        return None
    return torch.empty([1] * len(layout.shape), dtype=dtype, device="meta")
