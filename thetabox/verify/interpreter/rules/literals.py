"""Numbers that stand in the graph: as numbers, as tensors, and what they are off by in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context

Number = int | float


def number(context: Context, value: Any) -> float:
    """A literal of the graph; the number of samples is none."""
    if not isinstance(value, (int, float)):
        raise InputError(f"{context.where} computes with the number of samples")
    return float(value)


def literal(context: Context, value: float, size: Sequence[int], device: torch.device) -> Interval:
    """A literal as a tensor; a network or bounds in float32 may hold it rounded."""
    tensor = torch.full(tuple(size), value, dtype=context.dtype, device=device)
    return Interval.point(tensor, literal_error(context, value), nonnegative=value >= 0)


def held(context: Context, value: float) -> Interval:
    """A literal that is computed with before it meets a tensor."""
    return literal(context, value, (), context.row_epsilon.values.device)


def literal_error(context: Context, value: float) -> float:
    """What a literal may be off by: a network or bounds in float32 may hold it rounded."""
    in_float32 = context.rounding.network > 0 or context.dtype == torch.float32
    if not in_float32 or not math.isfinite(value) or float(torch.tensor(value, dtype=torch.float32)) == value:
        return 0.0
    error = (context.rounding.of_operation() * abs(value) + context.rounding.subnormal) * SAFETY
    return error + context.rounding.beyond(abs(value))


def in_result(context: Context, value: Any) -> float:
    """A number of the graph as a tensor of the result's type holds it, if that is no wide floating type."""
    exact = number(context, value)
    result = None if context.kind is None else context.kind.result
    if result is None or (result.is_floating_point and result.itemsize >= 4):
        return exact
    return float(torch.full((), value, dtype=result).item())


def coefficient_of(context: Context, value: Number) -> float:
    """A number of the graph that is a number.

    Raises:
        InputError: it is infinite or not a number.
    """
    coefficient = number(context, value)
    if not math.isfinite(coefficient):
        raise InputError(f"{context.where} computes with {coefficient}; give it a finite number")
    return coefficient
