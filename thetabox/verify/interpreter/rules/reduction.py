"""Sums, means, extremes and counts over dimensions, and whether all or any are true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.casts import in_type
from thetabox.verify.interpreter.rules.compare import nonzero, truth_values
from thetabox.verify.interpreter.rules.table import rule


def dimensions(context: Context, x: Interval, dim: Any) -> tuple[int, ...]:
    """The dimensions that a reduction names, or all of them.

    Raises:
        InputError: the samples lie in one of them.
    """
    rank = x.lower.dim()
    chosen = range(rank) if dim is None or dim == [] else (dim if isinstance(dim, Sequence) else [dim])
    dims = tuple(d % max(rank, 1) for d in chosen)
    if x.batch in dims:
        raise InputError(f"{context.where} mixes samples")
    return dims


def _terms(x: Interval, dims: tuple[int, ...]) -> int:
    return prod(x.shape[d] for d in dims) if x.shape else 1


def first_cast(context: Context, x: Interval, dtype: torch.dtype | None) -> Interval:
    """A reduction turns its terms into the type that it is given before it adds them up."""
    if dtype is None or context.kind is None:
        return x
    terms = in_type(context, x, context.kind.operands[0], dtype)
    return context.interval(terms) if isinstance(terms, Parameter) else terms


@rule("aten.sum.dim_IntList", "aten.sum.default", slack=True, types="whole")
def total(context: Context, x: Interval, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Interval:
    """Sum; ``n`` terms of magnitude ``M`` err by at most ``γ n M``."""
    x = first_cast(context, x, dtype)
    dims = dimensions(context, x, dim)
    terms = _terms(x, dims)
    out = Interval(*_ends(x, lambda t: t.sum(dims, keepdim)), nonnegative=x.nonnegative)
    out.slack = (x.slack + context.rounding.of_sum(terms) * x.magnitude) * terms * SAFETY
    out.slack += context.rounding.beyond(terms * x.magnitude)
    return out


@rule("aten.mean.dim", "aten.mean.default", slack=True)
def mean(context: Context, x: Interval, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Interval:
    """Mean: the sum divided by a whole number."""
    x = first_cast(context, x, dtype)
    dims = dimensions(context, x, dim)
    terms = _terms(x, dims)
    out = Interval(*_ends(x, lambda t: t.mean(dims, keepdim)), bound=x.bound, nonnegative=x.nonnegative)
    out.slack = _mean_slack(context, x, terms)
    return out


def _mean_slack(context: Context, x: Interval, terms: int) -> float:
    slack = (x.slack + context.rounding.of_sum(terms) * x.magnitude + context.rounding.subnormal) * SAFETY
    return slack + context.rounding.beyond(terms * x.magnitude)


class RunningMean:
    """As :func:`mean` over a dimension of ``terms`` slices that come one after the other and are not kept."""

    def __init__(self, terms: int) -> None:
        self.sums: Interval | None = None
        self.terms = terms

    def add(self, x: Interval, rows: Tensor | None = None) -> None:
        """One more slice, of all rows (the first dimension) or of some; nothing is differentiated."""
        if self.sums is None:
            lower = x.lower.clone()
            upper = lower if x.is_point else x.upper.clone()
            self.sums = replace(x, lower=lower, upper=upper, bound=x.magnitude)
            return
        sums = self.sums
        if sums.is_point and not x.is_point:
            sums.upper = sums.lower.clone()
        for end, more in ((sums.lower, x.lower), (sums.upper, x.upper)):
            if rows is None:
                end += more
            else:
                end.index_add_(0, rows, more)
            if sums.is_point:
                break
        # Slack and bound are the largest of one slice, which the error of the whole is made of.
        sums.slack, sums.nonnegative = max(sums.slack, x.slack), sums.nonnegative and x.nonnegative
        sums.bound = max(sums.bound or 0.0, x.magnitude)

    def add_unknown(self, rows: Tensor, count: int) -> None:
        """So many slices of truth values of which nothing is known, in some rows."""
        assert self.sums is not None
        if self.sums.is_point:
            self.sums.upper = self.sums.lower.clone()
        self.sums.upper[rows] += count
        self.sums.bound = max(self.sums.bound or 0.0, 1.0)

    def mean(self, context: Context, dim: int, keepdim: bool) -> Interval:
        """Of all slices."""
        assert self.sums is not None
        out = self.sums.moved(lambda t: (t / self.terms).unsqueeze(dim) if keepdim else t / self.terms)
        out.slack = _mean_slack(context, self.sums, self.terms)
        return out


@rule("aten.amax.default", slack=True, types="moves")
def largest(context: Context, x: Interval, dim: Any = (), keepdim: bool = False) -> Interval:
    """Maximum, exact."""
    dims = dimensions(context, x, list(dim))
    return Interval(*_ends(x, lambda t: t.amax(dims, keepdim)), x.slack, x.bound, x.nonnegative)


@rule("aten.amin.default", slack=True, types="moves")
def smallest(context: Context, x: Interval, dim: Any = (), keepdim: bool = False) -> Interval:
    """Minimum, exact."""
    dims = dimensions(context, x, list(dim))
    return Interval(*_ends(x, lambda t: t.amin(dims, keepdim)), x.slack, x.bound, x.nonnegative)


@rule("aten.max.dim", slack=True, types="moves")
def largest_with_place(context: Context, x: Interval, dim: int, keepdim: bool = False) -> tuple[Interval, None]:
    """Maximum; the place of it has no rule."""
    return largest(context, x, [dim], keepdim), None


@rule("aten.min.dim", slack=True, types="moves")
def smallest_with_place(context: Context, x: Interval, dim: int, keepdim: bool = False) -> tuple[Interval, None]:
    """Minimum; the place of it has no rule."""
    return smallest(context, x, [dim], keepdim), None


@rule("aten.all.dim", "aten.all.dims", "aten.all.default", types="whole")
def every(context: Context, x: Interval, dim: Any = None, keepdim: bool = False) -> Interval:
    """Whether all are other than 0."""
    (x,) = truth_values(context, x)
    return smallest(context, x, dimensions(context, x, dim), keepdim)


@rule("aten.any.dim", "aten.any.dims", "aten.any.default", types="whole")
def some(context: Context, x: Interval, dim: Any = None, keepdim: bool = False) -> Interval:
    """Whether one is other than 0."""
    (x,) = truth_values(context, x)
    return largest(context, x, dimensions(context, x, dim), keepdim)


@rule("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList", types="whole")
def count(context: Context, x: Interval, dim: Any = None) -> Interval:
    """How many are other than 0."""
    return total(context, nonzero(context, x), dim)


def _ends(x: Interval, function: Any) -> tuple[Tensor, Tensor]:
    lower = function(x.lower)
    return lower, lower if x.is_point else function(x.upper)
