"""torch's types of every operation of a graph: what a number in a bound stands for depends on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch

from thetabox.verify.network.graph import Graph, Layout, Operation, Ref


@dataclass(frozen=True)
class Kind:
    """The types of one operation.

    Attributes:
        result: type of the one result; ``None`` where there are several.
        operands: types of the positional arguments that are tensors, ``None`` for the others.
        common: type in which an elementwise operator computes.
        network: type of the network's input.
        constant: one result of whole numbers or truth values that belongs to no sample.
        read: types of all tensors that it reads, those in lists as well.
        chosen: it reads one of several results of an operator, of which some may have no rule.
    """

    result: torch.dtype | None
    operands: tuple[torch.dtype | None, ...]
    common: torch.dtype | None
    network: torch.dtype | None
    constant: bool
    read: frozenset[torch.dtype] = frozenset()
    chosen: bool = False

    @cached_property
    def whole(self) -> bool:
        """Whether the result is whole numbers or truth values."""
        return is_whole(self.result)

    @cached_property
    def wraps(self) -> bool:
        """Whether results or operands may wrap."""
        return self.whole or is_whole(self.common)

    @cached_property
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

    @cached_property
    def narrows(self) -> bool:
        """Whether operands in float64 are first rounded to float32."""
        return self.common is torch.float32 and torch.float64 in self.read

    @cached_property
    def from_wider(self) -> bool:
        """Whether a float32 operator reads numbers that float32 may not hold."""
        wider = any(t is torch.float64 or (is_whole(t) and t is not torch.bool) for t in self.read)
        return self.common is torch.float32 and wider

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


_known: WeakKeyDictionary[Graph, dict[int, Kind]] = WeakKeyDictionary()


def kinds(graph: Graph) -> dict[int, Kind]:
    """The types of every operation, by position; found once a graph."""
    cached = _known.get(graph)
    if cached is None:
        chosen = {o.index for o in graph.operations if o.operator == "getitem"}
        cached = {o.index: _kind(graph, o, chosen) for o in graph.operations}
        _known[graph] = cached
    return cached


def _kind(graph: Graph, operation: Operation, chosen: set[int]) -> Kind:
    layout = operation.layout
    operands = tuple(graph.dtypes.get(a.index) if isinstance(a, Ref) else None for a in operation.args)
    return Kind(
        result=operation.dtype,
        operands=operands,
        common=_common(graph, operation),
        network=graph.dtypes.get(graph.inputs[0]) if graph.inputs else None,
        constant=is_whole(operation.dtype) and isinstance(layout, Layout) and layout.batch is None,
        read=frozenset(graph.dtypes[i] for i in operation.inputs if i in graph.dtypes),
        chosen=any(i in chosen for i in operation.inputs),
    )


def _common(graph: Graph, operation: Operation) -> torch.dtype | None:
    """The result's type; of truth values, that in which the operands are compared; of several, the first operand's."""
    if operation.dtype is None:
        types = (graph.dtypes.get(a.index) for a in operation.args if isinstance(a, Ref))
        first = next((t for t in types if t is not None), None)
        return first if first is not None and first.is_floating_point else None
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
