"""What enters a cell: sources times weights, entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from thetabox.verify.histories.description.atoms import ONE, ZERO, AtomBlock, Dot, Monomial, Terms
from thetabox.verify.histories.recognition.cells import CellReader
from thetabox.verify.histories.recognition.failure import NotRecognised
from thetabox.verify.histories.recognition.linear import coefficients
from thetabox.verify.histories.recognition.spikes import SpikeComparisons

INPUT, NOW, OLD, READ = "input", "now", "old", "read"
"""Kinds of sources: an input, a spike of this step or of the step before, what a step has returned."""

Source = tuple[str, int]
"""Its kind, and its place among the inputs or the atom of the comparison that its spike is."""
Linear = tuple[list[tuple[Source, int]], int]
"""Sources with what they are multiplied by, and the rest: polynomials of constants."""


@dataclass
class Entering:
    """Everything that enters one sum.

    Attributes:
        pairs: source, entry of a weight (``None`` for none), and the polynomial of numbers that both are multiplied by.
        single: sources and entries of products with weight one after another: a source each, by nothing else.
        rest: what has no source, linear in weights.
    """

    pairs: list[tuple[Source, int | None, int]] = field(default_factory=list)
    single: list[tuple[list[Source], np.ndarray]] = field(default_factory=list)
    rest: int = ZERO


class SumReader:
    """Takes sums apart.

    Args:
        reader: of cells, which says whether a comparison or its opposite is a spike.
        spikes: comparisons of the network.
        other: atom → a source of another kind, or ``None``.
    """

    def __init__(
        self, reader: CellReader, spikes: SpikeComparisons, other: Callable[[int], Source | None] | None = None
    ) -> None:
        self.reader, self.spikes, self.algebra = reader, spikes, reader.algebra
        self.other = other
        self._inputs = reader.equations.inputs
        self._spike_of_old = {old: now for now, old in spikes.old.items()}
        self._known: dict[int, Linear] = {}

    def entering(self, p: int) -> Entering:
        """A polynomial that is linear in sources, and in weights.

        Raises:
            NotRecognised: it is not.
        """
        out = Entering()
        cofactors = self._by_factor(p)
        rest = cofactors.pop(None, ZERO)
        for factor, times in cofactors.items():
            assert factor is not None
            if isinstance(dot := self.algebra.node(factor), Dot):
                self._add_products(out, dot, times)
            else:
                self._add(out, factor, times)
        self._add(out, None, rest)
        return out

    def _by_factor(self, p: int) -> dict[int | None, int]:
        """Sum of products, or entry of a weight → the polynomial that it is multiplied by; ``None`` → the rest.

        Of several entries, as where batch norms scale a weight, one is taken; the others stand in that polynomial.
        """
        sums: dict[int | None, Terms] = {}
        for monomial, coefficient in self.algebra.terms(p).items():
            factors = [a for a, _ in monomial if self._is_factor(a)]
            products = [a for a in factors if isinstance(self.algebra.node(a), Dot)]
            chosen = next(iter(products or factors), None)
            if len(products) > 1 or (chosen is not None and (chosen, 1) not in monomial):
                raise NotRecognised(f"what enters a cell is {self.algebra.show(p)}, not linear in weights")
            rest: Monomial = tuple((a, e) for a, e in monomial if a != chosen)
            sums.setdefault(chosen, {})[rest] = coefficient
        return {factor: self.algebra.number(terms) for factor, terms in sums.items()}

    def _is_factor(self, atom: int) -> bool:
        node = self.algebra.node(atom)
        return isinstance(node, Dot) or (isinstance(node, AtomBlock) and node.first in self.reader.constants.tensors)

    def _add_products(self, out: Entering, dot: Dot, times: int) -> None:
        """The products of a sum, all of them times one number."""
        left, right = dot.factors()
        distinct, place = np.unique(left, return_inverse=True)
        read = [self.linear(q) for q in distinct.tolist()]
        if times == ONE and all(len(pairs) == 1 and pairs[0][1] == ONE and rest == ZERO for pairs, rest in read):
            out.single.append(([read[i][0][0][0] for i in place.tolist()], -1 - right))
            return
        for i, weight in zip(place.tolist(), (-1 - right).tolist(), strict=True):
            pairs, rest = read[i]
            for source, factor in pairs:
                out.pairs.append((source, weight, self.algebra.multiply(times, factor)))
            self._add_rest(out, weight, self.algebra.multiply(times, rest))

    def _add(self, out: Entering, weight: int | None, times: int) -> None:
        pairs, rest = self.linear(times)
        out.pairs += [(source, weight, factor) for source, factor in pairs]
        self._add_rest(out, weight, rest)

    def _add_rest(self, out: Entering, weight: int | None, rest: int) -> None:
        if rest != ZERO:
            whole = rest if weight is None else self.algebra.multiply(rest, -1 - weight)
            out.rest = self.algebra.add(out.rest, whole)

    def linear(self, q: int) -> Linear:
        """A polynomial as a sum of sources times numbers, and a number."""
        linear = self._known.get(q)
        if linear is None:
            linear = self._known[q] = self._linear(q)
        return linear

    def _linear(self, q: int) -> Linear:
        read = coefficients(self.algebra, self.spikes.rewritten(q), self._is_source)
        if read is None:
            raise NotRecognised(f"weights are multiplied by {self.algebra.show(q)}, which is not linear in spikes")
        rest_of_all = read.pop(None, ZERO)
        pairs: list[tuple[Source, int]] = []
        for atom, factor in read.items():
            assert atom is not None
            source, above = self._source(atom)
            if not self.reader.constants.is_constant(factor):
                raise NotRecognised(f"weights are multiplied by {self.algebra.show(q)}, which is not linear in spikes")
            if not above:
                # A comparison that holds where there is no spike is 1 less a spike.
                rest_of_all = self.algebra.add(rest_of_all, factor)
                factor = self.algebra.scale(factor, -1)
            pairs.append((source, factor))
        if not self.reader.constants.is_constant(rest_of_all):
            raise NotRecognised(f"weights are multiplied by {self.algebra.show(q)}: neither inputs nor spikes")
        return pairs, rest_of_all

    def _is_source(self, atom: int) -> bool:
        if atom in self._inputs or atom in self.spikes.old or atom in self._spike_of_old or atom in self.spikes.unions:
            return True
        return self.other is not None and self.other(atom) is not None

    def _source(self, atom: int) -> tuple[Source, bool]:
        """The source that an atom is, and whether it is the spike itself (and not 1 less it)."""
        if atom in self._inputs:
            return (INPUT, self._inputs[atom]), True
        if self.other is not None and (other := self.other(atom)) is not None:
            return other, True
        kind, spike = (OLD, self._spike_of_old[atom]) if atom in self._spike_of_old else (NOW, atom)
        return (kind, spike), self.reader.spiking(spike).above
