"""A feed-forward model: one graph."""

from __future__ import annotations

from functools import cached_property
from inspect import signature

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from thetabox.deep_copy import extras_of
from thetabox.models.input_type import input_type
from thetabox.verify.network.ending import without_ending
from thetabox.verify.network.graph import Graph, Operation
from thetabox.verify.network.head import Head, find_head
from thetabox.verify.network.kinds import kinds
from thetabox.verify.network.operators import RECURRENT
from thetabox.verify.network.reorder import pooled_first
from thetabox.verify.network.trace import trace

# Up to so many layers with weights are few.
FEW_LAYERS = 6


class Network:
    """A feed-forward model.

    Attributes:
        main: its graph, or the last of several, up to the logits.
        ending: what the model does with them beside moving them, which keeps the order of the classes: softmax, for
            instance.
    """

    steps = 1
    ending = ""

    def __init__(self, model: nn.Module, x: Tensor, *, training: bool = False) -> None:
        self.model = model
        # TorchScript that was made by tracing can be called in a trace, but is none of torch.export's modules; a
        # network whose hooks make several inputs of one has a forward that torch.export would not call with one; and
        # torch.export passes over the hooks of a graph, unless it is a part of something else.
        inside = isinstance(model, torch.jit.ScriptModule) or (isinstance(model, GraphModule) and extras_of(model))
        whole = _Call(model) if inside or not _takes_one(model) else model
        self._whole = trace(model, whole, "forward", [example_of(model, x)], training=training)
        self.main, self.ending = without_ending(self._whole)

    @property
    def graphs(self) -> dict[str, Graph]:
        """Every graph of the network, by role."""
        return {"forward": self.main}

    @cached_property
    def with_ending(self) -> Network:
        """The network with what it does behind its logits, so that it returns what the model itself does."""
        if self.main is self._whole:
            return self
        other = object.__new__(type(self))
        other.model, other.main, other._whole = self.model, self._whole, self._whole
        return other

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


def _takes_one(model: nn.Module) -> bool:
    """Whether ``forward`` can be called with one tensor alone."""
    try:
        signature(model.forward).bind(None)
    except TypeError:
        return False
    except ValueError:  # compiled code has no signature
        return True
    return True


class _Call(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.cell(x)
        return output


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
