"""What polynomials are made of: numbers, and atoms, which are entries of tensors and whatever is no polynomial."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

Number = int | Fraction
Monomial = tuple[tuple[int, int], ...]
"""Atoms with their exponents, ascending."""
Terms = dict[Monomial, Number]


@dataclass(frozen=True)
class AtomBlock:
    """Entries of one tensor, atoms one after another.

    Attributes:
        name: of the tensor, for messages.
        first: the atom of its first entry.
        shape: of the tensor.
        kind: ``input``, ``state``, ``weight`` (of a matrix), ``neuron``, ``positive`` (never zero) or ``undefined``.
    """

    name: str
    first: int
    shape: tuple[int, ...]
    kind: str

    @property
    def count(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Exp:
    """The exponential of a polynomial."""

    of: int


@dataclass(frozen=True)
class Sign:
    """1 where the polynomial's sign is ``side`` (1 or -1), else 0."""

    of: int
    side: int


@dataclass(frozen=True)
class Function:
    """Any other function; ``value`` computes it where all arguments are numbers, if it can."""

    name: str
    arguments: tuple[int, ...]
    settings: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Dot:
    """Sum over places of a polynomial times an entry of a weight matrix, as bytes of two arrays of numbers."""

    left: bytes
    right: bytes

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """Polynomials, and the entries of the matrix that they are multiplied by."""
        return np.frombuffer(self.left, np.int64), np.frombuffer(self.right, np.int64)


Node = AtomBlock | Exp | Sign | Function | Dot

FLOOR = "floor"
# The largest of several; of two that are compared with each other it is "maximum".
LARGEST = "largest"
# 1/√p of a number p above 0.
RSQRT = "rsqrt"
# A whole number of some type, between the settings; it has no value where it would wrap, or be cut off.
WHOLE = "whole"
ZERO, ONE = 0, 1


def accumulate(sums: Terms, items: Iterable[tuple[Monomial, Number]]) -> None:
    """Add terms to those that are there; what cancels goes."""
    for monomial, coefficient in items:
        total = sums.get(monomial, 0) + coefficient
        if total == 0:
            sums.pop(monomial, None)
        else:
            sums[monomial] = plain(total)


def plain(value: Number) -> Number:
    """A whole number as an int, which computes faster."""
    return value.numerator if isinstance(value, Fraction) and value.denominator == 1 else value
