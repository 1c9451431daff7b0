"""Values that are minus infinity in places, as what is added in front of a softmax to hide its entries."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval


def is_mask(a: Interval) -> bool:
    """Whether a value is known, minus infinity in places and a number in the others."""
    if not a.is_point or a.slack != 0.0:
        return False
    finite = a.lower.isfinite()
    return bool((finite | a.lower.isneginf()).all()) and not bool(finite.all())


def gone(a: Interval) -> Bool[Tensor, " ..."]:
    """Where a value is minus infinity for certain."""
    return a.lower.isneginf() & a.upper.isneginf()


def filled(a: Interval) -> Interval:
    """The same with zeros for minus infinity."""
    mask = gone(a)
    lower = a.lower.masked_fill(mask, 0.0)
    upper = lower if a.is_point else a.upper.masked_fill(mask, 0.0)
    return replace(a, lower=lower, upper=upper, bound=None, owned=False)


def hidden(a: Interval, mask: Bool[Tensor, " ..."]) -> Interval:
    """Minus infinity in some places; nothing is known there where the value may be infinite itself."""
    finite = a.lower.isfinite() & a.upper.isfinite()
    lower, upper = a.lower.masked_fill(mask, -torch.inf), a.upper.masked_fill(mask, -torch.inf)
    return replace(a, lower=lower, upper=upper.masked_fill(mask & ~finite, torch.inf), bound=None, nonnegative=False)
