"""Cumulative sums, folded windows, norms, products and variances over dimensions."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.activation import absolute
from thetabox.verify.interpreter.rules.elementwise import product_ends
from thetabox.verify.interpreter.rules.powers import sqrt
from thetabox.verify.interpreter.rules.rearrangement import check_apart, last
from thetabox.verify.interpreter.rules.reduction import dimensions, first_cast, mean
from thetabox.verify.interpreter.rules.table import rule


def _summed(context: Context, x: Interval, function: Any, terms: int) -> Interval:
    """Sums of up to ``terms`` values each."""
    out = replace(x.moved(function), bound=None, batch=None)
    out.slack = (x.slack + context.rounding.of_sum(terms) * x.magnitude) * terms * SAFETY
    out.slack += context.rounding.beyond(terms * x.magnitude)
    return out


@rule("aten.cumsum.default", slack=True, types="whole")
def cumulative_sum(context: Context, x: Interval, dim: int, *, dtype: Any = None) -> Interval:
    """Sum of all values up to each."""
    x = first_cast(context, x, dtype)
    dims = dimensions(context, x, dim)
    return _summed(context, x, lambda t: t.cumsum(dim), prod(x.shape[d] for d in dims) if x.shape else 1)


@rule("aten.col2im.default", slack=True)
def folded(context: Context, x: Interval, size: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Interval:
    """Windows laid where they overlap, and summed there."""
    check_apart(context, x, last(2))
    return _summed(
        context, x, lambda t: torch.ops.aten.col2im(t, size, kernel, dilation, padding, stride), prod(kernel)
    )


@rule("aten.linalg_vector_norm.default", slack=True)
def vector_norm(
    context: Context, x: Interval, order: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Interval:
    """Sum of absolute values, Euclidean length, or the largest or smallest absolute value."""
    if order not in (1, 2, math.inf, -math.inf):
        raise InputError(f"{context.where}: norms of order 1, 2, inf and -inf have a rule, not {order}")
    x = first_cast(context, x, dtype)
    dims = dimensions(context, x, dim)
    terms = prod(x.shape[d] for d in dims) if x.shape else 1
    size = absolute(context, x)
    most = size.magnitude
    out = replace(size.map(lambda t: torch.linalg.vector_norm(t, order, dims, keepdim)), nonnegative=True, batch=None)
    if order in (math.inf, -math.inf):
        return out
    if order == 1:
        out.slack = (size.slack + context.rounding.of_sum(terms) * most) * terms * SAFETY
        out.slack += context.rounding.beyond(terms * most)
        return out
    # A square below the smallest number is lost, and its root is more than it.
    lost = math.sqrt(terms * context.rounding.flushed)
    out.slack = (size.slack * math.sqrt(terms) + context.rounding.of_sum(terms + 8) * out.magnitude) * SAFETY
    out.slack += lost + context.rounding.beyond(terms * most * most)
    return out


@rule("aten.prod.dim_int", slack=True)
def product(context: Context, x: Interval, dim: int, keepdim: bool = False, *, dtype: Any = None) -> Interval:
    """Product of all values, in whatever order."""
    x = first_cast(context, x, dtype).settled(context.rounding.roundoff)
    (axis,) = dimensions(context, x, dim)
    count = x.shape[axis] if x.shape else 1
    factors = [x.moved(partial(torch.select, dim=axis, index=i)) for i in range(count)] if x.shape else [x]
    if not factors:
        raise InputError(f"{context.where} multiplies no values")
    out = replace(factors[0], bound=None)
    for factor in factors[1:]:
        lower, upper = product_ends(out, factor)
        out = Interval(lower, upper, nonnegative=out.nonnegative and factor.nonnegative)
    if keepdim and x.shape:
        out = out.moved(lambda t: t.unsqueeze(axis))
    out = replace(out, bound=None, batch=None)
    # Any part of the product is at most this, and what underflows in it is multiplied by no more.
    most = max(1.0, x.magnitude)
    largest = most**count if count * math.log2(most) < 1000 else math.inf
    out.slack = (context.rounding.of_operation(2 * count) * out.magnitude) * SAFETY
    out.slack += context.rounding.beyond(largest) + count * context.rounding.subnormal * min(largest, 1e300)
    return out


@rule("aten.var.correction", slack=True)
def variance(
    context: Context, x: Interval, dim: Any = None, *, correction: Any = None, keepdim: bool = False
) -> Interval:
    r"""Variance: each :math:`x_i - \bar x` lies in an exact hull, their squares are summed.

    Around any centre the squares sum up to at least as much as around the mean, which is the other upper bound.
    """
    correction = 1 if correction is None else correction
    dims = dimensions(context, x, dim)
    terms = prod(x.shape[d] for d in dims) if x.shape else 1
    if terms <= correction:
        raise InputError(f"{context.where} divides by {terms - correction}")
    x = x.settled(context.rounding.roundoff)
    share, divisor = 1.0 / terms, float(terms - correction)
    low, high = (t.sum(dims, keepdim=True) for t in (x.lower, x.upper))
    least = x.lower * (1.0 - share) - (high - x.upper) * share
    most = x.upper * (1.0 - share) - (low - x.lower) * share
    through = (least <= 0) & (most >= 0)
    nearest = torch.where(through, 0.0, torch.minimum(least.abs(), most.abs()))
    farthest = torch.maximum(least.abs(), most.abs())
    centre = (low + high) * (share / 2)
    around = torch.maximum((x.lower - centre).abs(), (x.upper - centre).abs())
    lower = _squares(nearest, dims, keepdim) / divisor
    upper = torch.minimum(_squares(farthest, dims, keepdim), _squares(around, dims, keepdim)) / divisor
    out = Interval(torch.minimum(lower, upper), upper, nonnegative=True)
    # A difference to the computed mean errs by gamma times 2M, their squares' sum by 13 gamma n M²; running means
    # and sums (Chan, Golub and LeVeque, The American Statistician 37, 1983) by no more than twice that.
    size = x.magnitude
    relative = context.rounding.of_sum(4 * terms + 32)
    out.slack = (24.0 * relative * size * size * (terms / divisor) + terms * context.rounding.flushed) * SAFETY
    out.slack += context.rounding.beyond(4.0 * terms * size * size)
    return out


def _squares(t: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    return (t * t).sum(dims, keepdim)


@rule("aten.std.correction", slack=True)
def deviation(
    context: Context, x: Interval, dim: Any = None, *, correction: Any = None, keepdim: bool = False
) -> Interval:
    """Root of the variance."""
    roundoff = context.rounding.roundoff
    return sqrt(context, variance(context, x, dim, correction=correction, keepdim=keepdim).settled(roundoff))


@rule("aten.var_mean.correction", slack=True)
def variance_and_mean(
    context: Context, x: Interval, dim: Any = None, *, correction: Any = None, keepdim: bool = False
) -> tuple[Interval, Interval]:
    """Variance, and mean."""
    return variance(context, x, dim, correction=correction, keepdim=keepdim), mean(context, x, dim, keepdim)


@rule("aten.std_mean.correction", slack=True)
def deviation_and_mean(
    context: Context, x: Interval, dim: Any = None, *, correction: Any = None, keepdim: bool = False
) -> tuple[Interval, Interval]:
    """Root of the variance, and mean."""
    return deviation(context, x, dim, correction=correction, keepdim=keepdim), mean(context, x, dim, keepdim)
