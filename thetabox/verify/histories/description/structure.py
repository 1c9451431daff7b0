r"""Whether the traced graphs of a network are the equations of its description, for every input and parameter.

Each graph is evaluated on polynomials (:mod:`.symbolic`), and every cell is followed through the few values that its
counters can take. That is a proof by induction over time: as long as v and b of the description are those of the
network, and the counters one of the combinations that are reached, they are so one step later, and the spikes are the
same. Sums of products hold other cells' spikes as what the network has there; each of them is looked at with its cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thetabox.models.leaky import LeakyCells
from thetabox.verify.histories.description.algebra import Algebra
from thetabox.verify.histories.description.atoms import ONE, ZERO, AtomBlock
from thetabox.verify.histories.description.cells import LayerAtoms
from thetabox.verify.histories.description.evaluation import Evaluation
from thetabox.verify.histories.description.following import Following
from thetabox.verify.histories.description.products import Mismatch, column_of, products
from thetabox.verify.histories.description.symbolic import ROWS, Symbolic
from thetabox.verify.network import RecurrentNetwork
from thetabox.verify.network.graph import Graph
from thetabox.verify.problem import Problem

WEIGHTS = ("weight_in", "weight_rec", "weight_out")


def check_structure(problem: Problem, described: Sequence[LeakyCells]) -> None:
    """Prove that the network is what its description says.

    Raises:
        Mismatch: it is not, or nothing here shows that it is; its text names the first difference.
    """
    _Structure(problem, described).check()


class _Structure:
    def __init__(self, problem: Problem, described: Sequence[LeakyCells]) -> None:
        if not isinstance(problem.network, RecurrentNetwork):
            raise Mismatch("it has not the methods initial_state, step and readout")
        self.problem, self.network, self.described = problem, problem.network, described
        self.algebra = Algebra()
        self.values = problem.tensors.values
        self.blocks: dict[int, AtomBlock] = {}
        self.zeros: dict[int, np.ndarray] = {}
        for says in described:
            for role, name in vars(says).items():
                if isinstance(name, str):
                    self._describe(role, name)
        self.layers = [self._layer(says) for says in described]

    def _describe(self, role: str, name: str) -> None:
        value = self.values[name]
        if id(value) in self.blocks:
            return
        kind = "weight" if role in WEIGHTS else "positive" if role.startswith("tau") else "neuron"
        block = self.blocks[id(value)] = self.algebra.block(name, value.shape, kind)
        parameter = self.problem.tensors.parameter(name)
        fixed = (value == 0).cpu()
        if parameter.factor and parameter.absolute is not None:
            fixed = fixed & (parameter.absolute == 0).cpu()
        self.zeros[block.first] = fixed.expand(value.shape).numpy()

    def _layer(self, says: LeakyCells) -> LayerAtoms:
        def block(name: str) -> AtomBlock:
            return self.blocks[id(self.values[name])]

        weight_in = block(says.weight_in)
        inputs, units = weight_in.shape

        def each(name: str) -> list[int]:
            b = block(name)
            return [-1 - b.first - (j if b.count > 1 else 0) for j in range(units)]

        def decay(name: str) -> list[int]:
            rate = self.algebra.literal(-float(says.dt))
            return [self.algebra.exp(self.algebra.multiply(rate, self.algebra.reciprocal(tau))) for tau in each(name)]

        adapts = says.tau_adapt is not None and says.beta is not None
        return LayerAtoms(
            says,
            weight_in,
            None if says.weight_rec is None else block(says.weight_rec),
            np.zeros(inputs, np.int64),
            np.zeros(units, np.int64),
            decay(says.tau),
            decay(says.tau_adapt) if adapts else None,  # type: ignore[arg-type]  # adapts says so
            each(says.threshold),
            each(says.beta) if adapts else None,  # type: ignore[arg-type]  # adapts: it is named
            bool(self.problem.tensors.parameter(says.threshold).factor)
            or bool((self.values[says.threshold] < 0).any()),
        )

    def check(self) -> None:
        """All graphs."""
        spikes, following = self._read_step()
        for depth in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[depth]
            units = layer.weight_in.shape[1]
            if len(spikes) != units:
                raise Mismatch(f"step returns {len(spikes)} values a sample, not the {units} spikes of the last layer")
            if depth == 0:
                layer.below = self.input.copy()
            cells = [following.cell(layer, j, int(spikes[j])) for j in range(units)]
            following.check_old_spikes(layer, cells)
            if depth > 0 and not layer.below.all():
                i = int((layer.below == 0).argmax())
                raise Mismatch(f"nothing of the network is cell {i} of the layer below {layer.weight_in.name!r}")
            spikes = layer.below
        self._check_readout()

    # Reading graphs

    def _leaves(self, graph: Graph, inputs: Sequence[Tensor]) -> dict[int, Callable[[], Tensor]]:
        leaves: dict[int, Callable[[], Tensor]] = {}
        for index, value in zip(graph.inputs, inputs, strict=True):
            leaves[index] = lambda value=value: value  # type: ignore[misc]  # a lambda with its value bound
        for index, name in graph.tensors.items():
            leaves[index] = lambda index=index, name=name: self._read(graph, index, name)  # type: ignore[misc]  # a lambda with its values bound
        for index, constant in graph.constants.items():
            leaves[index] = lambda constant=constant: self._stored("a constant", constant)  # type: ignore[misc]  # a lambda with its value bound
        return leaves

    def _read(self, graph: Graph, index: int, name: str) -> Tensor:
        """A tensor of the network, or the part of it that the code reads."""
        entries = self._stored(name, self.values[name])
        return graph.views[index].of(entries) if index in graph.views else entries

    def _stored(self, name: str, value: Tensor) -> Tensor:
        """Atoms of what is described, numbers of the rest."""
        block = self.blocks.get(id(value))
        if block is None and id(value) in self.problem.tensors.factors:
            return torch.full(value.shape, self.algebra.unknown(f"{name!r}, of which leaky_cells says nothing,"))
        if block is None and value.numel():
            shared = [n for n in self._named() if _same_memory(self.values[n], value)]
            same = [n for n in shared if _same_place(self.values[n], value)]
            if same:
                block = self.blocks[id(self.values[same[0]])]
            elif shared:
                return torch.full(value.shape, self.algebra.unknown(f"a part of {shared[0]!r} under another name"))
        if block is not None:
            return self._entries(block, value.shape)
        return Symbolic(self.algebra, self.network.step).literals(value, name)

    def _named(self) -> list[str]:
        return [name for says in self.described for name in vars(says).values() if isinstance(name, str)]

    def _entries(self, block: AtomBlock, shape: Sequence[int]) -> Tensor:
        return -1 - torch.arange(block.first, block.first + block.count).reshape(tuple(shape))

    def _rows(self, block: AtomBlock) -> Tensor:
        return self._entries(block, block.shape).expand(ROWS, *block.shape)

    def _one_row(self, value: Tensor, what: str) -> list[int]:
        """A value of one sample, which is that of every other."""
        if value.dim() == 0 or len(value) != ROWS or not bool((value[0] == value[1]).all()):
            raise Mismatch(f"{what} is not one value a sample")
        return value[0].reshape(-1).tolist()

    def _read_step(self) -> tuple[np.ndarray, Following]:
        """What it returns, and its cells."""
        graph, initial = self.network.step, self.network.initial
        layouts = [graph.layouts[i] for i in graph.inputs]
        if any(layout.batch != 0 or layout.merged != 1 for layout in layouts):
            raise Mismatch("a tensor of the state does not have samples in its first dimension")
        entered = self.algebra.block("x", layouts[0].sizes(ROWS)[1:], "input")
        self.input = -1 - np.arange(entered.first, entered.first + entered.count)
        states = [
            self.algebra.block(f"state {n}", layout.sizes(ROWS)[1:], "state") for n, layout in enumerate(layouts[1:])
        ]
        values = [self._rows(entered), *(self._rows(block) for block in states)]
        output, *after = Evaluation(self.algebra, graph, self._leaves(graph, values)).outputs()
        spikes = np.array(self._one_row(output, "the output of step"), np.int64)
        start = Evaluation(self.algebra, initial, self._leaves(initial, values[:1])).outputs()
        next_of: dict[int, int] = {}
        start_of: dict[int, int] = {}
        for block, then, first in zip(states, after, start, strict=True):
            for table, value in ((next_of, then), (start_of, first)):
                entries = self._one_row(value, block.name)
                if len(entries) != block.count:
                    raise Mismatch(f"{block.name} changes its shape")
                table.update(zip(range(block.first, block.first + block.count), entries, strict=True))
        return spikes, Following(self.algebra, states, next_of, start_of, self.zeros)

    # Readout

    def _check_readout(self) -> None:
        says, graph, steps = self.described[-1], self.network.main, self.network.steps
        weight = self.blocks[id(self.values[says.weight_out or ""])]
        units, classes = weight.shape
        place = graph.inputs[0]
        readers = [o for o in graph.operations if place in o.inputs]
        sizes = graph.layouts[place].sizes(ROWS)
        if len(sizes) == 3 and all(_over_time(o) for o in readers) and place not in graph.outputs:
            means = self.algebra.block("mean spikes", (units,), "input")
            symbolic = Evaluation(self.algebra, graph, self._leaves(graph, [torch.zeros(0)]))
            for o in readers:
                value = self._rows(means)
                if "sum" in o.operator:
                    value = symbolic.each(lambda p: self.algebra.scale(p, steps), value)
                symbolic.values[o.index] = value.reshape(graph.layouts[o.index].sizes(ROWS))
            expected = -1 - np.arange(means.first, means.first + units)
        else:
            every = self.algebra.block("spikes", sizes[1:], "input")
            symbolic = Evaluation(self.algebra, graph, self._leaves(graph, [self._rows(every)]))
            columns = self._entries(every, (steps, units)).T.tolist()
            expected = np.array([self.algebra.scale(self.algebra.sum(c), Fraction(1, steps)) for c in columns])
        outputs = symbolic.outputs()
        if len(outputs) != 1:
            raise Mismatch("readout must return one tensor")
        logits = self._one_row(outputs[0], "the answer of readout")
        if len(logits) != classes:
            raise Mismatch(f"readout returns {len(logits)} logits, not {classes}")
        for k, logit in enumerate(logits):
            left, rest = products(self.algebra, logit, ONE, 0)
            column = column_of(self.algebra, weight, self.zeros[weight.first], left.pop(weight.first, []), k, 0)
            wrong = ~self.zeros[weight.first][:, k] & (column != expected)
            if wrong.any():
                u = int(wrong.argmax())
                raise Mismatch(
                    f"readout multiplies {weight.name}[{u},{k}] by {self.algebra.show(int(column[u]))}, not by the "
                    f"mean of the spikes of cell {u}"
                )
            bias = ZERO if says.bias_out is None else -1 - self.blocks[id(self.values[says.bias_out])].first - k
            if left or rest != bias:
                extra = self.algebra.show(self.algebra.subtract(rest, bias)) if not left else "another matrix"
                raise Mismatch(f"logit {k} of readout has {extra} beside mean spikes times {weight.name!r} and bias")


def _over_time(o: Any) -> bool:
    """Whether an operation is the mean or the sum over time of the outputs."""
    if o.operator not in ("aten.mean.dim", "aten.sum.dim_IntList") or o.kwargs.get("dtype") is not None:
        return False
    dims = o.args[1] if len(o.args) > 1 else None
    return isinstance(dims, (list, tuple)) and len(dims) == 1 and dims[0] in (1, -2)


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() and b.numel() > 0


def _same_place(a: Tensor, b: Tensor) -> bool:
    return (a.data_ptr(), a.shape, a.stride(), a.dtype) == (b.data_ptr(), b.shape, b.stride(), b.dtype)


__all__ = ["Mismatch", "check_structure"]
