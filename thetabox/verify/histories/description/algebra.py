"""Computing with polynomials: sums, products, powers, comparisons and other functions, and substitution."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from thetabox.verify.histories.description.atoms import (
    FLOOR,
    LARGEST,
    ONE,
    RSQRT,
    WHOLE,
    ZERO,
    AtomBlock,
    Dot,
    Exp,
    Function,
    Monomial,
    Number,
    Sign,
    Terms,
    accumulate,
    plain,
)
from thetabox.verify.histories.description.polynomials import Polynomials
from thetabox.verify.network.operators import NEVER_NEGATIVE


def _largest(*values: Number) -> Number:
    return max(values)


VALUES: Mapping[str, Callable[..., Number]] = {"maximum": max, "minimum": min, FLOOR: math.floor, LARGEST: _largest}


class Algebra(Polynomials):
    """Polynomials of one network, and what is computed with them."""

    def __init__(self) -> None:
        super().__init__()
        self._substituted: dict[tuple[int, frozenset[tuple[int, int]]], int] = {}

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
                elif isinstance(node, AtomBlock) and node.kind == "positive":
                    inverse = self.multiply(inverse, self.number({((atom, -e),): 1}))
                else:
                    return self.unknown(f"1/({self.show(p)}) (which may divide by zero)")
            return inverse
        if terms.get((), 0) > 0 and self.never_negative(p):
            return self._atom(Function("reciprocal", (p,)))
        return self.unknown(f"1/({self.show(p)}) (which may divide by zero)")

    def rsqrt(self, p: int) -> int:
        """1/√p of a number above 0."""
        if p in self.undefined:
            return p
        number = self.value(p)
        if number is None or number <= 0:
            return self.unknown(f"1/sqrt({self.show(p)}) (which may divide by zero)")
        return ONE if number == 1 else self._atom(Function(RSQRT, (p,)))

    def never_negative(self, p: int) -> bool:
        """Whether it is a sum of products of what is never below zero."""
        return all(c > 0 and all(e % 2 == 0 or self._never_negative(a) for a, e in m) for m, c in self.terms(p).items())

    def _never_negative(self, atom: int) -> bool:
        node = self._nodes[atom]
        match node:
            case Exp() | Sign():
                return True
            case AtomBlock():
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
        if name == LARGEST:
            arguments = self._apart(arguments)
            if len(arguments) == 1:
                return arguments[0]
            values = [self.value(p) for p in arguments]
        known = VALUES.get(name)
        if known is not None:
            if None not in values:
                return self.literal(known(*values))
            arguments = sorted(arguments)
        return self._atom(Function(name, tuple(arguments), settings))

    def _apart(self, arguments: Sequence[int]) -> list[int]:
        """What the largest of several is taken of: no largest among them, and no number that others are never below."""
        apart: dict[int, None] = {}
        for p in arguments:
            node = self._nodes[-1 - p] if p < 0 else None
            inner = node.arguments if isinstance(node, Function) and node.name == LARGEST else (p,)
            apart.update(dict.fromkeys(inner))
        if any(self.value(p) is None and (self._is_truth(p) or self.never_negative(p)) for p in apart):
            apart = {p: None for p in apart if (value := self.value(p)) is None or value > 0}
        return list(apart)

    def _is_truth(self, p: int) -> bool:
        """Whether it is a comparison or its opposite."""
        terms = self.terms(p)
        (atom, *others) = {a for m in terms for a, _ in m} or (None,)
        if atom is None or others or not isinstance(self._nodes[atom], Sign):
            return False
        return terms in ({((atom, 1),): 1}, {(): 1, ((atom, 1),): -1})

    def dot(self, left: np.ndarray, right: np.ndarray) -> int:
        """Σ left · right, where right are atoms of a matrix and all that is zero has been left out."""
        order = np.argsort(right, kind="stable")
        return self._atom(Dot(left[order].astype(np.int64).tobytes(), right[order].astype(np.int64).tobytes()))

    def accumulate_product(self, sums: Terms, p: int, q: int) -> None:
        """Add p q to terms that are being summed up."""
        right = self.terms(q).items()
        for m, c in self.terms(p).items():
            accumulate(sums, ((self._product(m, n), c * d) for n, d in right))

    # Substituting

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
