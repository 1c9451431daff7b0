"""What a network may return where one of its values is infinite: a quotient by zero, or in float32 what overflows.

Infinity less infinity, or zero times infinity, is not a number, and neither is anything computed from it: the bounds of
such a value say nothing, and no later clamp or sigmoid says anything again. So they are not numbers themselves.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval


def nowhere_infinite(value: Any) -> Any:
    """A rule's result whose ends are not numbers wherever it has no bound."""
    if isinstance(value, (tuple, list)):
        return type(value)(nowhere_infinite(v) for v in value)
    if not isinstance(value, Interval):
        return value
    if not math.isfinite(value.slack):
        lower = torch.full_like(value.lower, math.nan)
        upper = lower if value.is_point else torch.full_like(value.upper, math.nan)
        return replace(value, lower=lower, upper=upper, slack=0.0, bound=None)
    if _finite(value.lower) and (value.is_point or _finite(value.upper)):
        return value
    # Minus infinity at both ends is what a mask filled in: exactly that.
    known = (value.lower.isfinite() & value.upper.isfinite()) | (value.upper == -math.inf)
    lower = torch.where(known, value.lower, math.nan)
    return replace(value, lower=lower, upper=lower if value.is_point else torch.where(known, value.upper, math.nan))


def _finite(t: Tensor) -> bool:
    """In one pass where the sum does not overflow by itself."""
    return math.isfinite(float(t.detach().sum())) or bool(t.isfinite().all())
