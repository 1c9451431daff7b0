r"""Dense layers, convolutions and matrix products.

Relative noise on a weight is noise on its input: :math:`\theta(1 + \varepsilon\delta)x` with :math:`|\delta| \le 1`
ranges over :math:`\theta` times :math:`[1-\varepsilon, 1+\varepsilon]\cdot[l, u] = [L, U]`, so the exact hull of
:math:`\sum w x` over a whole box of weights is :math:`\theta m \pm |\theta|\rho` with centre :math:`m` and radius
:math:`\rho` of :math:`[L, U]`: two ordinary products, whatever the layer.

Rounding is added to :math:`\rho` before the product with :math:`|\theta|`: with :math:`G` the relative error of the
dot product (see :meth:`Rounding.of_dot`), the radius becomes :math:`\rho + G(|m| + \rho)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import InputError, OneEpsilonAtATime
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.elementwise import add
from thetabox.verify.interpreter.rules.table import rule
from thetabox.verify.network.graph import Layout

# product(input, weight, bias or None): linear in both operands, adds the bias.
Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Operand = Interval | Parameter | None


@dataclass
class Products:
    """Of a known input, for every ε."""

    middle: Tensor
    around: Tensor

    @cached_property
    def sizes(self) -> tuple[float, float]:
        """The largest absolute value of each; not finite where one of them is not."""
        if not self.middle.numel():
            return 0.0, 0.0
        least, most = self.middle.detach().aminmax()
        return max(-float(least), float(most)), float(self.around.detach().amax())


@rule("aten.linear.default", parameters=True, slack=True, types="whole")
def linear(context: Context, x: Operand, weight: Operand, bias: Operand = None) -> Interval:
    """``x Wᵀ + b``."""
    x, shape = _input(context, x), _size(weight)
    return affine(context, x, weight, _spread(context, bias, shape[0]), F.linear, shape[-1])


@rule("aten.addmm.default", parameters=True, slack=True, types="whole")
def addmm(
    context: Context, bias: Operand, x: Operand, weight: Operand, *, beta: float = 1, alpha: float = 1
) -> Interval:
    """``b + x W``."""
    if beta != 1 or alpha != 1:
        raise InputError(f"{context.where}: addmm with beta or alpha other than 1 has no rule")
    terms, outputs = _size(weight)
    return affine(context, _input(context, x), weight, _spread(context, bias, outputs), _times, terms)


@rule("aten.mm.default", "aten.matmul.default", "aten.bmm.default", parameters=True, slack=True, types="whole")
def matmul(context: Context, x: Operand, weight: Operand) -> Interval:
    """``x W`` with a parameter (``x w`` with a vector), or the product of two values."""
    if isinstance(weight, Parameter) and weight.theta.dim() == 1:
        column = weight.moved(lambda t: t[:, None])
        return matmul(context, x, column).map(lambda t: t.squeeze(-1))
    if isinstance(x, Interval) and x.batch is not None and not _is_value(weight):
        return affine(context, x, weight, None, _times, _size(weight)[-2])
    return _product_of_values(context, _input(context, x), _input(context, weight))


@rule("aten.conv1d.default", "aten.conv2d.default", "aten.conv1d.padding", "aten.conv2d.padding",
      parameters=True, slack=True, types="whole")  # a list of operators  # fmt: skip
def convolution(
    context: Context,
    x: Operand,
    weight: Operand,
    bias: Operand = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Interval:
    """A 1d or 2d convolution; the weights are never unfolded."""
    x = _input(context, x)
    function = F.conv1d if len(_size(weight)) == 3 else F.conv2d
    if x.batch != 0 or x.lower.dim() != len(_size(weight)):
        raise InputError(f"{context.where}: the first dimension of a convolution's input must be the samples'")

    def product(t: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return function(t, w, b, stride, padding, dilation, groups)

    return affine(context, x, weight, bias, product, prod(_size(weight)[1:]))


def affine(context: Context, x: Interval, weight: Operand, bias: Operand, product: Product, terms: int) -> Interval:
    """Hull of ``product(x, w) + b`` over ``x`` and the boxes of ``w`` and ``b``, each output by itself."""
    if isinstance(weight, Parameter) and x.batch is None:
        weight = context.interval(weight)
    if isinstance(weight, Interval):
        return _add_bias(context, _interval_weight(context, x, weight, product, terms), bias, terms)
    if isinstance(bias, Interval):
        return _add_bias(context, affine(context, x, weight, None, product, terms), bias, terms)
    assert isinstance(weight, Parameter)
    if not weight.relative:
        return _absolute_weight(context, x, weight, bias, product, terms)
    if x.is_point and x.slack == 0.0 and _share_radius(weight, bias):
        return _known_input(context, x, weight, bias, product, terms)
    if context.uniform(weight.factor) is None or (bias is not None and context.uniform(bias.factor) is None):
        x = context.expanded(x)
    elif _may_be_unknown(x):
        few, places = _unknown_once(x)
        if places is not None:
            found = affine(context, few, weight, bias, product, terms)
            rank = few.lower.dim()
            return found.map(lambda t: t.index_select(t.dim() - rank, places))
    relative = context.rounding.of_dot(terms) + 2.0 * weight.theta_error
    centre, radius, extra = _relative_radius(context, x, weight, relative)
    # What is the same for every input rides along as a bias of the second product, as does underflow.
    sums = weight.sums(last=product is not _times)
    constant = sums * (extra * (1.0 + 2.0 * relative)) + 2.0 * context.rounding.subnormal * terms
    uniform_bias = bias is None or context.uniform(bias.factor) is not None
    if bias is not None and uniform_bias:
        constant = constant + _bias_radius(context, x, bias, 1, terms)
    middle = product(centre, weight.theta, None if bias is None else bias.theta)
    exact = context.few_layers and uniform_bias and not context.largest(weight.factor)
    if exact and middle.numel() and radius.numel() and not torch.is_grad_enabled():
        shared = constant + sums * (radius.amax() * (1.0 + 2.0 * relative))
        if (known := _unperturbed(context, middle, shared, relative)) is not None:
            return known
    around = product(radius, weight.magnitude, constant)
    if bias is not None and not uniform_bias:
        around = around.add_(_bias_radius(context, x, bias, middle.dim(), terms))
    return _ends(context, middle, around, relative)


# Up to this share of the largest output, the radius may be one number for all outputs of a layer. That costs tightness,
# which every layer behind it amplifies: for networks of few layers only. Rounding in float32 is more.
NEGLIGIBLE = 2.0**-36


def _unperturbed(context: Context, middle: Tensor, radius: Tensor, relative: float) -> Interval | None:
    """Exact weights on an input known but for rounding: ``middle``, with ``radius [outputs]`` as slack.

    ``None`` where the radius is more than that: then only a product of its own is tight.
    """
    slack, size = float(radius.amax()) * SAFETY, float(middle.abs().amax())
    if not (math.isfinite(size) and slack <= NEGLIGIBLE * size):
        return None
    # As in _ends: a partial sum of the network may overflow once Σ|w||x| does.
    if not slack < relative * context.rounding.overflow:
        return None
    return Interval(middle, middle, slack, size, owned=True)


# Rows of nothing but [0, 1] that are worth being multiplied once only.
LEAST_UNKNOWN = 0.2


def _may_be_unknown(x: Interval) -> bool:
    """Whether these are truth values, as spikes are, of which whole rows are unknown once certainty is lost."""
    truth = x.nonnegative and x.bound is not None and 1.0 <= x.bound < 1.0 + 2.0**-30
    return truth and x.batch == 0 and x.lower.dim() == 2 and not x.is_point and not torch.is_grad_enabled()


def _unknown_once(x: Interval) -> tuple[Interval, Tensor | None]:
    """The rows that are not all [0, 1] and one that is, and where each row of ``x`` is found there; or ``x`` itself."""
    # All of them the same to the last bit: one stands for the others.
    unknown = ((x.lower == 0.0) & (x.upper == 1.0)).all(1)
    count = int(unknown.sum())
    if count < max(2, LEAST_UNKNOWN * len(unknown)):
        return x, None
    known = (~unknown).nonzero().squeeze(1)
    kept = torch.cat([known, unknown.nonzero()[0]])
    places = torch.full_like(unknown, len(known), dtype=torch.long)
    places[known] = torch.arange(len(known), device=known.device)
    lower, upper = x.lower.index_select(0, kept), x.upper.index_select(0, kept)
    return replace(x, lower=lower, upper=upper, owned=True), places


def _bias_radius(context: Context, x: Interval, bias: Parameter, rank: int, terms: int) -> Tensor:
    """Radius of the bias and of its rounding, ``[outputs]``, or a row each in the shape of the layer's output."""
    relative = context.rounding.of_dot(terms) + 2.0 * bias.theta_error
    unit = bias.magnitude if bias.unit is None else bias.unit
    uniform = context.uniform(bias.factor)
    if uniform is not None:
        return unit * (uniform * (1.0 + 4.0 * relative)) + bias.magnitude * relative
    if context.is_convolution:
        unit, magnitude = (t.view(-1, *[1] * (rank - 2)) for t in (unit, bias.magnitude))
    else:
        magnitude = bias.magnitude
    epsilon = context.epsilon(bias.factor) * (1.0 + 4.0 * relative)
    flat = epsilon.reshape(-1).repeat_interleave(x.merged)
    shape = [1] * rank
    shape[_samples(x, rank)] = flat.numel()
    return flat.view(shape) * unit + magnitude * relative


def _samples(x: Interval, rank: int) -> int:
    """The samples' dimension of a product with ``x`` that has ``rank`` dimensions.

    The last ones of both are the same: a stack of matrices puts its own in front.
    """
    assert x.batch is not None
    return x.batch + rank - x.lower.dim()


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


def _known_input(
    context: Context, x: Interval, weight: Parameter, bias: Parameter | None, product: Product, terms: int
) -> Interval:
    """``x`` is one tensor: its two products serve every ε, that of the bias included."""
    relative = context.rounding.of_dot(terms) + 2.0 * weight.theta_error

    def products() -> Products:
        size = x.lower if x.nonnegative else x.lower.abs()
        middle = product(x.lower, weight.theta, None if bias is None else bias.theta)
        # Underflow, divided by the least factor that multiplies it next.
        tiny = 4.0 * context.rounding.subnormal * terms / relative
        if bias is None:
            return Products(middle, product(size, weight.magnitude, None).add_(tiny))
        return Products(middle, product(size, weight.magnitude, bias.magnitude + tiny))

    found = products() if context.memo is None else context.memo.products(context, x.lower, products)
    middle, around = found.middle, found.around
    uniform, kept = context.uniform(weight.factor), context.memo is not None
    if uniform is not None:
        factor = (uniform + relative) * (1.0 + relative) * SAFETY
        # By the sizes also where no other ε needs them, so that an ε is answered alone as it is beside others.
        return _ends(context, middle, around, relative, factor, keep=kept, sizes=found.sizes)
    scale = (context.epsilon(weight.factor) + relative) * ((1.0 + relative) * SAFETY)
    sweeps = context.sweep.sweeps if context.rows(x) == context.sweep.samples else 1
    scale = scale.reshape(sweeps, -1).repeat_interleave(x.merged, 1)
    batch = _samples(x, middle.dim())
    shape = [sweeps] + [1] * middle.dim()
    shape[batch + 1] = scale.shape[1]
    out = _ends(context, middle[None], around[None] * scale.view(shape), relative, keep=kept)
    merged = out.map(lambda t: t.movedim(0, batch).flatten(batch, batch + 1))
    return replace(merged, owned=out.owned)


def _share_radius(weight: Parameter, bias: Parameter | None) -> bool:
    """Whether one factor turns weight and bias into their radii."""
    return bias is None or (bias.relative and (bias.factor, bias.theta_error) == (weight.factor, weight.theta_error))


def _absolute_weight(
    context: Context, x: Interval, weight: Parameter, bias: Parameter | None, product: Product, terms: int
) -> Interval:
    r"""A box not proportional to the weight: :math:`|\theta|r + \varepsilon u (|c| + r)`; exact for known inputs."""
    assert weight.unit is not None
    relative = context.rounding.of_dot(terms) + 2.0 * weight.theta_error
    x = context.expanded(x)
    exact = x.is_point and x.slack == 0.0
    centre = x.lower if x.is_point else (x.lower + x.upper) / 2
    radius = torch.zeros_like(centre) if exact else (x.upper - x.lower) / 2 + (x.slack + context.rounding.floor)
    reach = centre.abs() + radius
    middle = product(centre, weight.theta, None if bias is None else bias.theta)
    around = product(radius + reach * (2.0 * relative), weight.magnitude, None)
    uniform = context.uniform(weight.factor)
    epsilon: Tensor | float = uniform if uniform is not None else _column(context, weight, x, middle.dim())
    around = around + product(reach, weight.unit, None) * epsilon * (1.0 + 4.0 * relative)
    around = around + 2.0 * context.rounding.subnormal * terms * (1.0 + context.largest(weight.factor))
    if bias is not None:
        spread = _bias_radius(context, x, bias, middle.dim(), terms)
        convolved = spread.dim() == 1 and context.is_convolution
        around = around + (spread.view(-1, *[1] * (middle.dim() - 2)) if convolved else spread)
    return _ends(context, middle, around, relative)


def _column(context: Context, weight: Parameter, x: Interval, rank: int) -> Tensor:
    """ε of every row, shaped to multiply a product with ``x`` that has ``rank`` dimensions."""
    column = context.column(context.epsilon(weight.factor), x)
    return column.view([1] * (rank - column.dim()) + list(column.shape))


def _interval_weight(context: Context, x: Interval, weight: Interval, product: Product, terms: int) -> Interval:
    """Weights that are the result of a computation: :math:`|W_c| r + W_r (|c| + r)`."""
    if weight.by_row or x.by_row:
        raise OneEpsilonAtATime(f"{context.where} multiplies by weights computed from perturbed parameters")
    own = context.rounding.own
    relative = context.rounding.of_dot(terms)
    x, weight = x.settled(own), weight.settled(own)
    centre, radius = _centre_radius(x, own, context.rounding.floor)
    middle_weight, spread_weight = _centre_radius(weight, own, context.rounding.subnormal)
    reach = centre.abs() + radius
    middle = product(centre, middle_weight, None)
    around = product(radius + reach * (2.0 * relative), middle_weight.abs(), None)
    around = around + product(reach * (1.0 + 2.0 * relative), spread_weight, None)
    around = around + context.rounding.subnormal * terms * 4.0
    out = _ends(context, middle, around, relative)
    if x.batch is not None:
        out.batch, out.merged = _samples(x, middle.dim()), x.merged
    return out


def _product_of_values(context: Context, a: Interval, b: Interval) -> Interval:
    """Midpoint-radius product of two values (Rump, Fast and parallel interval arithmetic, BIT 39, 1999)."""
    if a.by_row or b.by_row:
        raise OneEpsilonAtATime(f"{context.where} multiplies by weights computed from perturbed parameters")
    own = context.rounding.own
    terms = a.shape[-1]
    relative = context.rounding.of_dot(terms)
    a, b = a.settled(own), b.settled(own)
    ca, ra = _centre_radius(a, own, context.rounding.floor)
    cb, rb = _centre_radius(b, own, context.rounding.floor)
    middle = torch.matmul(ca, cb)
    reach = cb.abs() + rb
    around = torch.matmul(ca.abs(), rb + reach * (2.0 * relative)) + torch.matmul(ra, reach * (1.0 + 2.0 * relative))
    around = around + context.rounding.subnormal * terms * 4.0
    return _ends(context, middle, around, relative)


def _centre_radius(x: Interval, own: float, floor: float) -> tuple[Tensor, Tensor]:
    if x.is_point:
        return x.lower, torch.zeros_like(x.lower)
    centre = (x.lower + x.upper) / 2
    return centre, (x.upper - x.lower) / 2 * (1.0 + 4.0 * own) + centre.abs() * (4.0 * own) + floor


def _ends(
    context: Context,
    middle: Tensor,
    around: Tensor,
    relative: float,
    scale: float = 1.0,
    *,
    keep: bool = False,
    sizes: tuple[float, float] | None = None,
) -> Interval:
    """``middle ± scale around``; where either overflowed nothing is known.

    Written over ``middle`` where it fits, unless that is to be kept. With ``sizes``, the largest absolute values of
    both, the ends are not looked at.
    """
    limit = context.rounding.overflow
    # A partial sum of the network may overflow once Σ|w||x| does; around holds at least relative times it.
    if limit < math.inf:
        reach = float(around.detach().max()) if sizes is None else sizes[1]
        if not reach * scale < relative * limit:
            around, sizes = torch.where(around * scale < relative * limit, around, torch.inf), None
    lower = torch.sub(middle, around, alpha=scale)
    if keep or middle.shape != lower.shape:
        upper = torch.add(middle, around, alpha=scale)
    else:
        upper = middle.add_(around, alpha=scale)
    if not lower.numel():
        return Interval(lower, upper)
    if sizes is None:
        least, greatest = float(lower.detach().amin()), float(upper.detach().amax())
        size = max(-least, greatest, 0.0) if math.isfinite(least) and math.isfinite(greatest) else math.inf
    else:
        size = (sizes[0] + scale * sizes[1]) * (1.0 + 4.0 * context.rounding.own) * SAFETY
        size = size if size < torch.finfo(lower.dtype).max else math.inf
    if math.isfinite(size):
        return Interval(lower, upper, bound=size, owned=True)
    known = torch.isfinite(lower) & torch.isfinite(upper)
    return Interval(torch.where(known, lower, -torch.inf), torch.where(known, upper, torch.inf))


def _add_bias(context: Context, out: Interval, bias: Operand, terms: int) -> Interval:
    """Add a bias whose ε differs from row to row, or that is a computed value."""
    if bias is None:
        return out
    assert context.operation is not None
    layout = context.operation.layout
    assert isinstance(layout, Layout)
    term = context.interval(bias) if isinstance(bias, Parameter) else bias
    if out.lower.dim() > 2 and context.is_convolution:
        spatial = [1] * (out.lower.dim() - 2)
        term = term.map(lambda t: t.view(*t.shape, *spatial))
    if out.batch is None:
        out = replace(out, batch=layout.batch, merged=layout.merged)
    left, right = context.aligned([out, term], layout)
    added = add(context, left, right)
    if context.rounding.network:
        # The network may start its sum with the bias, which then errs like the whole sum.
        added.slack += context.rounding.of_dot(terms) * right.magnitude
    return replace(added, by_row=True) if layout.batch is None and term.by_row else added


def _times(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return torch.matmul(x, weight)
    if x.dim() == 2 and weight.dim() == 2:
        return torch.addmm(bias, x, weight)
    return torch.matmul(x, weight) + bias


def _input(context: Context, x: Operand) -> Interval:
    return context.interval(x) if isinstance(x, Parameter) else x  # type: ignore[return-value]  # never None here


def _size(weight: Operand) -> torch.Size:
    return weight.theta.shape if isinstance(weight, Parameter) else weight.shape  # type: ignore[union-attr]  # never None here


def _spread(context: Context, bias: Operand, outputs: int) -> Operand:
    """A bias as one number an output, where it is a parameter of one row; a box of its own shape elsewhere."""
    if not isinstance(bias, Parameter):
        return bias
    row = bias.theta.numel() == 1 or bias.theta.shape == (*[1] * (bias.theta.dim() - 1), outputs)
    return bias.spread(outputs) if row else context.interval(bias)


def _is_value(operand: Operand) -> bool:
    return isinstance(operand, Interval) and operand.batch is not None
