"""Sums of products in a polynomial: which entry of which matrix is multiplied by what."""

from __future__ import annotations

import numpy as np

from thetabox.verify.histories.description.algebra import Algebra
from thetabox.verify.histories.description.atoms import ONE, ZERO, AtomBlock, Dot, Terms, accumulate
from thetabox.verify.histories.description.symbolic import is_weight

Factors = tuple[np.ndarray, np.ndarray]
"""Polynomials, and the entries of a matrix that they are multiplied by."""


class Mismatch(Exception):
    """Where graph and equations part; ``progress`` says how far they had agreed."""

    def __init__(self, text: str, progress: int = 0) -> None:
        super().__init__(text)
        self.progress = progress


def products(algebra: Algebra, p: int, scale: int, progress: int) -> tuple[dict[int, list[Factors]], int]:
    """Everything linear in weights, divided by ``scale``: matrix → polynomials and entries; and the rest."""
    sums: dict[int, Terms] = {}
    single: dict[int, Terms] = {}
    rest: Terms = {}
    for monomial, coefficient in algebra.terms(p).items():
        linear = [a for a, _ in monomial if isinstance(algebra.node(a), Dot) or is_weight(algebra, a)]
        if not linear:
            rest[monomial] = coefficient
            continue
        if len(linear) > 1 or (linear[0], 1) not in monomial:
            raise Mismatch(f"weights are multiplied by each other: {algebra.show(p)}", progress)
        cofactor = tuple((a, e) for a, e in monomial if a != linear[0])
        kind = sums if isinstance(algebra.node(linear[0]), Dot) else single
        accumulate(kind.setdefault(linear[0], {}), [(cofactor, coefficient)])
    matrices: dict[int, list[Factors]] = {}
    for atom, terms in sums.items():
        node = algebra.node(atom)
        assert isinstance(node, Dot)
        times = algebra.number(terms)
        factors = node.factors()
        if times == scale:
            matrices.setdefault(_matrix(algebra, int(factors[1][0])), []).append(factors)
            continue
        for q, weight in zip(*(side.tolist() for side in factors), strict=True):
            algebra.accumulate_product(single.setdefault(-1 - weight, {}), times, q)
    fixed = {a for m in algebra.terms(scale) for a, _ in m}
    for atom, terms in single.items():
        whole = algebra.number(terms)
        # scale = 1 − α: what is multiplied by it stands without α once.
        left = (
            whole
            if scale == ONE
            else algebra.number({m: c for m, c in terms.items() if not any(a in fixed for a, _ in m)})
        )
        if algebra.multiply(scale, left) != whole:
            shown = algebra.show(whole)
            raise Mismatch(
                f"{algebra.show(-1 - atom)} is multiplied by {shown}, which has not the factor 1 − α", progress
            )
        if left != ZERO:
            matrices.setdefault(_matrix(algebra, -1 - atom), []).append((np.array([left]), np.array([-1 - atom])))
    return matrices, algebra.number(rest)


def column_of(
    algebra: Algebra, block: AtomBlock, zeros: np.ndarray, parts: list[Factors], j: int, progress: int
) -> np.ndarray:
    """What one column of a matrix is multiplied by, row by row."""
    column = np.zeros(block.shape[0], np.int64)
    if not parts:
        return column
    left, right = (np.concatenate(sides) for sides in zip(*parts, strict=True))
    rows, columns = np.divmod(-1 - right - block.first, block.shape[1])
    elsewhere = (columns != j) & ~zeros[rows, columns]
    if elsewhere.any():
        other = int(columns[elsewhere.argmax()])
        raise Mismatch(f"column {other} of {block.name!r} enters cell {j}", progress)
    rows, left = rows[columns == j], left[columns == j]
    if len(np.unique(rows)) == len(rows):
        column[rows] = left
    else:
        for i, p in zip(rows.tolist(), left.tolist(), strict=True):
            column[i] = algebra.add(int(column[i]), p)
    return column


def _matrix(algebra: Algebra, weight: int) -> int:
    node = algebra.node(-1 - weight)
    assert isinstance(node, AtomBlock)
    return node.first
