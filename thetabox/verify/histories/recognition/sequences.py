"""Sequences that a step reads at its index: entries of the input, or what is computed of each step's entries alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thetabox.verify.histories.description.algebra import Algebra
from thetabox.verify.histories.description.atoms import AtomBlock, Dot, Function, Terms
from thetabox.verify.histories.recognition.failure import NotRecognised


@dataclass(frozen=True)
class SequenceRead:
    """What a step reads.

    Attributes:
        entries: which entries of a sample they are of, at every step ``[time, entries]``.
        block: atoms that stand for these entries in ``values``.
        values: polynomials, as shaped in a step.
    """

    entries: Tensor
    block: AtomBlock
    values: Tensor


def read_of(algebra: Algebra, whole: AtomBlock, steps: Sequence[Tensor]) -> SequenceRead:
    """Values of all steps, polynomials of the entries of an input, as one step's.

    Raises:
        NotRecognised: they are not the same of each step's entries.
    """
    flat = [step.reshape(-1).tolist() for step in steps]
    orders = [_Renaming(algebra, whole).places(values) for values in flat]
    if len({len(order) for order in orders}) > 1:
        raise NotRecognised("its steps read what is not computed alike of each step's input")
    block = algebra.block("x", (len(orders[0]),), "input")
    renamed = []
    for values, order in zip(flat, orders, strict=True):
        renaming = _Renaming(algebra, whole, {place: block.first + n for n, place in enumerate(order)})
        renamed.append([renaming.renamed(p) for p in values])
        if renamed[-1] != renamed[0]:
            raise NotRecognised("its steps read what is not computed alike of each step's input")
    return SequenceRead(torch.tensor(orders), block, torch.tensor(renamed[0]).reshape(steps[0].shape))


class _Renaming:
    """Entries of the input under other names.

    Args:
        algebra: of the polynomials.
        whole: the input.
        names: entry of the input → atom.
    """

    def __init__(self, algebra: Algebra, whole: AtomBlock, names: dict[int, int] | None = None) -> None:
        self.algebra, self.whole, self.names = algebra, whole, names or {}
        self._known: dict[int, int] = {}

    def places(self, polynomials: Sequence[int]) -> list[int]:
        """Entries of the input that they hold, in the order in which they come."""
        order: dict[int, None] = {}
        for p in polynomials:
            for monomial in self.algebra.terms(p):
                for atom, _ in monomial:
                    node = self.algebra.node(atom)
                    if node is self.whole:
                        order.setdefault(atom - self.whole.first)
                    elif isinstance(node, Dot):
                        order.update(dict.fromkeys(self.places(node.factors()[0].tolist())))
        return list(order)

    def renamed(self, p: int) -> int:
        """A polynomial by the other names."""
        if p not in self._known:
            terms: Terms = {}
            for monomial, coefficient in self.algebra.terms(p).items():
                terms[tuple(sorted((self._atom(a), e) for a, e in monomial))] = coefficient
            self._known[p] = self.algebra.number(terms)
        return self._known[p]

    def _atom(self, atom: int) -> int:
        node = self.algebra.node(atom)
        if node is self.whole:
            return self.names[atom - self.whole.first]
        if isinstance(node, Dot):
            left, right = node.factors()
            return -1 - self.algebra.dot(np.array([self.renamed(q) for q in left.tolist()]), right)
        if isinstance(node, AtomBlock) and node.kind != "undefined":
            return atom
        if isinstance(node, Function) and all(self.algebra.value(p) is not None for p in node.arguments):
            return atom
        raise NotRecognised(f"its steps read {self.algebra.show(-1 - atom)}, computed in front of the loop")
