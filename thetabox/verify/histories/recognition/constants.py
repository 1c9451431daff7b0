"""Numbers of a network that no box moves, in exact intervals; and those that a box moves, linear in parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from thetabox.verify.histories.description.algebra import Algebra
from thetabox.verify.histories.description.atoms import RSQRT, AtomBlock, Exp, Function, Monomial, Terms
from thetabox.verify.histories.recognition.failure import NotRecognised

# Relative error of a function of Python's math module, with room: none that is used here errs by more than some units
# in the last place.
LIBRARY = 2.0**-48
# The largest ε of a network that multiplies tensors of the box by each other: up to it, ε² is at most this times ε.
MOST_EPSILON = 0.125
# Where e to the power of something leaves what floats hold.
LARGEST_EXPONENT = 700

Interval = tuple[Fraction, Fraction]


@dataclass(frozen=True)
class Tensor:
    """A boxed tensor of the network by entries: values, and radii of the box at ε = 1."""

    name: str
    theta: np.ndarray
    radius: np.ndarray
    factor: float


@dataclass(frozen=True)
class Uncertain:
    """A number within ``spread`` ε + ``error`` of ``centre``."""

    centre: float
    spread: float
    error: float


class Constants:
    """What polynomials without inputs and states are worth.

    Args:
        algebra: of the polynomials.
        tensors: block of atoms (by its first atom) → the tensor.
    """

    def __init__(self, algebra: Algebra, tensors: Mapping[int, Tensor]) -> None:
        self.algebra, self.tensors = algebra, tensors
        self._known: dict[int, Interval] = {}
        self._uncertain: dict[int, Uncertain] = {}
        # Whether anything that was read is a product of two tensors of the box.
        self.multiplied = False

    def interval(self, p: int) -> Interval:
        """Both ends of a polynomial of numbers alone.

        Raises:
            NotRecognised: it holds something else, or a function that has no enclosure here.
        """
        interval = self._known.get(p)
        if interval is None:
            low = high = Fraction(0)
            for monomial, coefficient in self.algebra.terms(p).items():
                term = (Fraction(coefficient), Fraction(coefficient))
                for atom, exponent in monomial:
                    term = _times(term, _power(self._atom(atom), exponent))
                low, high = low + term[0], high + term[1]
            interval = self._known[p] = (low, high)
        return interval

    def _atom(self, atom: int) -> Interval:
        node = self.algebra.node(atom)
        match node:
            case Exp(of):
                return _monotone(math.exp, self.interval(of), limit=LARGEST_EXPONENT)
            case Function("maximum", (p, q), _):
                a, b = self.interval(p), self.interval(q)
                return max(a[0], b[0]), max(a[1], b[1])
            case Function("minimum", (p, q), _):
                a, b = self.interval(p), self.interval(q)
                return min(a[0], b[0]), min(a[1], b[1])
            case Function(name, (p,), _) if name == RSQRT:
                low, high = self.interval(p)
                if low > 0:
                    return _rsqrt(high)[0], _rsqrt(low)[1]
            case Function("reciprocal", (p,), _):
                low, high = self.interval(p)
                if low > 0:
                    return 1 / high, 1 / low
            case Function(name, (p,), ()) if name in _FUNCTIONS:
                return _monotone(_FUNCTIONS[name], self.interval(p), limit=LARGEST_EXPONENT)
            case AtomBlock(name, first, _, _) if first in self.tensors:
                raise NotRecognised(
                    f"a decay, a gain or a start of its cells hangs on {name!r}, which is in the box; exclude it"
                )
            case _:
                pass
        raise NotRecognised(f"a constant of a cell is {self.algebra.show(-1 - atom)}, whose value is not known here")

    def number(self, p: int) -> tuple[float, float]:
        """A float near it, and how far it may be off."""
        low, high = self.interval(p)
        value = _float((low + high) / 2)
        exact = Fraction(value)
        error = max(abs(high - exact), abs(low - exact))
        return value, math.nextafter(_float(error), math.inf) if error else 0.0

    def boxed(self, p: int) -> Uncertain:
        """A polynomial in entries of tensors, each of whose products is bounded factor by factor.

        Raises:
            NotRecognised: it is another function of them.
        """
        known = self._uncertain.get(p)
        if known is None:
            known = self._uncertain[p] = self._boxed(p)
        return known

    def _boxed(self, p: int) -> Uncertain:
        centre, spread, error = Fraction(0), Fraction(0), Fraction(0)
        for entries, factor in self._by_entries(p).items():
            low, high = self.interval(factor)
            middle, half = (low + high) / 2, (high - low) / 2
            theta, radius = Fraction(1), Fraction(0)
            for atom in entries:
                held, moved = self.entry(atom)
                self.multiplied |= bool(radius and moved)
                # Both radii are multiples of ε: of their product, ε² is ε times at most the largest one.
                both = Fraction(MOST_EPSILON) * radius * moved
                theta, radius = theta * held, abs(theta) * moved + radius * abs(held) + both
            centre, error = centre + middle * theta, error + half * abs(theta)
            spread += max(abs(low), abs(high)) * radius
        value = _float(centre)
        return Uncertain(value, _upward(spread), _upward(error + abs(centre - Fraction(value))))

    def _by_entries(self, p: int) -> dict[tuple[int, ...], int]:
        """Entries of tensors, each as often as it is a factor → the polynomial of numbers that multiplies them."""
        sums: dict[tuple[int, ...], Terms] = {}
        for monomial, coefficient in self.algebra.terms(p).items():
            entries = [(a, e) for a, e in monomial if isinstance(self.algebra.node(a), AtomBlock)]
            if any(e < 1 for _, e in entries):
                raise NotRecognised(
                    f"a constant of a cell is {self.algebra.show(p)}, which divides by what is in the box"
                )
            rest: Monomial = tuple((a, e) for a, e in monomial if (a, e) not in entries)
            sums.setdefault(tuple(a for a, e in entries for _ in range(e)), {})[rest] = coefficient
        return {entries: self.algebra.number(terms) for entries, terms in sums.items()}

    def entry(self, atom: int) -> tuple[Fraction, Fraction]:
        """Value of an entry of a tensor, and its radius at ε = 1."""
        block = self.algebra.node(atom)
        assert isinstance(block, AtomBlock)
        tensor = self.tensors.get(block.first)
        if tensor is None:
            raise NotRecognised(f"a constant of a cell is made of {self.algebra.show(-1 - atom)}")
        place = atom - block.first
        return Fraction(float(tensor.theta[place])), Fraction(float(tensor.radius[place]))

    def is_constant(self, p: int) -> bool:
        """Whether it holds neither input nor state, spike nor sum of products."""
        return all(self._constant(a) for m in self.algebra.terms(p) for a, _ in m)

    def _constant(self, atom: int) -> bool:
        match self.algebra.node(atom):
            case AtomBlock(_, first, _, _):
                return first in self.tensors
            case Exp(of):
                return self.is_constant(of)
            case Function(_, arguments, _):
                return all(self.is_constant(a) for a in arguments)
        return False


def _times(a: Interval, b: Interval) -> Interval:
    products = [x * y for x in a for y in b]
    return min(products), max(products)


def _power(a: Interval, exponent: int) -> Interval:
    if exponent < 0:
        raise NotRecognised("a constant of a cell is divided by what a box may move")
    out = (Fraction(1), Fraction(1))
    for _ in range(exponent):
        out = _times(out, a)
    return out


def _monotone(function: Callable[[float], float], of: Interval, limit: float) -> Interval:
    """An increasing function with positive values, in its ends."""
    if of[0] < -limit or of[1] > limit:
        raise NotRecognised("a constant of a cell is beyond what floats hold")
    ends = []
    for end, side in zip(of, (-1, 1), strict=True):
        x = _float(end)
        x = math.nextafter(x, side * math.inf) if Fraction(x) != end else x
        ends.append(Fraction(function(x)) * (1 + side * Fraction(LIBRARY)))
    return ends[0], ends[1]


def _rsqrt(of: Fraction) -> Interval:
    """1/√ of a number above 0, both ends."""
    x = _float(of)
    if not 0.0 < x < math.inf:
        raise NotRecognised("a constant of a cell is beyond what floats hold")
    return (Fraction(1 / math.sqrt(x)) * (1 - Fraction(LIBRARY)), Fraction(1 / math.sqrt(x)) * (1 + Fraction(LIBRARY)))


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


_FUNCTIONS: Mapping[str, Callable[[float], float]] = {
    "aten.sigmoid.default": _sigmoid,
}


def _float(value: Fraction) -> float:
    """A float near it."""
    try:
        return float(value)
    except OverflowError:
        raise NotRecognised("a constant of a cell is beyond what floats hold") from None


def _upward(value: Fraction) -> float:
    """A float that is no smaller."""
    number = _float(value)
    return number if Fraction(number) >= value else math.nextafter(number, math.inf)
