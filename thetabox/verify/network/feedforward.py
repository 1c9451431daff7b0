"""A feed-forward model: one graph."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from thetabox.models.running import input_type
from thetabox.verify.network.graph import Graph, Operation
from thetabox.verify.network.head import Head, find_head
from thetabox.verify.network.kinds import kinds
from thetabox.verify.network.operators import RECURRENT
from thetabox.verify.network.reorder import pooled_first
from thetabox.verify.network.trace import trace

# Up to so many layers with weights are few.
FEW_LAYERS = 6


class Network:
    """A feed-forward model."""

    steps = 1

    def __init__(self, model: nn.Module, x: Tensor, *, training: bool = False) -> None:
        self.model = model
        # TorchScript that was made by tracing can be called in a trace, but is none of torch.export's modules.
        whole = _Call(model) if isinstance(model, torch.jit.ScriptModule) else model
        self.main = trace(model, whole, "forward", [example_of(model, x)], training=training)

    @property
    def graphs(self) -> dict[str, Graph]:
        """Every graph of the network, by role."""
        return {"forward": self.main}

    @cached_property
    def head(self) -> Head | None:
        """The last dense layer, if there is one and its margins are real numbers with the network's own rounding."""
        head, types = find_head(self.main), kinds(self.main)
        return head if head is None or all(types[o.index].plain for o in head.operations) else None

    @cached_property
    def few_layers(self) -> bool:
        """Whether slack that a layer adds meets only a few more that widen it."""
        weighted = [o for o in self.main.operations if any(i in self.main.tensors for i in o.inputs)]
        return len(weighted) <= FEW_LAYERS

    @cached_property
    def ordered(self) -> list[Operation]:
        """Operations of the main graph as they are evaluated where nobody looks on."""
        return pooled_first(self.main)

    def largest(self) -> int:
        """Numbers of a sample in the largest value of any operation."""
        return max(largest_of(graph) for graph in self.graphs.values())

    def alive(self) -> int:
        """About how many numbers of a sample are alive at once."""
        return 6 * self.largest()


class _Call(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.cell(x)
        return answer


def largest_of(graph: Graph) -> int:
    """Numbers of a sample in the largest value of a graph, or of those that the rule of a recurrent layer makes."""
    counts = [count_of(v.shape) for v in graph.layouts.values() if v.batch is not None]
    for operation in graph.operations:
        if operation.operator in RECURRENT:
            outputs = operation.layout[0] if isinstance(operation.layout, tuple) else operation.layout
            counts.append(RECURRENT[operation.operator] * (1 if outputs is None else count_of(outputs.shape)))
    return max(counts, default=1)


def count_of(shape: tuple[int | None, ...]) -> int:
    """Numbers of a sample in a value of some shape."""
    count = 1
    for size in shape:
        count *= size or 1
    return count


def example_of(model: nn.Module, x: Tensor) -> Tensor:
    """One sample in the dtype and on the device of the model."""
    dtype, device = input_type(model, x)
    return torch.zeros(x[:1].shape, dtype=dtype, device=device)
