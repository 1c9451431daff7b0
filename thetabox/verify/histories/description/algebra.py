r"""Polynomials in a normal form: two that are the same function of their atoms are one and the same number.

An atom is an entry of an input, state or parameter, or something that is not a polynomial: :math:`e^p`, a comparison
:math:`[p > 0]`, a function of polynomials, or a sum of products with the entries of one weight matrix, which is kept as
one atom because it is long. Coefficients are exact rationals, since every literal of a graph is a binary number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from thetabox.verify.histories.description.atoms import (
    FLOOR,
    ONE,
    WHOLE,
    ZERO,
    Block,
    Dot,
    Exp,
    Function,
    Monomial,
    Node,
    Number,
    Sign,
    Terms,
    accumulate,
    plain,
)
from thetabox.verify.network.operators import NEVER_NEGATIVE

VALUES: Mapping[str, Callable[..., Number]] = {"maximum": max, "minimum": min, FLOOR: math.floor}


class Algebra:
    """All polynomials of one network: those of a single atom a have the number -1 - a, others count from 0."""

    def __init__(self) -> None:
        self._terms: list[Terms] = []
        self._numbers: dict[frozenset[tuple[Monomial, Number]], int] = {}
        self._nodes: list[Node] = []
        self._atoms: dict[Node, int] = {}
        self._support: dict[int, frozenset[int]] = {}
        self._substituted: dict[tuple[int, frozenset[tuple[int, int]]], int] = {}
        self.blocks: list[Block] = []
        self.undefined: set[int] = set()
        assert self.number({}) == ZERO
        assert self.literal(1) == ONE

    # Making

    def block(self, name: str, shape: Sequence[int], kind: str) -> Block:
        """Atoms for the entries of a tensor."""
        made = Block(name, len(self._nodes), tuple(shape), kind)
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

    # Computing

    def add(self, p: int, q: int) -> int:
        """The sum p + q."""
        if (lost := self._unknown_of((p, q))) is not None:
            return lost
        if p == ZERO:
            return q
        if q == ZERO:
            return p
        sums = dict(self.terms(p))
        accumulate(sums, self.terms(q).items())
        return self.number(sums)

    def sum(self, parts: Iterable[int]) -> int:
        """The sum of many."""
        parts = list(parts)
        if (lost := self._unknown_of(parts)) is not None:
            return lost
        sums: Terms = {}
        for p in parts:
            accumulate(sums, self.terms(p).items())
        return self.number(sums)

    def scale(self, p: int, factor: Number) -> int:
        """A number times p."""
        if factor == 1 or p in self.undefined:
            return p
        if factor == 0:
            return ZERO
        if factor == -1:
            return self.number({m: -c for m, c in self.terms(p).items()})
        return self.number({m: plain(c * factor) for m, c in self.terms(p).items()})

    def subtract(self, p: int, q: int) -> int:
        """The difference p − q."""
        return ZERO if p == q and p not in self.undefined else self.add(p, self.scale(q, -1))

    def multiply(self, p: int, q: int) -> int:
        """The product p q."""
        if (lost := self._unknown_of((p, q))) is not None:
            return lost
        if p == ONE or q == ZERO:
            return q
        if q == ONE or p == ZERO:
            return p
        for one, other in ((p, q), (q, p)):
            number = self.value(one)
            if number is not None:
                return self.scale(other, number)
        products: Terms = {}
        self.accumulate_product(products, p, q)
        return self.number(products)

    def _product(self, m: Monomial, n: Monomial) -> Monomial:
        if not m or not n:
            return m or n
        exponents = dict(m)
        for atom, e in n:
            exponents[atom] = exponents.get(atom, 0) + e
        # A truth value is its own square.
        return tuple(
            sorted((a, 1 if isinstance(self._nodes[a], Sign) and e > 1 else e) for a, e in exponents.items() if e)
        )

    def power(self, p: int, exponent: int) -> int:
        """A whole power, negative ones too."""
        base = p if exponent >= 0 else self.reciprocal(p)
        product = ONE
        for _ in range(abs(exponent)):
            product = self.multiply(product, base)
        return product

    def reciprocal(self, p: int) -> int:
        """1/p: again a polynomial where p is a product of what is never zero."""
        if p in self.undefined:
            return p
        number = self.value(p)
        if number:
            return self.literal(Fraction(1) / number)
        terms = self.terms(p)
        if len(terms) == 1:
            ((monomial, coefficient),) = terms.items()
            inverse = self.literal(Fraction(1) / coefficient)
            for atom, e in monomial:
                node = self._nodes[atom]
                if isinstance(node, Exp):
                    inverse = self.multiply(inverse, self.power(self.exp(self.scale(node.of, -1)), e))
                elif isinstance(node, Block) and node.kind == "positive":
                    inverse = self.multiply(inverse, self.number({((atom, -e),): 1}))
                else:
                    return self.unknown(f"1/({self.show(p)}) (which may divide by zero)")
            return inverse
        if terms.get((), 0) > 0 and self.never_negative(p):
            return self._atom(Function("reciprocal", (p,)))
        return self.unknown(f"1/({self.show(p)}) (which may divide by zero)")

    def never_negative(self, p: int) -> bool:
        """Whether it is a sum of products of what is never below zero."""
        return all(c > 0 and all(e % 2 == 0 or self._never_negative(a) for a, e in m) for m, c in self.terms(p).items())

    def _never_negative(self, atom: int) -> bool:
        node = self._nodes[atom]
        match node:
            case Exp() | Sign():
                return True
            case Block():
                return node.kind == "positive"
            case Function("maximum", (p, q), _):
                return p == self.scale(q, -1) or self.never_negative(p) or self.never_negative(q)
            case Function("reciprocal", _, _):
                return True
            case Function(name, _, _):
                return name in NEVER_NEGATIVE
        return False

    def exp(self, p: int) -> int:
        """The exponential."""
        if p in self.undefined:
            return p
        return ONE if p == ZERO else self._atom(Exp(p))

    def positive(self, p: int) -> int:
        """[p > 0], the same for p and any positive multiple of it."""
        if p in self.undefined:
            return p
        number = self.value(p)
        if number is not None:
            return ONE if number > 0 else ZERO
        terms = self.terms(p)
        atoms = {a for m in terms for a, _ in m}
        if len(atoms) == 1 and isinstance(self._nodes[(atom := next(iter(atoms)))], Sign):
            # Two numbers that a truth value chooses from: again a truth value, its opposite, or neither.
            without = terms.get((), 0)
            quiet, holds = int(without > 0), int(without + terms[((atom, 1),)] > 0)
            return self.add(self.literal(quiet), self.scale(-1 - atom, holds - quiet))
        lead = terms[min(terms)]
        whole = self.scale(p, lead if lead in (1, -1) else Fraction(1) / lead)
        return self._atom(Sign(whole, 1 if lead > 0 else -1))

    def nonzero(self, p: int) -> int:
        """[p ≠ 0]."""
        return self.add(self.positive(p), self.positive(self.scale(p, -1)))

    def function(self, name: str, arguments: Sequence[int], settings: tuple[Any, ...] = ()) -> int:
        """A function by name, computed where that is possible."""
        if (lost := self._unknown_of(arguments)) is not None:
            return lost
        values = [self.value(p) for p in arguments]
        if name == WHOLE and (whole := values[0]) is not None:
            low, high = settings
            if whole == int(whole) and low <= whole <= high:
                return arguments[0]
        known = VALUES.get(name)
        if known is not None:
            if None not in values:
                return self.literal(known(*values))
            arguments = sorted(arguments)
        return self._atom(Function(name, tuple(arguments), settings))

    def dot(self, left: np.ndarray, right: np.ndarray) -> int:
        """Σ left · right, where right are atoms of a matrix and all that is zero has been left out."""
        order = np.argsort(right, kind="stable")
        return self._atom(Dot(left[order].astype(np.int64).tobytes(), right[order].astype(np.int64).tobytes()))

    def accumulate_product(self, sums: Terms, p: int, q: int) -> None:
        """Add p q to terms that are being summed up."""
        right = self.terms(q).items()
        for m, c in self.terms(p).items():
            accumulate(sums, ((self._product(m, n), c * d) for n, d in right))

    # Looking inside

    def support(self, p: int) -> frozenset[int]:
        """Entries, comparisons and functions that it depends on, in functions too; not what weights multiply."""
        support = self._support.get(p)
        if support is None:
            own = (m for m in self.terms(p) if not self._weighted(m))
            support = frozenset().union(*(self._support_of(a) for m in own for a, _ in m))
            self._support[p] = support
        return support

    def _weighted(self, monomial: Monomial) -> bool:
        """Whether it holds an entry of a weight matrix."""
        return any(isinstance(node := self._nodes[a], Block) and node.kind == "weight" for a, _ in monomial)

    def _support_of(self, atom: int) -> frozenset[int]:
        node = self._nodes[atom]
        if isinstance(node, Block):
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

    def substitute(self, p: int, numbers: Mapping[int, int]) -> int:
        """P with polynomials in place of some atoms; sums of products stay as they are."""
        some = self.support(p) & numbers.keys()
        if not some:
            return p
        key = (p, frozenset((a, numbers[a]) for a in some))
        result = self._substituted.get(key)
        if result is None:
            sums: Terms = {}
            for monomial, coefficient in self.terms(p).items():
                if self._weighted(monomial) or not any(self._support_of(atom) & some for atom, _ in monomial):
                    accumulate(sums, ((monomial, coefficient),))
                    continue
                product = self.number({(): coefficient})
                for atom, e in monomial:
                    product = self.multiply(product, self.power(self._substituted_atom(atom, numbers), e))
                if product in self.undefined:
                    sums = self.terms(product)
                    break
                accumulate(sums, self.terms(product).items())
            result = self._substituted[key] = self.number(sums)
        return result

    def _substituted_atom(self, atom: int, numbers: Mapping[int, int]) -> int:
        if atom in numbers:
            return numbers[atom]
        node = self._nodes[atom]
        match node:
            case Exp(of):
                return self.exp(self.substitute(of, numbers))
            case Sign(of, side):
                return self.positive(self.scale(self.substitute(of, numbers), side))
            case Function(name, arguments, settings):
                changed = [self.substitute(a, numbers) for a in arguments]
                if name == "reciprocal":
                    return self.reciprocal(changed[0])
                return self.function(name, changed, settings)
        return -1 - atom

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
            case Block():
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
        return f"(product with {inner.name})" if isinstance(inner, Block) else "(product)"
