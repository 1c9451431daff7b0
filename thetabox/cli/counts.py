"""Shares that are required, compared with counts exactly as they are written."""

from __future__ import annotations

from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal


def enough(count: int, total: int, least: Decimal) -> bool:
    """Whether ``count`` of ``total`` is at least a share: 0.9 of 10 samples is 9."""
    exact = Context(prec=len(least.as_tuple().digits) + len(str(total)), Emin=MIN_EMIN, Emax=MAX_EMAX)
    return count >= exact.multiply(least, Decimal(total))


def written(least: Decimal) -> str:
    """A share as a user would write it."""
    return f"{least:f}" if least.adjusted() >= -6 else f"{least:e}"
