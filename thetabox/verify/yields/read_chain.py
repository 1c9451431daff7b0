"""Reads a traced network as a chain of layers, or reports that it is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from thetabox.models.memory import named_tensors
from thetabox.verify.linear.region import pair
from thetabox.verify.network import RecurrentNetwork
from thetabox.verify.network.graph import Graph, Operation, Ref, arguments
from thetabox.verify.network.operators import MAX_POOLS_2D, RELU
from thetabox.verify.network.samples_first import samples_first
from thetabox.verify.problem import Problem
from thetabox.verify.yields.chain import Chain, ChainConvolution, ChainPool, ChainStage, Dense, Pair
from thetabox.verify.yields.sizes import at_places, read_more_than_once

SAME = ("aten.clone.default", "aten.alias.default", "aten.detach.default", "aten.contiguous.default")
COUNT = "aten.sym_size.int"
FLAT = ("aten.flatten.using_ints", "aten.view.default", "aten.reshape.default", "aten._unsafe_view.default")
# Numbers that float64 holds as they are.
EXACT = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class _NoChain(Exception):
    """The network is something else."""


def read(problem: Problem, sizes: Mapping[str, Tensor]) -> Chain | None:
    """The stages of a network whose every value is read once; ``None`` for any other network.

    Args:
        problem: the traced network.
        sizes: name → sizes of the errors of a parameter's entries at σ = 1; what is absent is exact.
    """
    if isinstance(problem.network, RecurrentNetwork):
        return None
    main = problem.network.main
    if read_more_than_once(main, problem.model, sizes):
        return None
    try:
        return _Reader(samples_first(main), problem, sizes).chain()
    except _NoChain:
        return None


class _Reader:
    """One pass over a graph.

    Args:
        graph: with the samples first.
        problem: whose parameters.
        sizes: of their errors, by name.
    """

    def __init__(self, graph: Graph, problem: Problem, sizes: Mapping[str, Tensor]) -> None:
        self.graph, self.held = graph, named_tensors(problem.model)
        self.sizes = at_places(graph, problem.model, sizes)
        # Numbers of samples, which a shape may be given in; what comes of that is seen from its layout.
        self.counts = {o.index: o.args[0].index for o in graph.operations if o.operator == COUNT and o.args[1:] == (0,)}

    def chain(self) -> Chain:
        """All operations in order, each reading the one before."""
        graph, stages = self.graph, []
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise _NoChain
        at = graph.inputs[0]
        current: dict[str, Any] | None = None
        for operation in graph.operations:
            if operation.index in self.counts:
                continue
            values = [i for i in operation.inputs if not self._is_tensor(i) and i not in self.counts]
            if not values:
                raise _NoChain
            if values != [at] or self._readers(at) != 1 or operation.args[0] != Ref(at):
                at = self._addmm(operation, at)
            name = operation.operator
            if name in ("aten.linear.default", "aten.addmm.default", "aten.conv2d.default", "aten.conv2d.padding"):
                if current is not None:
                    stages.append(self._closed(current))
                    if not current["relu"]:
                        raise _NoChain
                dense = not name.startswith("aten.conv2d")
                current = {"layer": self._dense(operation) if dense else self._convolution(operation), "relu": False}
            elif name in FLAT or name in SAME:
                self._flattens(operation)
            elif current is None:
                raise _NoChain
            else:
                self._passed(operation, current)
            at = operation.index
        if current is None or at != graph.outputs[0] or self._readers(at) != 1:
            raise _NoChain
        return Chain((*stages, self._closed(current)))

    def _readers(self, index: int) -> int:
        """How often a value is read, but for the number of its samples."""
        return self.graph.readers[index] - sum(of == index for of in self.counts.values())

    def _is_tensor(self, index: int) -> bool:
        return index in self.graph.tensors or index in self.graph.views or index in self.graph.constants

    def _addmm(self, operation: Operation, at: int) -> int:
        """The one operator here that does not read its value first."""
        plain = operation.operator == "aten.addmm.default" and len(operation.args) == 3 and not operation.kwargs
        if not plain or operation.args[1] != Ref(at) or self._readers(at) != 1:
            raise _NoChain
        return at

    def _tensor(self, ref: Any) -> tuple[Tensor, Tensor]:
        """Values and sizes of what stands at a position."""
        if not isinstance(ref, Ref):
            raise _NoChain
        index, graph = ref.index, self.graph
        if index in graph.constants:
            value = graph.constants[index]
        elif index in graph.views:
            value = graph.views[index].of(self.held[graph.views[index].name])
        elif index in graph.tensors:
            value = self.held[graph.tensors[index]]
        else:
            raise _NoChain
        if value.dtype not in EXACT:
            raise _NoChain
        theta = value.detach().cpu().double()
        return theta, self.sizes.get(index, torch.zeros_like(theta)).double()

    def _dense(self, operation: Operation) -> Dense:
        if operation.kwargs:
            raise _NoChain
        turned = operation.operator == "aten.addmm.default"
        args = (operation.args[1], operation.args[2], operation.args[0]) if turned else operation.args
        weight, size = self._tensor(args[1])
        if turned:
            weight, size = weight.T, size.T
        layout = self.graph.layouts.get(operation.index)
        if weight.dim() != 2 or layout is None or len(layout.shape) != 2:
            raise _NoChain
        return Dense(weight, *self._bias(args[2] if len(args) > 2 else None, len(weight), size))

    def _bias(self, ref: Any, outputs: int, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bias, sizes of the weight, sizes of the bias: the order of the fields."""
        zero = torch.zeros(outputs, dtype=torch.float64)
        bias, of_bias = (zero, zero) if ref is None else self._tensor(ref)
        if bias.shape != (outputs,):
            raise _NoChain
        return bias, size, of_bias

    def _convolution(self, operation: Operation) -> ChainConvolution:
        named = arguments(operation)
        weight, size = self._tensor(named["weight"])
        if weight.dim() != 4 or named["groups"] != 1 or pair(named["dilation"]) != (1, 1):
            raise _NoChain
        stride, padding = pair(named["stride"]), named["padding"]
        height, width = weight.shape[2:]
        if padding == "same":
            above, left = (height - 1) // 2, (width - 1) // 2
            around = (left, width - 1 - left, above, height - 1 - above)
        else:
            rows, columns = (0, 0) if padding == "valid" else pair(padding)
            around = (columns, columns, rows, rows)
        return ChainConvolution(weight, *self._bias(named.get("bias"), len(weight), size), stride, around)

    def _flattens(self, operation: Operation) -> None:
        """Nothing, or all of a sample in one row."""
        before = self.graph.layouts.get(operation.args[0].index)
        after = self.graph.layouts.get(operation.index)
        if before is None or after is None or (after.batch, after.merged) != (0, 1):
            raise _NoChain
        if after.shape != before.shape and len(after.shape) != 2:
            raise _NoChain

    def _passed(self, operation: Operation, current: dict[str, Any]) -> None:
        """What follows a layer."""
        name = operation.operator
        if name in RELU:
            if current["relu"] or operation.kwargs:
                raise _NoChain
            current["relu"] = True
        elif name in MAX_POOLS_2D and name.startswith("aten.max_pool2d.default"):
            if "largest" in current:
                raise _NoChain
            current["largest"] = self._pool(operation, largest=True)
        elif name == "aten.avg_pool2d.default":
            if current["relu"] or "average" in current or "largest" in current:
                raise _NoChain
            current["average"] = self._pool(operation, largest=False)
        else:
            raise _NoChain

    def _pool(self, operation: Operation, *, largest: bool) -> ChainPool:
        named = arguments(operation)
        kernel = pair(named["kernel_size"])
        stride: Pair = pair(named["stride"]) if named["stride"] else kernel
        plain = pair(named["padding"]) == (0, 0) and not named["ceil_mode"]
        if largest:
            plain = plain and pair(named["dilation"]) == (1, 1)
        elif named.get("divisor_override") is not None:
            plain = False
        if not plain:
            raise _NoChain
        return ChainPool(largest, kernel, stride)

    def _closed(self, current: dict[str, Any]) -> ChainStage:
        if "largest" in current and not current["relu"]:
            raise _NoChain
        return ChainStage(current["layer"], current.get("average"), current["relu"], current.get("largest"))
