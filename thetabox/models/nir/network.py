"""A network read from a NIR file: its nodes in order, one time step after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.models.nir.cells import NirNeurons
from thetabox.models.nir.graph import NirGraph
from thetabox.models.nir.layers import NirLayer
from thetabox.models.program import Group
from thetabox.models.recurrent import RecurrentModule

NirState = dict[str, Tensor]
"""Quantities of the nodes, ``node.v`` and the like, each ``[batch, *shape]``."""

Shape = tuple[int, ...]


class NirNetwork(RecurrentModule):
    r"""The network of a NIR file with the dynamics of one framework.

    Values go along the edges of the graph within a time step; several that come to a node are added. Along an edge that
    closes a circle goes the value of the step before, zero at first. The logits are the mean over time of what comes to
    the output, :math:`\text{logits} = \frac1T \sum_t y_t`.

    Weights are parameters, constants of neurons buffers, under the names that their nodes have in the file:
    ``fc1.weight``, ``lif1.threshold``, ``lif1.decay``.

    Args:
        graph: the file's.
        layers: a module for each node.
        shapes: of one sample's value as it leaves each node.
        facts: what is known of the file and of the dynamics, for the certificate.
    """

    def __init__(
        self, graph: NirGraph, layers: Mapping[str, NirLayer], shapes: Mapping[str, Shape], facts: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.facts, self.shapes = dict(facts), dict(shapes)
        self.inputs = _size(shapes[graph.source])
        self.source, self.sink, self.order = graph.source, graph.sink, list(graph.order)
        self.reads = {
            name: [(one, (one, name) in graph.recurrent) for one in graph.before(name)] for name in graph.order
        }
        # Nodes whose value is wanted one step later.
        self.kept = sorted({one for one, _ in graph.recurrent})
        self.places: dict[str, str] = {}
        # Short names first, so that a node that stands where others have their group is that group.
        for name in sorted(layers, key=lambda n: n.count(".")):
            self.places[name] = self._place(name, layers[name])
        self.eval()

    def _place(self, name: str, layer: NirLayer) -> str:
        """Where a node's module stands: at its own name wherever a module can have it there."""
        owner: nn.Module = self
        *groups, last = name.split(".")
        path: list[str] = []
        for part in groups:
            part = _free(owner, part, taken=False)
            if part not in owner._modules:
                owner.add_module(part, Group())
            owner = owner.get_submodule(part)
            path.append(part)
        last = _free(owner, last, taken=True)
        owner.add_module(last, layer)
        return ".".join([*path, last])

    def layer(self, name: str) -> NirLayer:
        """The module of a node."""
        module = self.get_submodule(self.places[name])
        assert isinstance(module, NirLayer)
        return module

    def initial_state(self, batch: int) -> NirState:
        """Neurons at rest: potentials at their start, no current, no spikes; a tensor for each quantity."""
        state: NirState = {}
        some = next(iter([*self.parameters(), *self.buffers()]), torch.zeros(()))
        for name in self.order:
            layer, one = self.layer(name), self.shapes[self.reads[name][0][0]] if self.reads[name] else ()
            zeros = some.new_zeros(batch, *one)
            for quantity, value in zip(layer.remembers, layer.start(zeros), strict=True):
                state[f"{name}.{quantity}"] = value
        for name in self.kept:
            state.setdefault(self._late(name), some.new_zeros(batch, *self.shapes[name]))
        return state

    def step(
        self, x_t: Float[Tensor, "batch inputs"], state: NirState
    ) -> tuple[Float[Tensor, "batch units"], NirState]:
        """One time step; the output is what comes to the file's output node, in one row."""
        y, after, _ = self._advance(x_t, state)
        return y, after

    def _advance(self, x_t: Tensor, state: NirState) -> tuple[Tensor, NirState, dict[str, Tensor]]:
        value: dict[str, Tensor] = {}
        after: NirState = {}
        for name in self.order:
            if name == self.source:
                shape = self.shapes[name]
                value[name] = x_t if len(shape) == 1 else x_t.unflatten(1, shape)
                continue
            (first, late), *others = self.reads[name]
            u = state[self._late(first)] if late else value[first]
            for other, late in others:
                u = u + (state[self._late(other)] if late else value[other])
            layer = self.layer(name)
            y, held = layer.advance(u, [state[f"{name}.{quantity}"] for quantity in layer.remembers])
            value[name] = y
            after.update({f"{name}.{quantity}": t for quantity, t in zip(layer.remembers, held, strict=True)})
        for name in self.kept:
            after[self._late(name)] = value[name]
        y = value[self.sink]
        return y if y.dim() == 2 else y.flatten(1), {name: after[name] for name in state}, value

    def _late(self, name: str) -> str:
        """Where the state holds what a node gave out in the step before: among its own quantities if it is there."""
        return f"{name}.z" if "z" in self.layer(name).remembers else f"{name}.y"

    def readout(self, outputs: Float[Tensor, "batch time units"]) -> Float[Tensor, "batch classes"]:
        """Mean over time."""
        return outputs.mean(1)

    def outputs(self, x: Tensor) -> Float[Tensor, "batch time units"]:
        """Output of every step; of shaped inputs ``[batch, time, *shape]`` too, which are put in rows.

        Raises:
            InputError: ``x`` has not as many values a step as the file's input.
        """
        if x.dim() > 3:
            x = x.flatten(2)
        if x.dim() != 3 or x.shape[1] < 1 or x.shape[2] != self.inputs:
            shape = "×".join(str(s) for s in self.shapes[self.source])
            raise InputError(
                f"the network takes x of shape [batch, time, {self.inputs}] (its file's input is {shape}), not "
                f"{list(x.shape)}"
            )
        return super().outputs(x)

    def spikes(self, x: Float[Tensor, "batch time inputs"]) -> dict[str, Float[Tensor, "batch time ..."]]:
        """What every layer of neurons gives out, by the names of the file's nodes: spikes, or a readout's potential."""
        state = self.initial_state(x.shape[0])
        series: dict[str, list[Tensor]] = {n: [] for n in self.order if isinstance(self.layer(n), NirNeurons)}
        for x_t in x.flatten(2).unbind(1):
            _, state, value = self._advance(x_t, state)
            for name, taken in series.items():
                taken.append(value[name])
        return {name: torch.stack(taken, 1) for name, taken in series.items()}

    def extra_repr(self) -> str:
        return f"dynamics={self.facts.get('dynamics')!r}"


def _free(owner: nn.Module, part: str, *, taken: bool) -> str:
    """A name that a module can give a part of its own; ``taken`` where it must be no other part's."""
    part = part or "_"
    while (hasattr(owner, part) and part not in owner._modules) or (taken and part in owner._modules):
        part += "_"
    return part


def _size(shape: Shape) -> int:
    size = 1
    for s in shape:
        size *= s
    return size
