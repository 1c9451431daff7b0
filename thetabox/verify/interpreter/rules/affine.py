r"""A product with weights of a box, whatever the layer.

Relative noise on a weight is noise on its input: :math:`\theta(1 + \varepsilon\delta)x` with :math:`|\delta| \le 1`
ranges over :math:`\theta` times :math:`[1-\varepsilon, 1+\varepsilon]\cdot[l, u] = [L, U]`, so the exact hull of
:math:`\sum w x` over a whole box of weights is :math:`\theta m \pm |\theta|\rho` with centre :math:`m` and radius
:math:`\rho` of :math:`[L, U]`: two ordinary products, whatever the layer.

Rounding is added to :math:`\rho` before the product with :math:`|\theta|`: with :math:`G` the relative error of the
dot product (see :meth:`Rounding.of_dot`), the radius becomes :math:`\rho + G(|m| + \rho)`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from thetabox.errors import OneEpsilonAtATime
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules import shortcuts
from thetabox.verify.interpreter.rules.elementwise import add
from thetabox.verify.interpreter.rules.ends import Product, centre_radius, ends, samples

Operand = Interval | Parameter | None


def affine(context: Context, x: Interval, weight: Operand, bias: Operand, product: Product, terms: int) -> Interval:
    """Hull of ``product(x, w) + b`` over ``x`` and the boxes of ``w`` and ``b``, each output by itself."""
    if isinstance(weight, Parameter) and x.batch is None:
        weight = context.interval(weight)
    if isinstance(weight, Interval):
        return add_bias(context, _interval_weight(context, x, weight, product, terms), bias, terms)
    if isinstance(bias, Interval):
        return add_bias(context, affine(context, x, weight, None, product, terms), bias, terms)
    assert isinstance(weight, Parameter)
    if not weight.relative:
        return _absolute_weight(context, x, weight, bias, product, terms)
    at_zero = context.compared and not context.largest(weight.factor)  # one product is enough there
    if x.is_point and x.slack == 0.0 and not at_zero and shortcuts.share_radius(weight, bias):
        return shortcuts.known_input(context, x, weight, bias, product, terms)
    if context.uniform(weight.factor) is None or (bias is not None and context.uniform(bias.factor) is None):
        x = context.expanded(x)
    elif shortcuts.may_be_unknown(x):
        few, places = shortcuts.unknown_once(x)
        if places is not None:
            interval = affine(context, few, weight, bias, product, terms)
            rank = few.lower.dim()
            return interval.moved(lambda t: t.index_select(t.dim() - rank, places))
    return _two_products(context, x, weight, bias, product, terms)


def _two_products(
    context: Context, x: Interval, weight: Parameter, bias: Parameter | None, product: Product, terms: int
) -> Interval:
    """The hull over a box relative to the weights: one product with them, one with their sizes."""
    relative = context.rounding.of_dot(terms) + 2.0 * weight.theta_error
    centre, radius, extra = _relative_radius(context, x, weight, relative)
    # What is the same for every input rides along as a bias of the second product, as does underflow.
    sums = weight.sums(last=product is not times)
    constant = sums * (extra * (1.0 + 2.0 * relative)) + 2.0 * context.rounding.subnormal * terms
    uniform_bias = bias is None or context.uniform(bias.factor) is not None
    if bias is not None and uniform_bias:
        constant = constant + _bias_radius(context, x, bias, 1, terms)
    middle = product(centre, weight.theta, None if bias is None else bias.theta)
    exact = context.few_layers and uniform_bias and not context.largest(weight.factor)
    if exact and middle.numel() and radius.numel() and not torch.is_grad_enabled():
        shared = constant + sums * (radius.amax() * (1.0 + 2.0 * relative))
        if (known := shortcuts.unperturbed(context, middle, shared, relative)) is not None:
            return known
    around = product(radius, weight.magnitude, constant)
    if bias is not None and not uniform_bias:
        around = around.add_(_bias_radius(context, x, bias, middle.dim(), terms))
    return ends(context, middle, around, relative)


def _relative_radius(context: Context, x: Interval, weight: Parameter, relative: float) -> tuple[Tensor, Tensor, float]:
    """Centre and radius of ``[1 - ε, 1 + ε] x`` with the rounding of the layer, and a radius that all inputs share."""
    largest = context.largest(weight.factor)
    extra = (x.slack * (1.0 + 3.0 * largest) + context.rounding.floor * (1.0 + largest)) * (1.0 + relative) * SAFETY
    epsilon: Tensor | float | None = context.uniform(weight.factor)
    if epsilon is None:
        epsilon = context.column(context.epsilon(weight.factor), x)
    low, high = x.lower, x.upper
    if x.nonnegative:
        if isinstance(epsilon, float):
            share = max((1.0 - epsilon) / 2, 0.0)
            middle = (high * min((1.0 + epsilon) / 2, 1.0)).add_(low, alpha=share)
            over = x.owned and not x.is_point and not torch.is_grad_enabled()
            far = torch.mul(
                high, max((1.0 + epsilon) / 2, epsilon) * (1.0 + 4.0 * relative), out=high if over else None
            )
            return middle, far.sub_(low, alpha=share), extra
        near = low * ((1.0 - epsilon) / 2).clamp(min=0.0)
        far = high * (torch.maximum((1.0 + epsilon) / 2, epsilon) * (1.0 + 4.0 * relative))
        return (high * ((1.0 + epsilon) / 2).clamp(max=1.0)).add_(near), far.sub_(near), extra
    bottom, top = low - low.abs() * epsilon, high + high.abs() * epsilon
    if largest > 1.0:
        bottom = torch.minimum(bottom, high - high.abs() * epsilon)
        top = torch.maximum(top, low + low.abs() * epsilon)
    centre, radius = (bottom + top) / 2, (top - bottom) / 2
    return centre, radius * (1.0 + relative) + centre.abs() * relative, extra


def _bias_radius(context: Context, x: Interval, bias: Parameter, rank: int, terms: int) -> Tensor:
    """Radius of the bias and of its rounding, ``[outputs]``, or a row each in the shape of the layer's output."""
    relative = context.rounding.of_dot(terms) + 2.0 * bias.theta_error
    radius = bias.unit_radius
    uniform = context.uniform(bias.factor)
    if uniform is not None:
        return radius * (uniform * (1.0 + 4.0 * relative)) + bias.magnitude * relative
    if context.is_convolution:
        radius, magnitude = (t.view(-1, *[1] * (rank - 2)) for t in (radius, bias.magnitude))
    else:
        magnitude = bias.magnitude
    epsilon = context.epsilon(bias.factor) * (1.0 + 4.0 * relative)
    flat = epsilon.reshape(-1).repeat_interleave(x.merged)
    shape = [1] * rank
    shape[samples(x, rank)] = flat.numel()
    return flat.view(shape) * radius + magnitude * relative


def _absolute_weight(
    context: Context, x: Interval, weight: Parameter, bias: Parameter | None, product: Product, terms: int
) -> Interval:
    r"""A box not proportional to the weight: :math:`|\theta|r + \varepsilon u (|c| + r)`; exact for known inputs."""
    assert weight.absolute is not None
    relative = context.rounding.of_dot(terms) + 2.0 * weight.theta_error
    x = context.expanded(x)
    exact = x.is_point and x.slack == 0.0
    centre = x.lower if x.is_point else (x.lower + x.upper) / 2
    radius = torch.zeros_like(centre) if exact else (x.upper - x.lower) / 2 + (x.slack + context.rounding.floor)
    magnitude = centre.abs() + radius
    middle = product(centre, weight.theta, None if bias is None else bias.theta)
    around = product(radius + magnitude * (2.0 * relative), weight.magnitude, None)
    uniform = context.uniform(weight.factor)
    epsilon: Tensor | float = uniform if uniform is not None else _column(context, weight, x, middle.dim())
    around = around + product(magnitude, weight.absolute, None) * epsilon * (1.0 + 4.0 * relative)
    around = around + 2.0 * context.rounding.subnormal * terms * (1.0 + context.largest(weight.factor))
    if bias is not None:
        spread = _bias_radius(context, x, bias, middle.dim(), terms)
        convolved = spread.dim() == 1 and context.is_convolution
        around = around + (spread.view(-1, *[1] * (middle.dim() - 2)) if convolved else spread)
    return ends(context, middle, around, relative)


def _column(context: Context, weight: Parameter, x: Interval, rank: int) -> Tensor:
    """ε of every row, shaped to multiply a product with ``x`` that has ``rank`` dimensions."""
    column = context.column(context.epsilon(weight.factor), x)
    return column.view([1] * (rank - column.dim()) + list(column.shape))


def _interval_weight(context: Context, x: Interval, weight: Interval, product: Product, terms: int) -> Interval:
    """Weights that are the result of a computation: :math:`|W_c| r + W_r (|c| + r)`."""
    if weight.by_row or x.by_row:
        raise OneEpsilonAtATime(f"{context.where} multiplies by weights computed from perturbed parameters")
    roundoff = context.rounding.roundoff
    relative = context.rounding.of_dot(terms)
    x, weight = x.settled(roundoff), weight.settled(roundoff)
    centre, radius = centre_radius(x, roundoff, context.rounding.floor)
    middle_weight, spread_weight = centre_radius(weight, roundoff, context.rounding.subnormal)
    magnitude = centre.abs() + radius
    middle = product(centre, middle_weight, None)
    around = product(radius + magnitude * (2.0 * relative), middle_weight.abs(), None)
    around = around + product(magnitude * (1.0 + 2.0 * relative), spread_weight, None)
    around = around + context.rounding.subnormal * terms * 4.0
    out = ends(context, middle, around, relative)
    if x.batch is not None:
        out.batch, out.merged = samples(x, middle.dim()), x.merged
    return out


def product_of_values(context: Context, a: Interval, b: Interval) -> Interval:
    """Midpoint-radius product of two values (Rump, Fast and parallel interval arithmetic, BIT 39, 1999)."""
    if a.by_row or b.by_row:
        raise OneEpsilonAtATime(f"{context.where} multiplies by weights computed from perturbed parameters")
    roundoff = context.rounding.roundoff
    terms = a.shape[-1]
    relative = context.rounding.of_dot(terms)
    a, b = a.settled(roundoff), b.settled(roundoff)
    ca, ra = centre_radius(a, roundoff, context.rounding.floor)
    cb, rb = centre_radius(b, roundoff, context.rounding.floor)
    middle = torch.matmul(ca, cb)
    magnitude = cb.abs() + rb
    around = torch.matmul(ca.abs(), rb + magnitude * (2.0 * relative)) + torch.matmul(
        ra, magnitude * (1.0 + 2.0 * relative)
    )
    around = around + context.rounding.subnormal * terms * 4.0
    return ends(context, middle, around, relative)


def add_bias(context: Context, out: Interval, bias: Operand, terms: int) -> Interval:
    """Add a bias whose ε differs from row to row, or that is a computed value."""
    if bias is None:
        return out
    layout = context.layout
    term = context.interval(bias) if isinstance(bias, Parameter) else bias
    if out.lower.dim() > 2 and context.is_convolution:
        spatial = [1] * (out.lower.dim() - 2)
        term = term.moved(lambda t: t.view(*t.shape, *spatial))
    if out.batch is None:
        out = replace(out, batch=layout.batch, merged=layout.merged)
    left, right = context.aligned([out, term], layout)
    added = add(context, left, right)
    if context.rounding.network:
        # The network may start its sum with the bias, which then errs like the whole sum.
        added.slack += context.rounding.of_dot(terms) * right.magnitude
    return replace(added, by_row=True) if layout.batch is None and term.by_row else added


def times(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x W + b`` of matrices or stacks of them."""
    if bias is None:
        return torch.matmul(x, weight)
    if x.dim() == 2 and weight.dim() == 2:
        return torch.addmm(bias, x, weight)
    return torch.matmul(x, weight) + bias
