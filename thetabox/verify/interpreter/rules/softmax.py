r"""Softmax, its logarithm and log-sum-exp, each entry by itself.

An entry of a softmax falls in every other operand and rises in its own, so its range over a box of operands is exact:

.. math:: p_i \in \Big[\frac{1}{1 + \sum_{j \ne i} e^{u_j - l_i}}, \frac{1}{1 + \sum_{j \ne i} e^{l_j - u_i}}\Big]

(Wei et al., Convex Bounds on the Softmax Function with Applications to Robustness Verification, AISTATS 2023, §3;
Shi et al., Robustness Verification for Transformers, ICLR 2020). The sum without an entry is :math:`e^{d_i} s_i` with
:math:`d_i` the largest of the others less the entry, so :math:`s_i \ge 1` and nothing overflows on the way.

**Rounding**, with :math:`u` the unit roundoff of the bounds and of the network together. torch subtracts the maximum
first, so its exponents are :math:`y_i \le 0`. An exponential of a rounded difference errs by :math:`u(8 + |y|)`
relatively, and :math:`|y| e^y \le 1/e`: the n terms, which add up to :math:`S \ge 1`, lose at most :math:`u(8 + n/e)S`,
their sum in any order :math:`\gamma_n S` more (Higham, Accuracy and Stability of Numerical Algorithms, ch. 3). So
:math:`p_i` errs by :math:`u(16 + n/e + |y_i| + 3) + \gamma_n` relatively. :math:`s_i` is a difference of two sums of
which the smaller is below the result: three times that.

An entry of minus infinity (a mask) takes no part; a row of nothing else is unknown.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.activation import EXPONENT
from thetabox.verify.interpreter.rules.monotone import ULPS
from thetabox.verify.interpreter.rules.reduction import dimensions, first_cast
from thetabox.verify.interpreter.rules.table import rule


@rule("aten.softmax.int")
def softmax(context: Context, x: Interval, dim: int, dtype: Any = None) -> Interval:
    """``exp(x_i) / sum_j exp(x_j)``, exact in each entry."""
    x = first_cast(context, x, dtype)
    (dim_index,) = dimensions(context, x, dim)
    return softmax_ends(context.rounding, x.lower, x.upper, dim_index)


@rule("aten._softmax.default")
def softmax_in_type(context: Context, x: Interval, dim: int, half_to_float: bool) -> Interval:
    """The form of a decomposed export."""
    _in_its_type(context, half_to_float)
    return softmax(context, x, dim)


@rule("aten.log_softmax.int")
def log_softmax(context: Context, x: Interval, dim: int, dtype: Any = None) -> Interval:
    """``x_i - log(sum_j exp(x_j))``, exact in each entry."""
    x = first_cast(context, x, dtype)
    (dim_index,) = dimensions(context, x, dim)
    rounding, terms = context.rounding, x.shape[dim_index] if x.shape else 1
    few = rounding.of_operation(8)
    sums = sum_error(rounding, terms)

    def logarithm(entry: Tensor, others: Tensor, outward: float) -> Tensor:
        exponent, total = rivals(entry, others, dim_index)
        z = exponent + total.log()
        z = z + outward * (few * z.abs().nan_to_num(0.0, 0.0, 0.0) + 3.0 * sums)
        odds = z.clamp(min=0.0) + torch.log1p(torch.exp(-z.abs()))
        return -(odds * (1.0 + outward * few))

    # |y_i| is at most |log p_i|, whose rounding is in the ends; what is left is that of the logarithm of the sum.
    left = 2.0 * sums + rounding.of_operation(2 * ULPS) * (1.0 + math.log(max(terms, 1))) + terms * rounding.flushed
    lower, upper = logarithm(x.lower, x.upper, 1.0) - left, logarithm(x.upper, x.lower, -1.0) + left
    return Interval(*_known(x, dim_index, lower, upper))


@rule("aten._log_softmax.default")
def log_softmax_in_type(context: Context, x: Interval, dim: int, half_to_float: bool) -> Interval:
    """The form of a decomposed export."""
    _in_its_type(context, half_to_float)
    return log_softmax(context, x, dim)


@rule("aten.logsumexp.default", slack=True)
def logsumexp(context: Context, x: Interval, dim: Any, keepdim: bool = False) -> Interval:
    """``log(sum_j exp(x_j))``, which rises in every operand, by no more than the largest of them does."""
    dims, rounding = dimensions(context, x, list(dim)), context.rounding
    terms = math.prod(x.shape[d] for d in dims)
    magnitude = x.magnitude
    out = x.map(lambda t: torch.logsumexp(t, dims, keepdim))
    size = magnitude + math.log(max(terms, 1))
    out.slack += 2.0 * sum_error(rounding, terms) + rounding.of_operation(2 * ULPS) * (1.0 + size)
    out.slack += terms * rounding.flushed + rounding.beyond(size)
    return out


def softmax_ends(rounding: Rounding, low: Tensor, high: Tensor, dim: int, *, ulps: int = ULPS) -> Interval:
    """Ends of a softmax of operands in ``[low, high]``, all rounding in them: a number a tensor would blur exact zeros.

    Args:
        rounding: of the bounds and of the network, whose exponential errs by ``ulps``.
        low, high: ends of the operands.
        dim: dimension of the entries.
        ulps: of the exponential.
    """
    sums = sum_error(rounding, low.shape[dim] if low.dim() else 1, ulps)
    unit = rounding.of_operation()

    def share(entry: Tensor, others: Tensor, outward: float) -> Tensor:
        exponent, total = rivals(entry, others, dim)
        exponent_error = exponent.detach().abs().clamp(max=EXPONENT) * (4.0 * unit) + 3.0 * sums
        return 1.0 / (1.0 + torch.exp(exponent) * total * (1.0 + outward * exponent_error))

    lower, upper = share(low, high, 1.0), share(high, low, -1.0)
    # How far below the maximum an operand may lie.
    below = (high.detach().amax(dim, keepdim=True) - low.detach()).clamp(max=EXPONENT)
    relative = below * (2.0 * unit) + (sums + rounding.of_operation(ulps + 8))
    lower = (lower * (1.0 - relative) - rounding.flushed).clamp(min=0.0)
    upper = upper * (1.0 + relative) + rounding.flushed
    masked = high == -torch.inf
    lower, upper = lower.masked_fill(masked, 0.0), upper.masked_fill(masked, 0.0)
    lower, upper = _known(Interval(low, high), dim, lower, upper)
    return Interval(lower, upper, nonnegative=True)


def rivals(entry: Tensor, others: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    r""":math:`d` and :math:`s` with :math:`e^{d_i} s_i = \sum_{j \ne i} e^{o_j - w_i}`.

    Args:
        entry: :math:`w`, one end of the operands.
        others: :math:`o`, the other end.
        dim: dimension of the entries.
    """
    if others.dim() == 0 or others.shape[dim] == 1:
        return torch.full_like(entry, -torch.inf), torch.zeros_like(entry)
    first, position = others.max(dim, keepdim=True)
    leads = torch.zeros_like(others, dtype=torch.bool).scatter(dim, position, value=True)
    second = others.masked_fill(leads, -torch.inf).amax(dim, keepdim=True)
    none = others == -torch.inf
    terms = torch.exp((others - first).masked_fill(none, -torch.inf))
    behind = torch.exp((others - second).masked_fill(leads | none, -torch.inf)).sum(dim, keepdim=True)
    total = torch.where(leads, behind, terms.sum(dim, keepdim=True) - terms)
    exponent = torch.where(leads, second, first) - entry
    # An entry that may be masked loses to any other.
    lost = entry == -torch.inf
    return exponent.masked_fill(lost, torch.inf), total.masked_fill(lost, 1.0)


def sum_error(rounding: Rounding, terms: int, ulps: int = ULPS) -> float:
    """Relative error of a sum of exponentials of differences from the largest operand."""
    return rounding.of_sum(terms) + rounding.of_operation(ulps + 2 + math.ceil(0.4 * terms))


def _known(x: Interval, dim: int, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Not a number in rows where an operand is unknown, or where all of them may be masked."""
    unknown = x.lower.isnan() | x.upper.isnan() | (x.upper == torch.inf) | (x.lower == torch.inf)
    masked = (x.lower == -torch.inf).all(dim, keepdim=True) if x.lower.dim() else x.lower == -torch.inf
    gone = (unknown.any(dim, keepdim=True) if x.lower.dim() else unknown) | masked
    if not bool(gone.any()):
        return lower, upper
    return torch.where(gone, torch.nan, lower), torch.where(gone, torch.nan, upper)


def _in_its_type(context: Context, half_to_float: bool) -> None:
    if half_to_float:
        raise InputError(f"{context.where} turns half into single precision; use float32 or float64")
