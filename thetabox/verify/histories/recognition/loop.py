"""Equations of a module with a loop over time, out of its unrolled trace."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from thetabox.verify.histories.description.algebra import Algebra
from thetabox.verify.histories.description.atoms import ZERO, AtomBlock
from thetabox.verify.histories.description.evaluation import Evaluation
from thetabox.verify.histories.description.symbolic import ROWS
from thetabox.verify.histories.recognition.constants import Constants
from thetabox.verify.histories.recognition.equations import Equations, block_of, layout_at, one_row, rows, table
from thetabox.verify.histories.recognition.failure import NotRecognised
from thetabox.verify.histories.recognition.sequences import SequenceRead, read_of
from thetabox.verify.histories.recognition.tensors import TensorAtoms
from thetabox.verify.network import Network
from thetabox.verify.network.graph import Graph, Layout
from thetabox.verify.network.rolled import NotRolled, Rolled, rolled
from thetabox.verify.problem import Problem

# States in front of the first step that are tried.
MOST_CHOICES = 512


def of_loop(problem: Problem, network: Network) -> Equations:
    """One step of the loop of a network.

    Raises:
        NotRecognised: it has no loop of like steps, or a value of one is no table of numbers of a sample.
    """
    try:
        loop = rolled(network.main)
    except NotRolled as error:
        raise NotRecognised(error.reason) from None
    return _Loop(problem, loop).equations()


class _Loop:
    def __init__(self, problem: Problem, loop: Rolled) -> None:
        self.loop, self.algebra = loop, Algebra()
        self.tensors = TensorAtoms(self.algebra, problem)
        # The whole input, of which the first entries of a step's input are a copy where all steps read the same.
        self.x_layout = layout_at(loop.drive, loop.drive.inputs[0])
        self.whole = block_of(self.algebra, "x", self.x_layout, "input")
        step = loop.step
        reads, constants = len(loop.reads), len(loop.constant.output)
        self.layouts = [layout_at(step, i) for i in step.inputs]
        self.reads = self._reads()
        state_layouts = self.layouts[reads + constants :]
        self.states = [block_of(self.algebra, f"state {n}", s, "state") for n, s in enumerate(state_layouts)]
        self.same = self._values(loop.constant, [rows(self.whole, self.x_layout)])
        entered = [_of_all(r.values, layout) for r, layout in zip(self.reads, self.layouts, strict=False)]
        self.given = entered + self.same

    def equations(self) -> Equations:
        loop, step = self.loop, self.loop.step
        states = [rows(b, s) for b, s in zip(self.states, self.layouts[len(self.given) :], strict=True)]
        results = self._rows(step, self._values(step, [*self.given, *states]))
        outputs, after = results[: len(loop.outputs)], results[len(loop.outputs) :]
        read, logits = self._readout([o.numel() for o in outputs])
        entering = [self.whole] * self._reads_whole + [r.block for r in self.reads]
        return Equations(
            self.algebra,
            Constants(self.algebra, self.tensors.by_first),
            {atom: n for n, atom in enumerate(a for b in entering for a in range(b.first, b.first + b.count))},
            self._columns(),
            self.states,
            table(self.states, after),
            table(self.states, self._start()),
            [p for o in outputs for p in o.reshape(-1).tolist()],
            logits,
            read,
        )

    def _values(self, graph: Graph, inputs: list[Tensor]) -> list[Tensor]:
        return Evaluation(self.algebra, graph, self.tensors.leaves(graph, inputs)).outputs()

    def _rows(self, graph: Graph, values: list[Tensor]) -> list[Tensor]:
        return [
            one_row(value, graph.layouts.get(i), "a result of a step")
            for value, i in zip(values, graph.outputs, strict=True)
        ]

    @property
    def _reads_whole(self) -> bool:
        """Whether steps read the input itself, the same in all of them."""
        return bool(self.loop.constant.output) or not self.reads

    def _columns(self) -> Tensor:
        """Which entry of a sample every entry of a step's input is, at every step."""
        columns = [torch.arange(self.whole.count).expand(self.loop.steps, -1)] if self._reads_whole else []
        return torch.cat([*columns, *(r.entries for r in self.reads)], 1)

    def _reads(self) -> list[SequenceRead]:
        loop, reads = self.loop, []
        sequences = self._values(loop.drive, [rows(self.whole, self.x_layout)])
        for read, layout in zip(loop.reads, self.layouts, strict=False):
            parts = [read.at(sequences[read.source], t) for t in range(loop.steps)]
            reads.append(
                read_of(self.algebra, self.whole, [one_row(part, layout, "what a step reads") for part in parts])
            )
        return reads

    def _start(self) -> list[Tensor]:
        """The state in front of the first step."""
        loop = self.loop
        if loop.initial is not None:
            graph = loop.initial
            values = self._values(graph, [rows(self.whole, self.x_layout)])
            return [
                one_row(value, graph.layouts.get(i), "the initial state")
                for value, i in zip(values, graph.outputs, strict=True)
            ]
        assert loop.first is not None
        return self._start_of(loop.first)

    def _start_of(self, graph: Graph) -> list[Tensor]:
        """The state in front of a first step that is of another form, as where a sum begins as a number of the code.

        That step must be what the others make of a state whose tensors each hold one number: 0, or one that the first
        step reads.
        """
        loop = self.loop
        evaluation = Evaluation(
            self.algebra, graph, self.tensors.leaves(graph, [rows(self.whole, self.x_layout), *self.given])
        )
        first = evaluation.outputs()
        numbers = {ZERO} | {
            int(value.reshape(-1)[0])
            for value in evaluation.values.values()
            if isinstance(value, Tensor) and value.numel() and self._one_number(value)
        }
        layouts = self.layouts[len(self.given) :]
        choices = itertools.product(sorted(numbers, key=lambda n: n != ZERO), repeat=len(layouts))
        for chosen in itertools.islice(choices, MOST_CHOICES):
            states = [torch.full(layout.sizes(ROWS), n) for layout, n in zip(layouts, chosen, strict=True)]
            step = self._values(loop.step, [*self.given, *states])
            joined = [value for value, how in zip(step, loop.outputs, strict=False) if how.join != "last"]
            made = [*joined, *step[len(loop.outputs) :]]
            if all(torch.equal(a, b) for a, b in zip(made, first, strict=True)):
                return [torch.full(block.shape, n) for block, n in zip(self.states, chosen, strict=True)]
        unknown = next(iter(self.algebra.undefined), None)
        raise NotRecognised(
            "its first step is none of the others' from a state of one number a tensor"
            if unknown is None
            else f"nothing is known here of {self.algebra.show(unknown)}"
        )

    def _one_number(self, value: Tensor) -> bool:
        entries = value.reshape(-1)
        return bool((entries == entries[0]).all()) and self.algebra.value(int(entries[0])) is not None

    def _readout(self, sizes: list[int]) -> tuple[dict[int, tuple[int, int]], list[int]]:
        """Which result of which step every atom of the readout is, and the logits."""
        loop, graph = self.loop, self.loop.readout
        read: dict[int, tuple[int, int]] = {}
        values: list[Tensor] = []
        before = 0
        for output, index, size in zip(loop.outputs, graph.inputs, sizes, strict=False):
            layout = layout_at(graph, index)
            block: AtomBlock = block_of(self.algebra, "outputs", layout, "input")
            value = rows(block, layout)
            values.append(value)
            assert layout.batch is not None
            for t in range(loop.steps) if output.join != "last" else [loop.steps - 1]:
                part = value
                if output.join == "stack":
                    part = value.select(output.dim, t)
                elif output.join == "cat":
                    length = value.shape[output.dim] // loop.steps
                    part = value.narrow(output.dim, t * length, length)
                dropped = output.join == "stack" and output.dim < layout.batch
                row = part.select(layout.batch - dropped, 0).reshape(-1)
                if len(row) != size:
                    raise NotRecognised("its steps' results are joined in a way that is not read here")
                read.update({-1 - atom: (t, before + n) for n, atom in enumerate(row.tolist())})
            before += size
        outputs = self._values(graph, [*values, *self.same])
        if len(outputs) != 1:
            raise NotRecognised("it returns several tensors")
        row = one_row(outputs[0], graph.layouts.get(graph.outputs[0]), "the answer")
        return read, row.reshape(-1).tolist()


def _of_all(value: Tensor, layout: Layout) -> Tensor:
    """A value of equal samples."""
    assert layout.batch is not None
    return value.unsqueeze(layout.batch).expand(layout.sizes(ROWS))
