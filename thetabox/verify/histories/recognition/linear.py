"""A polynomial as one that is linear in some of its atoms."""

from __future__ import annotations

from collections.abc import Callable

from thetabox.verify.histories.description.algebra import Algebra
from thetabox.verify.histories.description.atoms import Monomial, Terms


def coefficients(algebra: Algebra, p: int, chosen: Callable[[int], bool]) -> dict[int | None, int] | None:
    """Chosen atom → the polynomial that it is multiplied by, ``None`` → what holds none of them.

    ``None`` where the polynomial is not linear in them: one of them stands in a power, or beside another.
    """
    sums: dict[int | None, Terms] = {}
    for monomial, coefficient in algebra.terms(p).items():
        powers = [(a, e) for a, e in monomial if chosen(a)]
        if len(powers) > 1 or any(e != 1 for _, e in powers):
            return None
        atom = powers[0][0] if powers else None
        rest: Monomial = tuple((a, e) for a, e in monomial if a != atom)
        sums.setdefault(atom, {})[rest] = coefficient
    return {atom: algebra.number(terms) for atom, terms in sums.items()}
