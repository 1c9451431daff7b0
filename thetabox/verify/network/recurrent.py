"""A recurrent model: the graphs of its initial state, of one step and of its readout."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from thetabox.errors import InputError
from thetabox.models.recurrent import RecurrentModule, is_recurrent
from thetabox.models.twins import untouched
from thetabox.verify.network.feedforward import Network, count_of, example_of, largest_of
from thetabox.verify.network.graph import Graph, Operation, Ref, dependants
from thetabox.verify.network.operators import COPIES
from thetabox.verify.network.trace import trace


class _InitialState(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x_t: Tensor) -> list[Tensor]:
        return list(pytree.tree_leaves(self.cell.initial_state(x_t.shape[0])))  # type: ignore[operator]  # the protocol


class _Step(nn.Module):
    def __init__(self, cell: nn.Module, structure: Any) -> None:
        super().__init__()
        self.cell, self.structure = cell, structure

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        state = pytree.tree_unflatten(list(tensors[1:]), self.structure)
        output, state = self.cell.step(tensors[0], state)  # type: ignore[operator]  # the protocol
        # A dictionary says by its keys which state is which, not by the order in which they were written.
        return [output, *_in_order(state, self.structure)]


def _in_order(state: Any, structure: Any) -> list[Any]:
    """Leaves of a state in the order of another of the same structure, whatever the order of keys."""
    try:
        return list(structure.flatten_up_to(state))
    except ValueError:  # of another structure, which is said where the shapes are compared
        return pytree.tree_leaves(state)


class _Readout(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, outputs: Tensor) -> Tensor:
        return self.cell.readout(outputs)  # type: ignore[operator]  # the protocol


def _first_state(model: nn.Module) -> Any:
    with torch.no_grad(), untouched(model):
        try:
            return model.initial_state(2)  # type: ignore[operator]  # the protocol
        except InputError:
            raise
        except Exception as error:  # a network raises whatever it likes
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise InputError(f"initial_state(batch) of the recurrent network fails: {reason}") from error


class RecurrentNetwork(Network):
    """A recurrent model: its one-step graph, walked once a time step.

    What depends on parameters alone is evaluated once; what depends on the input but on no state, once for all time
    steps together, so that the products of the input layer serve every step and every ε.
    """

    def __init__(self, model: nn.Module, x: Tensor, *, training: bool = False) -> None:
        self.model = model
        if x.dim() != 3 or x.shape[1] < 1:
            raise InputError(f"a recurrent network takes x of shape [samples, time, inputs], not {list(x.shape)}")
        self.steps = x.shape[1]
        x_t = example_of(model, x)[:, 0]
        leaves, structure = pytree.tree_flatten(_first_state(model))
        if not all(isinstance(s, Tensor) for s in leaves):
            raise InputError("initial_state must return tensors, or tuples, lists or dictionaries of tensors")
        self.initial = trace(model, _InitialState(model), "initial", [x_t], training=training)
        self.step = trace(model, _Step(model, structure), "step", [x_t, *leaves], training=training)
        results = pytree.tree_leaves(self.step.output)
        if len(results) != 1 + len(leaves) or not all(isinstance(part, Ref) for part in results):
            raise InputError(
                f"step must return an output and the next state, {len(leaves)} tensors as in initial_state, and no "
                "other values"
            )
        produced = self.step.layouts[results[0].index]
        outputs = torch.zeros(
            (1, self.steps, *[s or 1 for s in produced.shape[1:]]), dtype=x_t.dtype, device=x_t.device
        )
        self.main = self._whole = trace(model, _Readout(model), "readout", [outputs], training=training)
        self.averaging = averaging(self.main)
        on_state = dependants(self.step, self.step.inputs[1:])
        on_input = dependants(self.step, self.step.inputs[:1]) - on_state
        operations = self.step.operations
        self.fixed = [o for o in operations if o.index not in on_state and o.index not in on_input]
        on_fixed = _needed(operations, on_input)
        self.driven = [o for o in operations if o.index in on_input or (o in self.fixed and o.index in on_fixed)]
        self.moving = [o for o in operations if o.index in on_state]
        needed = {i for o in self.moving for i in o.inputs} | {r.index for r in pytree.tree_leaves(self.step.output)}
        self.drive = sorted((on_input & needed) | (set(self.step.inputs[:1]) & needed))
        self.saturates = saturates(self.step)

    @property
    def graphs(self) -> dict[str, Graph]:
        """The graphs of initial state, step and readout."""
        return {"initial_state": self.initial, "step": self.step, "readout": self.main}

    def largest(self) -> int:
        """Numbers of a sample in the largest value of one step, which a dozen values of a step share the cache with."""
        return 8 * max(largest_of(self.initial), largest_of(self.step))

    def alive(self) -> int:
        """About how many numbers of a sample are alive at once."""
        output = pytree.tree_leaves(self.step.output)[0].index
        # Both ends of all outputs and their copies for the readout, if it wants them all, and the two products of the
        # drive that ε share.
        kept = 0 if self.averaging else 4 * count_of(self.step.layouts[output].shape)
        return self.steps * (kept + 2 * largest_of(self.step)) + 1

    @cached_property
    def few_layers(self) -> bool:
        """Never: each step meets all later ones."""
        return False


def _needed(operations: list[Operation], targets: set[int]) -> set[int]:
    """Positions that the target operations read, directly or not."""
    needed = set(targets)
    for operation in reversed(operations):
        if operation.index in needed:
            needed.update(operation.inputs)
    return needed


def averaging(readout: Graph) -> Operation | None:
    """The mean over time, if that is all that the readout wants of the outputs: they need not be kept then."""
    position = readout.inputs[0]
    readers = [o for o in readout.operations if position in o.inputs]
    returned = any(ref.index == position for ref in pytree.tree_leaves(readout.output))
    if len(readers) != 1 or readers[0].operator != "aten.mean.dim" or returned:
        return None
    dims = readers[0].args[1]
    rank = len(readout.layouts[position].shape)
    over_time = isinstance(dims, list | tuple) and [d % rank for d in dims] == [1]
    return readers[0] if over_time else None


def truth_values(graph: Graph) -> set[int]:
    """Positions of values that are 0 or 1 for any weights: comparisons, logic, their copies and products."""
    positions: set[int] = set()

    def holds(operand: object) -> bool:
        return isinstance(operand, Ref) and operand.index in positions

    for operation in graph.operations:
        decided = operation.dtype is torch.bool and not isinstance(operation.layout, tuple)
        copied = operation.operator in COPIES and holds(operation.args[0])
        product = operation.operator == "aten.mul.Tensor" and all(holds(a) for a in operation.args)
        if decided or copied or product:
            positions.add(operation.index)
    return positions


def saturates(graph: Graph) -> bool:
    """Whether the first result of a step is truth values, a row a sample."""
    output = pytree.tree_leaves(graph.output)[0].index
    layout = graph.layouts.get(output)
    return layout is not None and (layout.batch, layout.merged) == (0, 1) and output in truth_values(graph)


def network(model: nn.Module, x: Tensor, *, training: bool = False) -> Network:
    """The model as graphs, traced for inputs like ``x``; ``training`` as for :func:`.graph.trace`."""
    kind = RecurrentNetwork if is_recurrent(model) and not _of_other_use(model) else Network
    return kind(model, x, training=training)


def _of_other_use(model: nn.Module) -> bool:
    """Whether a network with a forward of its own merely has methods of the protocol's names."""
    if isinstance(model, RecurrentModule) or type(model).forward is nn.Module.forward:
        return False
    try:
        _first_state(model)
    except InputError:
        return True
    return False
