"""Tensors of numbers that the graph names."""

from __future__ import annotations

from typing import Any

import torch

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.literals import in_result, literal
from thetabox.verify.interpreter.rules.table import rule


@rule("aten.zeros.default", "aten.zeros_like.default", "aten.new_zeros.default", parameters=True, slack=True,
      types="moves", honours=("self", "size", "dtype"))  # a list of operators  # fmt: skip
def zeros(context: Context, *args: Any, **kwargs: Any) -> Interval:
    """Zeros."""
    return _constant(context, 0.0)


@rule("aten.ones.default", "aten.ones_like.default", "aten.new_ones.default", parameters=True, slack=True,
      types="moves", honours=("self", "size", "dtype"))  # a list of operators  # fmt: skip
def ones(context: Context, *args: Any, **kwargs: Any) -> Interval:
    """Ones."""
    return _constant(context, 1.0)


@rule("aten.full.default", "aten.full_like.default", parameters=True, slack=True, types="moves", honours=("dtype",))
def full(context: Context, like: Any, value: Any, **kwargs: Any) -> Interval:
    """One number everywhere."""
    return _constant(context, value)


@rule("aten.new_full.default", parameters=True, slack=True, types="moves", honours=("dtype",))
def new_full(context: Context, like: Any, size: Any, value: Any, **kwargs: Any) -> Interval:
    """One number everywhere."""
    return _constant(context, value)


@rule("aten.scalar_tensor.default", slack=True, types="moves", honours=("dtype",))
def scalar(context: Context, value: Any, **kwargs: Any) -> Interval:
    """A number as a tensor."""
    return _constant(context, value)


@rule("aten.arange.default", "aten.arange.start", "aten.arange.start_step", slack=True,
      honours=("start", "end", "step", "dtype"))  # a list of operators  # fmt: skip
def arange(context: Context, *args: Any, **kwargs: Any) -> Interval:
    """Numbers in order."""
    if context.layout.batch is not None:
        raise InputError(f"{context.where} counts samples")
    out = Interval.point(torch.arange(*args, dtype=context.dtype, device=context.row_epsilon.values.device))
    if not all(isinstance(a, int) for a in args) or out.magnitude >= 2.0**24:
        out.slack = 4 * context.rounding.of_operation() * out.magnitude
    return out


@rule("aten.linspace.default", slack=True, honours=("dtype",))
def linspace(context: Context, start: float, end: float, steps: int) -> Interval:
    """Numbers at equal distances, known as well as their ends are: a rounded step is taken several times."""
    if context.layout.batch is not None:
        raise InputError(f"{context.where} counts samples")
    out = Interval.point(
        torch.linspace(start, end, steps, dtype=context.dtype, device=context.row_epsilon.values.device)
    )
    size = abs(float(start)) + abs(float(end))
    out.slack = 8.0 * context.rounding.of_operation() * size + 4.0 * context.rounding.subnormal * steps
    return out


@rule("aten.eye.default", "aten.eye.m", slack=True, types="moves", honours=("dtype",))
def eye(context: Context, n: int, m: int | None = None) -> Interval:
    """Ones on the diagonal of a matrix, zeros elsewhere."""
    if context.layout.batch is not None:
        raise InputError(f"{context.where} counts samples")
    device = context.row_epsilon.values.device
    return Interval.point(torch.eye(n, n if m is None else m, dtype=context.dtype, device=device), nonnegative=True)


def _constant(context: Context, value: Any) -> Interval:
    sizes = context.layout.sizes(context.row_epsilon.samples)
    return literal(context, in_result(context, value), sizes, context.row_epsilon.values.device)
