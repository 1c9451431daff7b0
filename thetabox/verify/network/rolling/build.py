"""A graph made of some values of another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from thetabox.verify.network.graph import Graph, Layout, Operation, Ref
from thetabox.verify.network.rolling.trees import operands, with_operands
from thetabox.verify.network.rolling.values import SIZE, NotRolled, Values


class Builder:
    """Copies values into a new graph, whose positions count from 0.

    Args:
        values: where they come from.
        inputs: what enters the new graph, in order: positions of values whose shape and type each has. ``position_of``
            says where in the new graph a value of the old one stands; one that several inputs are like is the first.
    """

    def __init__(self, values: Values, inputs: Sequence[int]) -> None:
        self.values = values
        self.layouts: dict[int, Layout] = {}
        self.dtypes: dict[int, torch.dtype] = {}
        self.tensors: dict[int, str] = {}
        self.constants: dict[int, torch.Tensor] = {}
        self.views: dict[int, Any] = {}
        self.operations: list[Operation] = []
        self.count = 0
        self.inputs = [self._new_position(index) for index in inputs]
        self.position_of: dict[int, int] = {}
        for index, position in zip(inputs, self.inputs, strict=True):
            self.position_of.setdefault(index, position)

    def _new_position(self, like: int) -> int:
        """A new position for a value."""
        position, graph = self.count, self.values.graph
        self.count += 1
        if like in graph.layouts:
            self.layouts[position] = graph.layouts[like]
        if like in graph.dtypes:
            self.dtypes[position] = graph.dtypes[like]
        return position

    def copy(self, wanted: Iterable[int]) -> None:
        """Make values known, by all operations that they need."""
        needed = {i for i in wanted if i not in self.position_of}
        for operation in reversed(self.values.operations):
            if operation.index in needed and operation.operator != SIZE:
                needed.update(i for i in operation.inputs if i not in self.position_of)
        for operation in self.values.operations:
            if operation.index in needed:
                self.position_of[operation.index] = self.operation(operation, operands(operation))
        for index in needed - self.position_of.keys():
            self._leaf(index)

    def operation(self, operation: Operation, reads: Sequence[int]) -> int:
        """Copy one operation that reads values that are known or leaves; its new position."""
        if operation.operator == SIZE and reads[0] not in self.position_of:
            return self._size(operation)
        return self.placed(operation, [self._leaf(i) for i in reads])

    def placed(self, operation: Operation, places: Sequence[int]) -> int:
        """Copy one operation, with its operands at places of the new graph; its new position."""
        position = self._new_position(operation.index)
        self.operations.append(with_operands(operation, places, position))
        return position

    def _leaf(self, index: int) -> int:
        if index not in self.position_of:
            graph = self.values.graph
            position = self.position_of[index] = self._new_position(index)
            if index in graph.tensors:
                self.tensors[position] = graph.tensors[index]
                if index in graph.views:
                    self.views[position] = graph.views[index]
            elif index in graph.constants:
                self.constants[position] = graph.constants[index]
            else:
                raise NotRolled("a step reads the network's whole input")
        return self.position_of[index]

    def _size(self, operation: Operation) -> int:
        """The number of samples, asked of an input of this graph."""
        for position in self.inputs:
            layout = self.layouts.get(position)
            if layout is not None and layout.batch is not None and layout.merged == 1:
                size = with_operands(operation, [position], self._new_position(operation.index))
                self.operations.append(replace(size, args=(size.args[0], layout.batch)))
                return size.index
        raise NotRolled("nothing that enters a step says how many samples there are")

    def graph(self, output: Sequence[int]) -> Graph:
        """The new graph, with a list of results at positions of its own."""
        return Graph(
            inputs=self.inputs,
            tensors=self.tensors,
            constants=self.constants,
            operations=self.operations,
            output=[Ref(position) for position in output],
            layouts=self.layouts,
            dtypes=self.dtypes,
            views=self.views,
            batch_sizes=list(self.values.graph.batch_sizes),
        )


def part(values: Values, inputs: Sequence[int], results: Sequence[int]) -> Graph:
    """The graph from some values to others."""
    builder = Builder(values, inputs)
    builder.copy(results)
    return builder.graph([builder.position_of[i] for i in results])
