r"""Softmax and norms over moments backwards: the tangent at the middle of the box, less what the derivative may change.

For a row :math:`h(x) = \langle A, f(x) \rangle` and intervals :math:`c \pm r`, the mean value theorem gives

.. math:: h(x) \ge h(c) + \langle \nabla h(c), x - c \rangle - \sum_j r_j \sup |\partial_j h - \partial_j h(c)| .

Softmax: :math:`\partial_j h = p_j (A_j - \bar A)`, :math:`\bar A = \langle A, p \rangle`. With :math:`p_j` off by at
most :math:`\Delta_j`, :math:`\bar A` moves by at most :math:`D = \sum_i |A_i - \bar A(c)| \Delta_i`, for the
:math:`p_i` add up to 1, and the derivative by :math:`\Delta_j |A_j - \bar A(c)| + p_j^+ D`.

Norm, :math:`y_i = (x_i - \mu) \kappa`, :math:`\kappa = 1 / \sqrt{v + e}`: :math:`\partial_j h = \kappa (A_j - \bar A -
y_j \psi)` with :math:`\bar A = \frac1n \sum A_i`, :math:`\psi = \frac1n \sum A_i y_i`. :math:`\psi` moves by at most
:math:`\frac1n \sum |A_i - \bar A| \Delta_i`, for the :math:`y_i` add up to 0.

What is lost grows with the square of the intervals. Where the interval of the result says more, it stands (row by row,
group by group), so no row is looser than without the rule. Relaxations of softmax that hold over wide boxes are due to
Wei et al. (AISTATS 2023), of both to Shi et al. (ICLR 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor

from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.rules.activation import EXPONENT
from thetabox.verify.interpreter.rules.monotone import ULPS
from thetabox.verify.interpreter.rules.norm_bounds import normalised
from thetabox.verify.interpreter.rules.softmax import sum_error
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.rules.affine import parameter
from thetabox.verify.linear.walk import Stop, Walk, backward, flat
from thetabox.verify.network.graph import Operation

FEW = 16


def tangent(
    walk: Walk, a: Tensor, rise: Tensor, lost: Tensor, at: Tensor, x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]
) -> Tensor:
    """Coefficients on groups in the last dimension, with the constant put aside; the interval where that says more.

    Args:
        walk: whose constant it is.
        a: coefficients on the result, ``[samples, rows, ..., n]``.
        rise: the gradient at the middle.
        lost: at most the change of each derivative times the radius.
        at: ``h`` at the middle, of each group.
        x: middle and radius of the operand, ``[samples, ..., n]``.
        y: ends of the result.
    """
    centre, radius = (t[:, None] for t in x)
    least, most = (t[:, None] for t in y)
    constant = at - (rise * centre).sum(-1) - lost.sum(-1) * (1.0 + gamma_sum(a.shape[-1] + FEW))
    here = at - lost.sum(-1) - (rise.abs() * radius).sum(-1)
    plain = (a.clamp(min=0.0) * least + a.clamp(max=0.0) * most).sum(-1)
    use = (here > plain) & constant.isfinite()
    terms = torch.where(use, constant, plain)
    walk.constant.add(flat(terms, 2).sum(2))
    return torch.where(use[..., None], rise, 0.0)


@backward("aten.softmax.int", "aten._softmax.default")
def softmax(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """``exp(x_i) / sum_j exp(x_j)``."""
    if not walk.frame.whole or operation.kwargs or (len(operation.args) > 2 and operation.args[2]):
        raise Stop
    rounding = walk.samples.rounding
    index = walk.operand(operation, 0)
    lower, upper = walk.ends(index)
    dim = int(operation.args[1]) % lower.dim()
    lower, upper, least, most = (t.movedim(dim, -1) for t in (lower, upper, *walk.ends(operation.index)))
    rows = a.movedim(dim + 1, -1)
    n, count = rows.shape[-1], a[0, 0].numel()
    masked = upper == -torch.inf
    centre, radius = (lower + upper) / 2, (upper - lower) / 2
    share = centre.softmax(-1).masked_fill(masked, 0.0)
    centre, radius = centre.masked_fill(masked, 0.0), radius.masked_fill(masked, 0.0)
    # What may be masked has no middle.
    finite = (radius.isfinite() & share.isfinite()).all(-1, keepdim=True)
    centre, radius, share = (torch.where(finite, t, 0.0) for t in (centre, radius, share))
    radius = radius * (1.0 + gamma_sum(FEW)) + centre.abs() * gamma_sum(FEW)
    off = torch.maximum(most - share, share - least).clamp(min=0.0)
    average = (rows * share[:, None]).sum(-1)
    apart = rows - average[..., None]
    rise = apart * share[:, None]
    moved = (apart.abs() * off[:, None]).sum(-1, keepdim=True) * (1.0 + gamma_sum(n))
    change = apart.abs() * off[:, None] + moved * most[:, None]
    lost = torch.where(finite[:, None], change * radius[:, None], torch.inf)
    first = tangent(walk, rows, rise, lost, average, (centre, radius), (least, most))
    size = centre.abs() + radius
    term_size = most * (1.0 + size + (most * size).sum(-1, keepdim=True))
    below = (upper.amax(-1, keepdim=True) - lower).clamp(min=0.0, max=EXPONENT)
    network = below * (2.0 * rounding.network) + (sum_error(rounding, n) + rounding.of_operation(ULPS + 8))
    walk.penalty(rows, term_size * gamma_sum(4 * n + count + FEW) + most * network, 1.0 + 1e-9, 2.0 * rounding.flushed)
    walk.give(index, first.movedim(-1, dim + 1))


@backward("aten.layer_norm.default")
def layer_norm(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """``(x - mean) / sqrt(variance + eps) * weight + bias`` over the last dimensions."""
    if not walk.frame.whole or operation.kwargs:
        raise Stop
    samples, arguments = walk.samples, operation.args
    weight, bias = (parameter(samples, operation, place) for place in (2, 3))
    eps = float(arguments[4]) if len(arguments) > 4 else 1e-5
    index = walk.operand(operation, 0)
    lower, upper = walk.ends(index)
    first = lower.dim() - len(arguments[1])
    if first < 1:
        raise Stop
    groups = lower.shape[:first]
    lower, upper = (t.reshape(*groups, -1) for t in (lower, upper))
    rows = a.reshape(*a.shape[:2], *groups[1:], -1)
    norm = normalised(samples.context, lower, upper, eps)
    scale = _affine(walk, rows, weight, bias, norm.least, norm.most)
    n, count = rows.shape[-1], a[0, 0].numel()
    centre, radius = (lower + upper) / 2, (upper - lower) / 2
    radius = radius * (1.0 + gamma_sum(FEW)) + centre.abs() * gamma_sum(FEW)
    off = torch.maximum(norm.most - norm.middle, norm.middle - norm.least).clamp(min=0.0)
    apart = scale - scale.mean(-1, keepdim=True)
    level = (scale * norm.middle[:, None]).mean(-1, keepdim=True)
    slanted = apart - norm.middle[:, None] * level
    moved = (apart.abs() * off[:, None]).mean(-1, keepdim=True) * (1.0 + gamma_sum(n))
    wide = off[:, None] * level.abs() + (norm.middle.abs() + off)[:, None] * moved
    change = norm.off[:, None] * slanted.abs() + (norm.steep + norm.off)[:, None] * wide
    rise = slanted * norm.steep[:, None]
    at = (scale * norm.middle[:, None]).sum(-1)
    finite = (norm.error + norm.steep + norm.off).isfinite().all(-1, keepdim=True)
    lost = torch.where(finite[:, None], change * radius[:, None], torch.inf)
    coefficients = tangent(walk, scale, rise, lost, at, (centre, radius), (norm.least, norm.most))
    most = torch.maximum(norm.least.abs(), norm.most.abs())
    size = centre.abs() + radius
    term_size = (norm.steep + norm.off) * (
        size + size.mean(-1, keepdim=True) + most * (most * size).mean(-1, keepdim=True)
    )
    term_size = torch.where(finite, term_size * gamma_sum(8 * n + count + FEW) + norm.error, 0.0) + most * gamma_sum(
        2 * count
    )
    walk.penalty(scale, term_size, 1.0 + 1e-9, 2.0 * samples.rounding.flushed)
    walk.give(index, coefficients.reshape(*a.shape[:2], *walk.samples.shape(index)))


def _affine(
    walk: Walk, rows: Tensor, weight: Parameter | None, bias: Parameter | None, least: Tensor, most: Tensor
) -> Tensor:
    """Coefficients in front of the weight and bias, which are one number wherever they are read."""
    samples, rounding, count = walk.samples, walk.samples.rounding, rows[0, 0].numel()
    over = list(range(2, rows.dim() - 1))
    size = torch.maximum(least.abs(), most.abs())

    def numbers(t: Tensor) -> Tensor:
        return t.sum(over) if over else t

    if bias is not None:
        sums = numbers(rows)
        theta, radius = bias.theta.reshape(-1), bias.unit_radius.reshape(-1)
        epsilon = walk.epsilon(samples.factor(bias), 2)
        walk.constant.add(sums @ theta)
        walk.constant.lose((sums.abs() @ radius) * epsilon, count)
        term_size = theta.abs() + radius * walk.epsilon(samples.factor(bias), size.dim())
        relative = gamma_sum(2 * count) + 4.0 * bias.theta_error + rounding.of_operation(8)
        walk.penalty(rows, term_size.expand_as(size), relative, rounding.subnormal)
    if weight is None:
        return rows
    theta, radius = weight.theta.reshape(-1), weight.unit_radius.reshape(-1)
    epsilon = walk.epsilon(samples.factor(weight), size.dim())
    middle = numbers(rows * ((least + most) / 2)[:, None])
    around = numbers(rows.abs() * ((most - least) / 2)[:, None])
    slope = (middle / around).nan_to_num(0.0, 1.0, -1.0).clamp(-1.0, 1.0)
    offset = (around - slope * middle).clamp(min=0.0)
    walk.constant.lose((offset @ radius) * epsilon.view(-1, 1), count)
    term_size = size * (theta.abs() + radius * epsilon)
    relative = gamma_sum(4 * count + FEW) + 4.0 * weight.theta_error + rounding.of_operation(8)
    walk.penalty(rows, term_size, relative, rounding.subnormal * (1.0 + float(size.amax())))
    slope = slope.view(*slope.shape[:2], *[1] * len(over), -1)
    return rows * (theta - slope * (radius * epsilon)[:, None])
