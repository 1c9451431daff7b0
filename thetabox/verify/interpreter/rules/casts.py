"""Casts: a real number stays what it is, and becomes a whole one only where that is certain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import EXACT, Parameter, stored
from thetabox.verify.interpreter.context import Context, Value
from thetabox.verify.interpreter.rules.compare import nonzero
from thetabox.verify.interpreter.rules.table import EVERYTHING, rule
from thetabox.verify.network.kinds import ends_of, is_whole


@rule("aten._to_copy.default", "aten.to.dtype", "aten.to.device", "aten.to.dtype_layout", parameters=True, slack=True,
      types="casts", honours=EVERYTHING)  # a list of operators  # fmt: skip
def cast(context: Context, x: Value, *args: Any, **kwargs: Any) -> Value:
    """A cast between floating types, or of whole numbers; the real number stays what it is."""
    if context.kind is None or context.kind.result is None:
        return x
    return in_type(context, x, context.kind.operands[0], context.kind.result)


def in_type(context: Context, x: Value, source: torch.dtype | None, target: torch.dtype) -> Value:
    """A value in another type.

    Raises:
        InputError: a real number that is not known to be whole would become a whole one, or be rounded to fewer digits
            than float32 has.
    """
    if target is source:
        return x
    network = None if context.kind is None else context.kind.network
    if target.is_floating_point:
        # A type of so few digits holds every whole number up to this.
        narrow = target.itemsize < 4 and target is not network
        if narrow and not (is_whole(source) and _size(context, x) <= 2.0 / torch.finfo(target).eps):
            raise InputError(f"{context.where} rounds to {target}, which has no rule; use float32 or float64")
        return replace(x, source=None) if isinstance(x, Parameter) else x
    if is_whole(source):
        x = context.interval(x) if isinstance(x, Parameter) else x
        if target is torch.bool:
            return nonzero(context, x)
        return replace(x, owned=False)
    constant = not x.factor if isinstance(x, Parameter) else x.batch is None and not x.by_row
    if constant and target is torch.bool:
        return nonzero(context, context.interval(x) if isinstance(x, Parameter) else x)
    truncated = _truncated(context, x, target) if constant else _whole(context, x, target)
    if truncated is None:
        raise InputError(f"{context.where} turns real values into {target}, which has no rule")
    return truncated


def _size(context: Context, x: Value) -> float:
    return (context.interval(x) if isinstance(x, Parameter) else x).magnitude


def _whole(context: Context, x: Value, target: torch.dtype) -> Interval | None:
    """Whole numbers that a sample is given as real ones, such as places of an embedding; ``None`` for others."""
    if not isinstance(x, Interval) or not (x.is_point and x.slack == 0.0) or target is torch.bool:
        return None
    least, most = ends_of(target)
    inside = x.magnitude < min(EXACT, most) and (least < 0 or bool((x.lower >= 0).all()))
    return replace(x, owned=False) if inside and torch.equal(x.lower, x.lower.trunc()) else None


def _truncated(context: Context, x: Value, target: torch.dtype) -> Parameter | None:
    """Whole numbers that real ones certainly become; ``None`` where that is open."""
    x = (context.interval(x) if isinstance(x, Parameter) else x).settled(context.rounding.roundoff)
    low, high = x.lower.double().trunc(), x.upper.double().trunc()
    least, most = ends_of(target)
    if target is torch.bool or not torch.equal(low, high) or not low.numel():
        return None
    if not (max(least, -EXACT) < float(low.min()) + 1 and float(low.max()) - 1 < min(most, EXACT)):
        return None
    return stored(context.where, low.to(target), context.rounding)
