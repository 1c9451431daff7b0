"""Tensors of polynomials, and what the operators on them are made of.

A value is a tensor of whole numbers, each the number of a polynomial of :mod:`.algebra`; so whatever only moves values
(views, slices, concatenation) is done by torch itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thetabox.verify.histories.description.algebra import Algebra
from thetabox.verify.histories.description.atoms import ZERO, AtomBlock, Number, Terms
from thetabox.verify.network.graph import Graph

# Samples of the evaluation: equal ones, and more than one, so that nothing of size 1 is taken for the samples' axis.
ROWS = 2


class SampleCount(int):
    """The number of samples, or a multiple, which may be a size and nothing else."""


class Unknown(Exception):
    """An operation that is no part of any equation here."""


class Symbolic:
    """Arithmetic on tensors of polynomials, for the operators of one graph.

    Args:
        algebra: makes the polynomials.
        graph: traced.
    """

    rows = ROWS

    def __init__(self, algebra: Algebra, graph: Graph) -> None:
        self.algebra, self.graph = algebra, graph

    def entries(self, block: AtomBlock) -> Tensor:
        """The atoms of a tensor."""
        return -1 - torch.arange(block.first, block.first + block.count).reshape(block.shape)

    def constant(self, value: Any) -> int:
        """A number of the code."""
        if isinstance(value, SampleCount) or not isinstance(value, (int, float)):
            raise Unknown
        return self.algebra.literal(value)

    def literals(self, stored: Tensor, name: str = "a constant") -> Tensor:
        """A tensor whose values are known."""
        if stored.is_complex() or not bool(torch.isfinite(stored).all()):
            return torch.full(stored.shape, self.algebra.unknown(name))
        held = stored.detach().double() if stored.is_floating_point() else stored.detach().to(torch.int64)
        distinct, place = np.unique(held.cpu().numpy(), return_inverse=True)
        numbers = np.array([self.algebra.literal(v) for v in distinct.tolist()], np.int64)
        return torch.from_numpy(numbers[place.reshape(-1)]).reshape(stored.shape)

    def operand(self, value: Any) -> Tensor:
        """A tensor of polynomials, of a number too."""
        return value if isinstance(value, Tensor) else torch.tensor(self.constant(value))

    def each(self, function: Callable[..., int], *values: Any) -> Tensor:
        """An operation on single polynomials, once for every distinct choice of operands."""
        tensors = torch.broadcast_tensors(*(self.operand(v) for v in values))
        columns = np.stack([t.reshape(-1).numpy() for t in tensors], 1)
        if len(columns) == 0:
            return tensors[0].clone()
        known: dict[tuple[int, ...], int] = {}
        out = []
        for column in map(tuple, columns.tolist()):
            if column not in known:
                known[column] = function(*column)
            out.append(known[column])
        return torch.tensor(out, dtype=torch.int64).reshape(tensors[0].shape)

    def reduced(self, x: Tensor, dims: Sequence[int], keepdim: bool, factor: Number = 1) -> Tensor:
        """Sums over dimensions, times a number."""
        dims = [d % x.dim() for d in dims]
        kept = [d for d in range(x.dim()) if d not in dims]
        rows = x.permute(kept + dims).reshape([x.shape[d] for d in kept] + [-1])
        flat = rows.reshape(-1, rows.shape[-1])
        memo: dict[tuple[int, ...], int] = {}
        sums = []
        for row in map(tuple, flat.tolist()):
            if row not in memo:
                memo[row] = self.algebra.scale(self.algebra.sum(row), factor)
            sums.append(memo[row])
        out = torch.tensor(sums, dtype=torch.int64).reshape(rows.shape[:-1])
        return out.reshape([1 if d in dims else s for d, s in enumerate(x.shape)]) if keepdim else out

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Matrix product, of stacks of matrices too."""
        if left.dim() == 1:
            return self.product(left[None], right).squeeze(-1 if right.dim() == 1 else -2)
        if right.dim() == 1:
            return self.product(left, right[:, None]).squeeze(-1)
        if right.dim() == 2:
            flat = left.reshape(-1, left.shape[-1])
            return self._rows(flat, right).reshape(*left.shape[:-1], right.shape[1])
        shape = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        lefts = left.expand(*shape, *left.shape[-2:]).reshape(-1, *left.shape[-2:])
        rights = right.expand(*shape, *right.shape[-2:]).reshape(-1, *right.shape[-2:])
        products = [self._rows(a, b) for a, b in zip(lefts, rights, strict=True)]
        return torch.stack(products).reshape(*shape, left.shape[-2], right.shape[-1])

    def _rows(self, left: Tensor, right: Tensor) -> Tensor:
        columns = np.ascontiguousarray(right.numpy().T)
        memo: dict[bytes, Tensor] = {}
        for row in left.numpy():
            key = row.tobytes()
            if key not in memo:
                memo[key] = torch.tensor([self._dot(row, column) for column in columns], dtype=torch.int64)
        return torch.stack([memo[row.tobytes()] for row in left.numpy()])

    def _dot(self, left: np.ndarray, right: np.ndarray) -> int:
        if self.algebra.undefined:
            lost = self.algebra.undefined.intersection([*left.tolist(), *right.tolist()])
            if lost:
                return min(lost)
        there = (left != ZERO) & (right != ZERO)
        left, right = left[there], right[there]
        if len(left) == 0:
            return ZERO
        turned = self._of_weight(left)
        if turned.any():
            # Transposed products have the weights on the left.
            turned &= ~self._of_weight(right)
            left, right = np.where(turned, right, left), np.where(turned, left, right)
        if self._of_weight(right, one=True).all():
            return self.algebra.dot(left, right)
        groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
        rest: Terms = {}
        for p, q in zip(left.tolist(), right.tolist(), strict=True):
            factors = self._weight_in(q)
            if factors is None:
                self.algebra.accumulate_product(rest, p, q)
            else:
                cofactor, weight = factors
                groups.setdefault((self._block_of(weight), cofactor), []).append((p, weight))
        total = self.algebra.number(rest)
        for (_, cofactor), pairs in groups.items():
            some = np.array(pairs, np.int64)
            total = self.algebra.add(total, self.algebra.multiply(cofactor, self.algebra.dot(some[:, 0], some[:, 1])))
        return total

    def _of_weight(self, numbers: np.ndarray, one: bool = False) -> np.ndarray:
        """Which of them are entries of a weight matrix; with ``one``, all of one matrix."""
        mask = np.zeros(len(numbers), bool)
        for block in self.algebra.blocks:
            if block.kind == "weight":
                atoms = -1 - numbers
                within = (atoms >= block.first) & (atoms < block.first + block.count)
                if one and within.all():
                    return within
                mask |= within
        return np.zeros(len(numbers), bool) if one else mask

    def _block_of(self, number: int) -> int:
        node = self.algebra.node(-1 - number)
        return node.first if isinstance(node, AtomBlock) else -1

    def _weight_in(self, q: int) -> tuple[int, int] | None:
        """The factors (cofactor, entry of a matrix) of a polynomial, if it has them."""
        weight = None
        cofactor: Terms = {}
        for monomial, coefficient in self.algebra.terms(q).items():
            weights = [a for a, e in monomial if e == 1 and is_weight(self.algebra, a)]
            if len(weights) != 1 or weight not in (None, weights[0]):
                return None
            weight = weights[0]
            cofactor[tuple((a, e) for a, e in monomial if a != weight)] = coefficient
        return None if weight is None else (self.algebra.number(cofactor), -1 - weight)


def is_weight(algebra: Algebra, atom: int) -> bool:
    """Whether an atom is an entry of a weight matrix."""
    node = algebra.node(atom)
    return isinstance(node, AtomBlock) and node.kind == "weight"
