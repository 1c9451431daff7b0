"""Tensors of a network as atoms and numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from thetabox.verify.histories.description.algebra import Algebra
from thetabox.verify.histories.description.atoms import AtomBlock
from thetabox.verify.histories.description.symbolic import Symbolic
from thetabox.verify.histories.recognition import constants
from thetabox.verify.histories.recognition.failure import NotRecognised
from thetabox.verify.network.graph import Graph
from thetabox.verify.problem import Problem

# Operators that are sums of products, and those that only move what they read.
PRODUCTS = ("linear", "matmul", "mm", "bmm", "addmm", "conv1d", "conv2d")
MOVES = ("t", "transpose", "permute", "view", "reshape", "unsqueeze", "squeeze", "expand", "clone", "contiguous")

Leaves = dict[int, Callable[[], Tensor]]


class TensorAtoms:
    """Atoms for what the box moves and for matrices of weights; everything else is numbers.

    Args:
        algebra: makes the atoms.
        problem: whose tensors they are.
    """

    def __init__(self, algebra: Algebra, problem: Problem) -> None:
        self.algebra, self.problem = algebra, problem
        self.values = problem.tensors.values
        self.by_first: dict[int, constants.Tensor] = {}
        self._blocks: dict[int, AtomBlock] = {}
        self._boxed = [v for v in self.values.values() if id(v) in problem.tensors.factors]

    def leaves(self, graph: Graph, inputs: Sequence[Tensor]) -> Leaves:
        """What stands at the graph's inputs, parameters and constants."""
        leaves: Leaves = {}
        for index, value in zip(graph.inputs, inputs, strict=True):
            leaves[index] = lambda value=value: value  # type: ignore[misc]  # a lambda with its value bound
        factors = _factors(graph)
        for index, name in graph.tensors.items():
            leaves[index] = lambda index=index, name=name: self._read(graph, index, name, index in factors)  # type: ignore[misc]  # a lambda with its values bound
        for index, constant in graph.constants.items():
            leaves[index] = lambda index=index, constant=constant: self._stored(  # type: ignore[misc]  # a lambda with its values bound
                graph, "a constant", constant, False
            )
        return leaves

    def _read(self, graph: Graph, index: int, name: str, factor: bool) -> Tensor:
        """A tensor of the network, or the part of it that the code reads."""
        entries = self._stored(graph, name, self.values[name], factor)
        return graph.views[index].of(entries) if index in graph.views else entries

    def _stored(self, graph: Graph, name: str, value: Tensor, factor: bool) -> Tensor:
        moves = id(value) in self.problem.tensors.factors
        if not moves and value.numel() and any(_same_memory(value, boxed) for boxed in self._boxed):
            raise NotRecognised(f"{name!r} is a part of a tensor of the box under another name")
        matrix = factor and value.is_floating_point() and value.dim() >= 2
        if not (moves or matrix):
            return Symbolic(self.algebra, graph).literals(value, name)
        block = self._blocks.get(id(value))
        if block is None:
            block = self._blocks[id(value)] = self._block(name, value, matrix)
        return -1 - torch.arange(block.first, block.first + block.count).reshape(value.shape)

    def _block(self, name: str, value: Tensor, matrix: bool) -> AtomBlock:
        if not bool(torch.isfinite(value).all()):
            raise NotRecognised(f"{name!r} holds a value that is no finite number")
        # Of a matrix the products stay together.
        block = self.algebra.block(name, value.shape, "weight" if matrix else "neuron")
        held = self.problem.tensors.parameter(name)
        factor = self.problem.tensors.factors.get(id(value), 0.0)
        theta = value.detach().double().cpu().numpy().reshape(-1)
        unit = np.abs(theta) if held.absolute is None else held.absolute.detach().double().cpu().numpy().reshape(-1)
        radius = unit * factor
        if factor not in (0.0, 1.0):
            radius = np.nextafter(radius, np.inf)
        self.by_first[block.first] = constants.Tensor(name, theta, radius, factor if held.absolute is None else 0.0)
        return block


def _factors(graph: Graph) -> set[int]:
    """Positions of values that sums of products are made with."""
    factors: set[int] = set()
    for operation in reversed(graph.operations):
        kind = operation.operator.split(".")[1] if operation.operator.startswith("aten.") else ""
        if kind in PRODUCTS or (kind in MOVES and operation.index in factors):
            factors.update(operation.inputs)
    return factors


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
