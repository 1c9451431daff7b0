"""A traced network run on numbers: operator by operator as the trace says, nothing bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

from thetabox.models.twins import widely
from thetabox.verify.network import Network, RecurrentNetwork
from thetabox.verify.network.graph import Graph, Ref, map_arg_refs

CONTAINERS = (list, tuple, dict)

Read = Callable[[str], Tensor]
"""The value of a parameter or buffer by name."""


def replay(network: Network, read: Read, x: Float[Tensor, "samples ..."], *, wide: bool = True) -> Tensor:
    """What the trace computes of ``x``, to the network's own output, what is behind its logits included.

    Args:
        network: traced.
        read: values of parameters and buffers, float64 where ``wide``.
        x: inputs, on the device of the network.
        wide: in float64, whatever precision the network was written for; else in its own.
    """
    run = _Replay(read, wide)
    x = x.double() if wide and x.is_floating_point() else x
    with torch.no_grad():
        if isinstance(network, RecurrentNetwork):
            state = run.results(network.initial, [x[:, 0]])
            outputs = []
            for x_t in x.unbind(1):
                output, *state = run.results(network.step, [x_t, *state])
                outputs.append(output)
            x = torch.stack(outputs, 1)
        returned: Tensor
        (returned,) = run.results(network.with_ending.main, [x])
    return returned


class _Replay:
    def __init__(self, read: Read, wide: bool) -> None:
        self.read, self.wide = read, wide

    def results(self, graph: Graph, inputs: list[Tensor]) -> list[Any]:
        """Results of one graph, in order."""
        values: dict[int, Any] = dict(zip(graph.inputs, inputs, strict=True))
        for index, name in graph.tensors.items():
            value = self.read(name)
            values[index] = graph.views[index].of(value) if index in graph.views else value
        for index, constant in graph.constants.items():
            values[index] = constant.double() if self.wide and constant.is_floating_point() else constant

        def value_of(ref: Ref) -> Any:
            return values[ref.index]

        def operand(value: Any) -> Any:
            if type(value) is Ref:  # most operands
                return values[value.index]
            return map_arg_refs(value, value_of) if isinstance(value, CONTAINERS) else value

        for operation in graph.operations:
            args = [operand(value) for value in operation.args]
            kwargs = {name: operand(value) for name, value in operation.kwargs.items()}
            result = widely(operation.target, args, kwargs) if self.wide else operation.target(*args, **kwargs)
            values[operation.index] = result
            for used in operation.inputs:
                if graph.last_use.get(used) == operation.index:
                    values.pop(used, None)
        return pytree.tree_leaves(map_arg_refs(graph.output, value_of))
