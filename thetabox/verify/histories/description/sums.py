"""Sums and products of polynomials."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from thetabox.verify.histories.description.atoms import ONE, ZERO
from thetabox.verify.histories.description.choices import logical_or
from thetabox.verify.histories.description.operands import (
    FLOATING,
    WHOLES,
    check_operands,
    check_real,
    dims_of,
    is_number,
)
from thetabox.verify.histories.description.symbolic import Symbolic, Unknown
from thetabox.verify.network.graph import Operation


def add(s: Symbolic, o: Operation, a: Any, b: Any, alpha: Any = 1) -> Tensor:
    """A + alpha b; of two truth values, whether one holds."""
    check_operands(s, o)
    if o.dtype == torch.bool and alpha == 1:
        return logical_or(s, o, a, b)
    check_real(o)
    return s.each(s.algebra.add, a, s.each(s.algebra.multiply, b, alpha))


def sub(s: Symbolic, o: Operation, a: Any, b: Any, alpha: Any = 1) -> Tensor:
    """A − alpha b."""
    check_operands(s, o)
    check_real(o)
    return s.each(s.algebra.subtract, a, s.each(s.algebra.multiply, b, alpha))


def rsub(s: Symbolic, o: Operation, a: Any, b: Any, alpha: Any = 1) -> Tensor:
    """B − alpha a."""
    return sub(s, o, b, a, alpha)


def neg(s: Symbolic, o: Operation, a: Tensor) -> Tensor:
    """−a."""
    check_real(o)
    return s.each(lambda p: s.algebra.scale(p, -1), a)


def mul(s: Symbolic, o: Operation, a: Any, b: Any) -> Tensor:
    """A b."""
    check_operands(s, o)
    if o.dtype != torch.bool:
        check_real(o)
    for x, mask in ((a, b), (b, a)):
        if (
            isinstance(mask, Tensor)
            and isinstance(x, Tensor)
            and not s.algebra.undefined
            and bool(((mask == ZERO) | (mask == ONE)).all())
        ):
            return torch.where(mask == ONE, x, torch.tensor(ZERO))
    return s.each(s.algebra.multiply, a, b)


def div(s: Symbolic, o: Operation, a: Any, b: Any) -> Tensor:
    """a/b; by zero it is unknown."""
    check_operands(s, o)
    check_real(o)
    if bool((s.operand(b) == ZERO).any()):
        raise Unknown
    return s.each(lambda p, q: s.algebra.multiply(p, s.algebra.reciprocal(q)), a, b)


def reciprocal(s: Symbolic, o: Operation, a: Tensor) -> Tensor:
    """1/a."""
    return div(s, o, 1, a)


def power(s: Symbolic, o: Operation, a: Tensor, exponent: Any) -> Tensor:
    """A small whole power."""
    check_real(o)
    # A tensor holds numbers of polynomials, none of which is an exponent.
    if not is_number(exponent) or exponent != int(exponent) or abs(exponent) > 8:
        raise Unknown
    if exponent < 0 and bool((a == ZERO).any()):
        raise Unknown
    return s.each(lambda p: s.algebra.power(p, int(exponent)), a)


def exp(s: Symbolic, o: Operation, a: Tensor) -> Tensor:
    """The exponential."""
    check_real(o)
    return s.each(s.algebra.exp, a)


def addcmul(s: Symbolic, o: Operation, a: Any, b: Any, c: Any, value: Any = 1) -> Tensor:
    """A + value b c."""
    check_operands(s, o)
    check_real(o)
    product = s.each(s.algebra.multiply, s.each(s.algebra.multiply, b, c), value)
    return s.each(s.algebra.add, a, product)


def lerp(s: Symbolic, o: Operation, a: Tensor, b: Tensor, weight: Any) -> Tensor:
    """A + weight (b − a)."""
    check_operands(s, o)
    check_real(o)
    return s.each(s.algebra.add, a, s.each(s.algebra.multiply, weight, s.each(s.algebra.subtract, b, a)))


def total(s: Symbolic, o: Operation, a: Tensor, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Sums; of real numbers that are first made whole ones, nothing is known."""
    check_operands(s, o)
    check_real(o)
    if o.dtype in WHOLES and any(s.graph.dtypes.get(i) in FLOATING for i in o.inputs):
        raise Unknown
    return s.reduced(a, dims_of(a, dims), keepdim)


def mean(s: Symbolic, o: Operation, a: Tensor, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Means."""
    check_operands(s, o)
    check_real(o)
    chosen = dims_of(a, dims)
    count = math.prod(a.shape[d] for d in chosen)
    return s.reduced(a, chosen, keepdim, Fraction(1, count))


def matmul(s: Symbolic, o: Operation, a: Tensor, b: Tensor) -> Tensor:
    """Matrix product."""
    check_operands(s, o)
    check_real(o)
    return s.product(a, b)


def linear(s: Symbolic, o: Operation, a: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A Wᵀ + bias."""
    check_real(o)
    out = s.product(a, weight.t())
    return out if bias is None else s.each(s.algebra.add, out, bias)


def addmm(s: Symbolic, o: Operation, bias: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """Beta bias + alpha a b."""
    check_real(o)
    scaled = s.each(s.algebra.multiply, s.product(a, b), alpha)
    return s.each(s.algebra.add, s.each(s.algebra.multiply, bias, beta), scaled)
