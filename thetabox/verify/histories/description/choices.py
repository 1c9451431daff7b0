"""Comparisons, truth values, the larger and the smaller of two, and functions that are no part of the equations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thetabox.verify.histories.description.atoms import FLOOR, LARGEST, ONE
from thetabox.verify.histories.description.operands import (
    FLOATING,
    WHOLES,
    check_operands,
    check_real,
    dims_of,
    is_number,
    truth,
)
from thetabox.verify.histories.description.symbolic import Symbolic, Unknown
from thetabox.verify.network.graph import Operation


def compared(side: int, *, strict: bool) -> Callable[..., Tensor]:
    """A comparison: a above b (side 1) or below, equal ones included unless strict."""

    def rule(s: Symbolic, o: Operation, a: Any, b: Any) -> Tensor:
        check_operands(s, o)

        def one(p: int, q: int) -> int:
            difference = s.algebra.subtract(p, q)
            if strict:
                return s.algebra.positive(s.algebra.scale(difference, side))
            return s.algebra.subtract(ONE, s.algebra.positive(s.algebra.scale(difference, -side)))

        return s.each(one, a, b)

    return rule


def sign(s: Symbolic, o: Operation, a: Tensor) -> Tensor:
    """1, 0 or −1."""
    check_real(o)
    return s.each(lambda p: s.algebra.subtract(s.algebra.positive(p), s.algebra.positive(s.algebra.scale(p, -1))), a)


def logical_and(s: Symbolic, o: Operation, a: Any, b: Any) -> Tensor:
    """Both hold."""
    if o.dtype != torch.bool:
        raise Unknown
    return s.each(s.algebra.multiply, truth(s, o, 0, a), truth(s, o, 1, b))


def logical_or(s: Symbolic, o: Operation, a: Any, b: Any) -> Tensor:
    """One of them holds."""
    if o.dtype != torch.bool:
        raise Unknown

    def one(p: int, q: int) -> int:
        return s.algebra.subtract(s.algebra.add(p, q), s.algebra.multiply(p, q))

    return s.each(one, truth(s, o, 0, a), truth(s, o, 1, b))


def logical_not(s: Symbolic, o: Operation, a: Tensor) -> Tensor:
    """It does not hold."""
    if o.dtype != torch.bool:
        raise Unknown
    return s.each(lambda p: s.algebra.subtract(ONE, p), truth(s, o, 0, a))


def where(s: Symbolic, o: Operation, condition: Tensor, a: Any, b: Any) -> Tensor:
    """A where the condition holds, b elsewhere."""
    check_operands(s, o)
    if o.dtype not in (*FLOATING, *WHOLES, torch.bool):
        raise Unknown
    return _chosen(s, truth(s, o, 0, condition), a, b)


def masked_fill(s: Symbolic, o: Operation, a: Tensor, mask: Tensor, value: Any) -> Tensor:
    """The value where the mask holds, a elsewhere."""
    check_operands(s, o)
    check_real(o)
    return _chosen(s, truth(s, o, 1, mask), value, a)


def threshold(s: Symbolic, o: Operation, a: Tensor, limit: Any, value: Any) -> Tensor:
    """A above the limit, the value elsewhere."""
    check_real(o)
    return _chosen(s, compared(1, strict=True)(s, o, a, limit), a, value)


def _chosen(s: Symbolic, condition: Tensor, a: Any, b: Any) -> Tensor:
    def one(p: int, q: int, r: int) -> int:
        return s.algebra.add(r, s.algebra.multiply(p, s.algebra.subtract(q, r)))

    return s.each(one, condition, a, b)


def largest(s: Symbolic, o: Operation, a: Any, b: Any) -> Tensor:
    """The larger one."""
    check_operands(s, o)
    check_real(o)
    return s.each(lambda p, q: s.algebra.function("maximum", (p, q)), a, b)


def smallest(s: Symbolic, o: Operation, a: Any, b: Any) -> Tensor:
    """The smaller one."""
    check_operands(s, o)
    check_real(o)
    return s.each(lambda p, q: s.algebra.function("minimum", (p, q)), a, b)


def clamp(s: Symbolic, o: Operation, a: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """min(max(a, low), high)."""
    if low is not None:
        a = largest(s, o, a, low)
    return a if high is None else smallest(s, o, a, high)


def clamp_max(s: Symbolic, o: Operation, a: Tensor, high: Any) -> Tensor:
    """min(a, high)."""
    return clamp(s, o, a, None, high)


def hardtanh(s: Symbolic, o: Operation, a: Tensor, low: Any = -1.0, high: Any = 1.0) -> Tensor:
    """As ``clamp``, between -1 and 1 by default."""
    return clamp(s, o, a, low, high)


def largest_along(s: Symbolic, o: Operation, x: Tensor, dims: Any = (), keepdim: bool = False) -> Any:
    """The largest along some dimensions, or of all; places, which torch returns too along one, are lost."""
    if "max.other" in o.operator:
        return largest(s, o, x, dims)
    check_operands(s, o)
    if o.dtype is not None:  # that of one result; of values and places it is the operand's
        check_real(o)
    along = [d % x.dim() for d in dims_of(x, list(dims) if isinstance(dims, (list, tuple)) else dims)]
    kept = [d for d in range(x.dim()) if d not in along]
    rows = x.permute(kept + along).reshape([x.shape[d] for d in kept] + [-1])
    flat = [s.algebra.function(LARGEST, row) for row in rows.reshape(-1, rows.shape[-1]).tolist()]
    out = torch.tensor(flat, dtype=torch.int64).reshape(rows.shape[:-1])
    out = out.reshape([1 if d in along else n for d, n in enumerate(x.shape)]) if keepdim else out
    return (out, None) if "max.dim" in o.operator else out


def relu(s: Symbolic, o: Operation, a: Tensor) -> Tensor:
    """max(a, 0)."""
    return largest(s, o, a, 0)


def absolute(s: Symbolic, o: Operation, a: Tensor) -> Tensor:
    """max(a, −a)."""
    return largest(s, o, a, s.each(lambda p: s.algebra.scale(p, -1), a))


def floor(s: Symbolic, o: Operation, a: Tensor) -> Tensor:
    """The largest whole number that is not above."""
    check_real(o)
    return s.each(lambda p: s.algebra.function(FLOOR, (p,)), a)


def unary(s: Symbolic, o: Operation, a: Tensor, *settings: Any, **named: Any) -> Tensor:
    """A function that is no part of the equations, but may cancel (as surrogates of a spike's gradient do)."""
    check_real(o)
    if not all(v is None or isinstance(v, str) or is_number(v) for v in (*settings, *named.values())):
        raise Unknown
    key = (*settings, *sorted(named.items()))
    return s.each(lambda p: s.algebra.function(o.operator, (p,), key), a)
