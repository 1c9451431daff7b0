r"""Polynomials in a normal form: two that are the same function of their atoms are one and the same number.

An atom is an entry of an input, state or parameter, or something that is not a polynomial: :math:`e^p`, a comparison
:math:`[p > 0]`, a function of polynomials, or a sum of products with the entries of one weight matrix, which is kept as
one atom because it is long. Coefficients are exact rationals, since every literal of a graph is a binary number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np

from thetabox.verify.histories.description.atoms import (
    ONE,
    ZERO,
    AtomBlock,
    Dot,
    Exp,
    Function,
    Monomial,
    Node,
    Number,
    Sign,
    Terms,
    plain,
)


class Polynomials:
    """All polynomials of one network: those of a single atom a have the number -1 - a, others count from 0."""

    def __init__(self) -> None:
        self._terms: list[Terms] = []
        self._numbers: dict[frozenset[tuple[Monomial, Number]], int] = {}
        self._nodes: list[Node] = []
        self._atoms: dict[Node, int] = {}
        self._support: dict[int, frozenset[int]] = {}
        self.blocks: list[AtomBlock] = []
        self.undefined: set[int] = set()
        assert self.number({}) == ZERO
        assert self.literal(1) == ONE

    # Making

    def block(self, name: str, shape: Sequence[int], kind: str) -> AtomBlock:
        """Atoms for the entries of a tensor."""
        made = AtomBlock(name, len(self._nodes), tuple(shape), kind)
        self._nodes += [made] * made.count
        self.blocks.append(made)
        return made

    def unknown(self, name: str) -> int:
        """Something that may have no value, as 1/0 has none: neither times zero nor minus itself is it zero."""
        made = -1 - self.block(name, (), "undefined").first
        self.undefined.add(made)
        return made

    def _unknown_of(self, parts: Iterable[int]) -> int | None:
        return next((p for p in parts if p in self.undefined), None) if self.undefined else None

    def number(self, terms: Terms) -> int:
        """The polynomial of these terms, none of which is zero."""
        if len(terms) == 1:
            ((monomial, coefficient),) = terms.items()
            if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1:
                return -1 - monomial[0][0]
        key = frozenset(terms.items())
        index = self._numbers.get(key)
        if index is None:
            index = self._numbers[key] = len(self._terms)
            self._terms.append(terms)
        return index

    def literal(self, value: float | Number) -> int:
        """A number, exactly."""
        exact = plain(Fraction(value))
        return self.number({(): exact} if exact else {})

    def terms(self, p: int) -> Terms:
        """Monomial → coefficient."""
        return {((-1 - p, 1),): 1} if p < 0 else self._terms[p]

    def value(self, p: int) -> Number | None:
        """The number that it is, if it is one."""
        if p < 0:
            return None
        terms = self._terms[p]
        if not terms:
            return 0
        return terms.get(()) if len(terms) == 1 else None

    def node(self, atom: int) -> Node:
        """What an atom stands for."""
        return self._nodes[atom]

    def _atom(self, node: Node) -> int:
        index = self._atoms.get(node)
        if index is None:
            index = self._atoms[node] = len(self._nodes)
            self._nodes.append(node)
        return -1 - index

    # Looking inside

    def support(self, p: int) -> frozenset[int]:
        """Entries, comparisons and functions that it depends on, in functions too; not what weights multiply."""
        support = self._support.get(p)
        if support is None:
            unweighted = (m for m in self.terms(p) if not self._weighted(m))
            support = frozenset().union(*(self._support_of(a) for m in unweighted for a, _ in m))
            self._support[p] = support
        return support

    def _weighted(self, monomial: Monomial) -> bool:
        """Whether it holds an entry of a weight matrix."""
        return any(isinstance(node := self._nodes[a], AtomBlock) and node.kind == "weight" for a, _ in monomial)

    def _support_of(self, atom: int) -> frozenset[int]:
        node = self._nodes[atom]
        if isinstance(node, AtomBlock):
            return frozenset((atom,))
        support = self._support.get(-1 - atom)
        if support is None:
            match node:
                case Exp(of):
                    support = self.support(of)
                case Sign(of, _):
                    support = self.support(of) | {atom}
                case Function(_, arguments, _):
                    support = frozenset((atom,)).union(*(self.support(a) for a in arguments))
                case _:
                    support = frozenset()
            self._support[-1 - atom] = support
        return support

    # Showing

    def show(self, p: int, most: int = 3, deep: int = 3) -> str:
        """For messages: the first terms alone, and functions of functions so deep."""
        if deep == 0:
            return "…"
        terms = list(self.terms(p).items())
        shown = [self._show_term(m, c, deep - 1) for m, c in terms[:most]]
        return " + ".join(shown) + (" + …" if len(terms) > most else "") if shown else "0"

    def _show_term(self, monomial: Monomial, coefficient: Number, deep: int) -> str:
        factors = [self._show_atom(a, deep) + (f"^{e}" if e != 1 else "") for a, e in monomial]
        if coefficient != 1 or not factors:
            factors.insert(0, f"{float(coefficient):.12g}")
        return "·".join(factors)

    def _show_atom(self, atom: int, deep: int) -> str:
        node = self._nodes[atom]
        match node:
            case AtomBlock():
                if node.kind == "undefined":
                    return node.name
                place = np.unravel_index(atom - node.first, node.shape) if node.shape else ()
                return f"{node.name}[{','.join(str(int(i)) for i in place)}]" if place else node.name
            case Exp(of):
                return f"exp({self.show(of, 1, deep)})"
            case Sign(of, side):
                return f"[{self.show(of, 2, deep)} {'>' if side > 0 else '<'} 0]"
            case Function(name, arguments, _):
                return f"{name}({', '.join(self.show(a, 2, deep) for a in arguments)})"
        assert isinstance(node, Dot)
        inner = self._nodes[-1 - int(node.factors()[1][0])]
        return f"(product with {inner.name})" if isinstance(inner, AtomBlock) else "(product)"
