"""Sums, differences, and products with numbers or parameters, backwards."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.rules.affine import chord
from thetabox.verify.linear.walk import Stop, Walk, backward, dot, flat
from thetabox.verify.network.graph import Operation, Ref

FEW = 8
# Divisors are above this and below its reciprocal, so that either can be divided by.
LEAST = 1e-300


@backward("aten.add.Tensor", "aten.add.Scalar", "aten.sub.Tensor", "aten.sub.Scalar", "aten.rsub.Scalar",
          "aten.rsub.Tensor")  # a list of operators  # fmt: skip
def added(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """Each term takes the coefficients with its sign; a network rounds the sum."""
    if operation.kwargs or len(operation.args) > 2:
        raise Stop
    signs = {"sub": (1.0, -1.0), "rsub": (-1.0, 1.0)}.get(operation.operator.split(".")[1], (1.0, 1.0))
    terms = [_term(walk, operation, v) for v in operation.args]
    if any(isinstance(t, Parameter) for t in terms) and region is not None:
        raise Stop
    terms = [_finite(t, a) for t in terms]
    relative = gamma_sum(a[0, 0].numel()) + walk.samples.rounding.of_operation(3)
    for term, sign in zip(terms, signs, strict=True):
        signed = a if sign > 0 else -a
        if isinstance(term, Parameter):
            _constant(walk, signed, term, relative)
        elif isinstance(term, int):
            if walk.samples.rounding.network:
                walk.penalty(a, _most(walk, term, region), relative)
            walk.give(term, signed, region)
        else:
            whole = flat(a, 2).sum(2)
            walk.constant.add(sign * term * whole)
            walk.penalty(a, torch.full_like(a[:, 0], abs(term)), relative, walk.samples.rounding.underflow)


@backward("aten.mul.Tensor", "aten.mul.Scalar", "aten.div.Tensor", "aten.div.Scalar")
def scaled(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    r"""A number or a parameter times a value: :math:`A\theta x - \varepsilon |A| u |x|`, place by place."""
    if operation.kwargs or len(operation.args) > 2:
        raise Stop
    terms = [_term(walk, operation, v) for v in operation.args]
    if isinstance(terms[0], int) and not isinstance(terms[1], int):
        index, factor = terms[0], terms[1]
    elif isinstance(terms[1], int) and not isinstance(terms[0], int) and "mul" in operation.operator:
        index, factor = terms[1], terms[0]
    else:
        raise Stop
    samples = walk.samples
    most = _most(walk, index, region)
    relative, tiny = gamma_sum(FEW) + samples.rounding.of_operation(4), samples.rounding.underflow
    if "div" in operation.operator:
        if isinstance(factor, Parameter) or not LEAST < abs(factor) < 1.0 / LEAST:
            raise Stop
        if samples.rounding.network:
            # A divisor may be below the normal numbers.
            relative += tiny / abs(factor)
        factor = 1.0 / factor
    if not isinstance(factor, Parameter):
        # So may a factor, or the reciprocal of a divisor.
        walk.penalty(a, most * abs(factor), relative, tiny * (1.0 + most) if tiny else 0.0)
        walk.give(index, a * factor, region)
        return
    if region is not None:
        raise Stop
    theta, radius = (t.expand(1, *most.shape[1:]) for t in (factor.theta, factor.unit_radius))
    if not bool(theta.isfinite().all()):
        raise Stop
    epsilon = walk.epsilon(samples.factor(factor), most.dim())
    first = a * theta[:, None]
    lower, upper = walk.ends(index)
    slope, offset = chord(lower, upper)
    spread = a.abs() * radius[:, None]
    first = first - spread * (slope * epsilon)[:, None]
    walk.constant.lose(dot(spread, offset * epsilon), a[0, 0].numel())
    walk.penalty(a, most * (theta.abs() + radius * epsilon), relative + 4.0 * factor.theta_error, tiny)
    walk.give(index, first)


def _term(walk: Walk, operation: Operation, value: Any) -> int | float | Parameter:
    """An operand: the position of a value (``int``), a number (``float``), or a parameter.

    Raises:
        Stop: of another shape than the result, or anything else.
    """
    if isinstance(value, (int, float)):
        return float(value)
    if not isinstance(value, Ref):
        raise Stop
    held = walk.samples.values[value.index]
    if isinstance(held, Interval) and held.is_point and held.slack == 0.0 and held.batch is None and not held.by_row:
        held = Parameter(held.lower)
    if isinstance(held, Parameter):
        beyond = held.theta.dim() - len(walk.samples.shape(operation.index))
        if beyond > 1 or (beyond == 1 and held.theta.shape[0] != 1):
            raise Stop
        return held
    if not walk.samples.plain(value.index) or walk.samples.shape(value.index) != walk.samples.shape(operation.index):
        raise Stop
    return value.index


def _finite(term: int | float | Parameter, a: Tensor) -> int | float | Parameter:
    """A mask without its minus infinities, where no coefficient stands.

    Raises:
        Stop: one does.
    """
    if not isinstance(term, Parameter) or bool(term.theta.isfinite().all()):
        return term
    gone = term.theta.isneginf()
    if gone.dim() > a.dim() - 2 or bool((a * gone != 0).any()):
        raise Stop
    return Parameter(term.theta.masked_fill(gone, 0.0), theta_error=term.theta_error)


def _most(walk: Walk, index: int, region: Region | None) -> Tensor:
    lower, upper = walk.ends(index, region)
    return torch.maximum(lower.abs(), upper.abs())


def _constant(walk: Walk, a: Tensor, term: Parameter, relative: float) -> None:
    """A parameter that is added: its noise is one number wherever it is read."""
    samples = walk.samples
    shape = a.shape[2:]
    theta, radius = term.theta, term.unit_radius
    if theta.dim() > len(shape):
        theta, radius = theta[0], radius[0]
    sums = flat(a.sum_to_size(*a.shape[:2], *[1] * (len(shape) - theta.dim()), *theta.shape), 2)
    walk.constant.add(sums @ theta.reshape(-1))
    if term.factor:
        spread = sums.abs() @ radius.reshape(-1)
        walk.constant.lose(spread * walk.epsilon(samples.factor(term), 2), prod(shape))
    epsilon = walk.epsilon(samples.factor(term), len(shape) + 1)
    walk.penalty(a, (theta.abs() + radius * epsilon).expand(len(a), *shape), relative + 4.0 * term.theta_error)
