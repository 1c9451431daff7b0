"""Intervals of tensors, with the rounding error that has not been added yet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thetabox.verify.arithmetic.rounding import SAFETY


@dataclass(slots=True)
class Interval:
    r"""All tensors :math:`t` with ``lower - slack <= t <= upper + slack``, elementwise.

    The slack is one number a tensor: an elementwise operation adds its rounding error there, at the cost of one
    addition of Python floats instead of several passes over the tensor. Dense layers and :meth:`settled` put it
    into the ends. A point (``lower is upper``) is computed once.

    Attributes:
        lower: lower ends.
        upper: upper ends; the same object as ``lower`` for a point.
        slack: absolute error of both ends, at least 0.
        bound: an upper bound of the absolute value of all finite ends, if one is known (see :attr:`magnitude`).
        nonnegative: the true values are known to be at least 0 (so are the ends, but for the slack).
        by_row: a leading dimension of rows stands before the dimensions of the graph (a value that depends on ε
            but on no sample).
        batch: dimension of the samples, ``None`` for a value that is the same for all of them.
        merged: how many positions a sample holds in that dimension (more than 1 after ``[N, T, ...] -> [N T, ...]``).
        owned: both ends are memory of their own (a point's, one and the same) that nothing else will read, so that a
            rule may write over them.
    """

    lower: Tensor
    upper: Tensor
    slack: float = 0.0
    bound: float | None = None
    nonnegative: bool = False
    by_row: bool = False
    batch: int | None = None
    merged: int = 1
    owned: bool = False

    @classmethod
    def point(cls, value: Tensor, slack: float = 0.0, *, nonnegative: bool = False) -> Interval:
        """The interval that holds one tensor, up to ``slack``."""
        return cls(value, value, slack, nonnegative=nonnegative)

    @property
    def is_point(self) -> bool:
        """Whether both ends are one tensor."""
        return self.lower is self.upper

    @property
    def shape(self) -> torch.Size:
        """Shape of the ends."""
        return self.lower.shape

    @property
    def magnitude(self) -> float:
        """Upper bound of the absolute value of everything bounded inside, slack included."""
        if self.bound is None and not self.lower.numel():
            self.bound = 0.0
        if self.bound is None:
            low, high = float(self.lower.detach().amin()), float(self.upper.detach().amax())
            finite = math.isfinite(low) and math.isfinite(high)
            self.bound = max(-low, high, 0.0) if finite else self._finite_bound()
        return (self.bound + self.slack) * SAFETY

    def _finite_bound(self) -> float:
        """Bound of the entries that have one; infinite where an end overflowed, so that nothing is claimed of it.

        Where both ends are no numbers they stay so, whatever is added to them.
        """
        lower, upper = self.lower.detach(), self.upper.detach()
        if bool(((lower == math.inf) | (upper == -math.inf) | (lower.isnan() != upper.isnan())).any()):
            return math.inf
        ends = torch.cat([lower[lower.isfinite()].abs(), upper[upper.isfinite()].abs()])
        return float(ends.max()) if ends.numel() else 0.0

    def settled(self, roundoff: float) -> Interval:
        """The same set with its slack put into the ends, rounded outward."""
        if self.slack == 0.0:
            return self
        wide = (self.slack + 2.0 * roundoff * self.magnitude) * SAFETY
        lower = self.lower - wide
        upper = self.upper + wide
        if self.nonnegative:
            lower = lower.clamp(min=0.0)
        return replace(self, lower=lower, upper=upper, slack=0.0, bound=None)

    def both_known(self) -> Interval:
        """The same, but no number at both ends where one end is none: of what may be no number nothing is known."""
        lost = self.lower.isnan() | self.upper.isnan()
        return self.map(lambda t: t.masked_fill(lost, math.nan)) if bool(lost.any()) else self

    def map(self, function: Callable[[Tensor], Tensor]) -> Interval:
        """Apply an exact, increasing function to both ends; of sign and :attr:`bound` nothing is said."""
        return replace(self.moved(function), bound=None, nonnegative=False)

    def moved(self, function: Callable[[Tensor], Tensor]) -> Interval:
        """Apply a function that rearranges, selects or averages: sign and :attr:`bound` stay."""
        lower = function(self.lower)
        upper = lower if self.is_point else function(self.upper)
        return replace(self, lower=lower, upper=upper, owned=False)

    def fresh(self, function: Callable[[Tensor, Tensor | None], Tensor]) -> Interval:
        """As :meth:`map`, for a function that writes into its second argument, or else into new memory."""
        reuse = self.owned and not torch.is_grad_enabled()
        lower = function(self.lower, self.lower if reuse else None)
        upper = lower if self.is_point else function(self.upper, self.upper if reuse else None)
        return replace(self, lower=lower, upper=upper, bound=None, nonnegative=False, owned=True)
