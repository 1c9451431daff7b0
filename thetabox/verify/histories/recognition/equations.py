"""One step of a network in time as equations: what each number of its state becomes, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from thetabox.verify.histories.description.algebra import Algebra
from thetabox.verify.histories.description.atoms import AtomBlock
from thetabox.verify.histories.description.symbolic import ROWS
from thetabox.verify.histories.recognition.constants import Constants
from thetabox.verify.histories.recognition.failure import NotRecognised
from thetabox.verify.network.graph import Graph, Layout


@dataclass
class Equations:
    """Polynomials of one step.

    Attributes:
        algebra: that made them.
        constants: what those without states are worth.
        inputs: atom of the input of a step → its place among the inputs.
        columns: which entry of a sample each of them is at each step.
        states: tensors of the state.
        next: atom of a state → what it is behind a step.
        start: atom of a state → what it is in front of the first.
        outputs: of a step, flat.
        logits: of the network, in atoms of ``read``.
        read: atom → step, and place among the outputs.
    """

    algebra: Algebra
    constants: Constants
    inputs: dict[int, int]
    columns: Int[Tensor, "time inputs"]
    states: list[AtomBlock]
    next: dict[int, int]
    start: dict[int, int]
    outputs: list[int]
    logits: list[int]
    read: dict[int, tuple[int, int]]

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.columns)

    def place(self, atom: int) -> int:
        """Which tensor of the state an atom is an entry of."""
        return next(n for n, b in enumerate(self.states) if b.first <= atom < b.first + b.count)


def layout_at(graph: Graph, index: int) -> Layout:
    """Of a value that has one row a sample.

    Raises:
        NotRecognised: it has not.
    """
    layout = graph.layouts.get(index)
    if layout is None or layout.batch is None or layout.merged != 1:
        raise NotRecognised("a tensor of one of its steps does not have one row a sample")
    return layout


def block_of(algebra: Algebra, name: str, layout: Layout, kind: str) -> AtomBlock:
    """Atoms for one sample of a value."""
    return algebra.block(name, [size for size in layout.shape if size is not None], kind)


def rows(block: AtomBlock, layout: Layout) -> Tensor:
    """The atoms of a value of equal samples."""
    entries = -1 - torch.arange(block.first, block.first + block.count).reshape(block.shape)
    assert layout.batch is not None
    return entries.unsqueeze(layout.batch).expand(layout.sizes(ROWS))


def one_row(value: Tensor, layout: Layout | None, what: str) -> Tensor:
    """A value of one sample, which is that of every other."""
    if layout is None or layout.batch is None or layout.merged != 1 or value.shape[layout.batch] != ROWS:
        raise NotRecognised(f"{what} has not one row a sample")
    row = value.select(layout.batch, 0)
    if not torch.equal(row, value.select(layout.batch, 1)):
        raise NotRecognised(f"{what} is not one value a sample")
    return row


def table(states: Sequence[AtomBlock], values: Sequence[Tensor]) -> dict[int, int]:
    """Atom of a state → the polynomial in its place."""
    out: dict[int, int] = {}
    for block, value in zip(states, values, strict=True):
        if tuple(value.shape) != block.shape:
            raise NotRecognised(f"{block.name} changes its shape")
        out.update(zip(range(block.first, block.first + block.count), value.reshape(-1).tolist(), strict=True))
    return out
