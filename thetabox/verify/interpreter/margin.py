r"""The proof's last step: the margin as one row over the shared hidden values.

The logits of two classes read the same hidden values :math:`h \in [l, u]`. With :math:`d = \theta_y - \theta_k` and
:math:`s` the sum of the two weights' radii, the least :math:`logit_y - logit_k` over the whole box is exactly

.. math:: \sum_i \min_{h \in \{l_i, u_i\}} (d_i h - s_i |h|) + b_y - b_k - r_y - r_k ,

never below what two separate logit intervals tell.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context

# Numbers in the slopes of margins against all classes that are held at once.
SLOPES = 1 << 18


def row_margins(
    context: Context,
    hidden: Interval,
    weight: Parameter,
    bias: Parameter | None,
    labels: Int[Tensor, " samples"],
) -> Float[Tensor, "levels samples"]:
    """Proven lower bound of ``min_k (logit_y - logit_k)`` of every row; arguments as for :func:`class_margins`."""
    margins, size = class_margins(context, hidden, weight, bias, labels)
    samples = context.row_epsilon.samples
    index = labels.repeat(len(margins) // samples)[:, None]
    least_margin = margins.scatter(1, index, torch.inf).amin(1)
    least_margin = least_margin - context.rounding.of_operation(8) * least_margin.abs().clamp(
        max=torch.finfo(margins.dtype).max
    )
    if context.rounding.network:
        # A partial sum of the network's own logits may overflow once Σ|w||h| + |b| does.
        least_margin = torch.where(size.amax(1) * SAFETY < context.rounding.overflow, least_margin, -torch.inf)
    return known(least_margin).view(-1, samples)


def class_margins(
    context: Context,
    hidden: Interval,
    weight: Parameter,
    bias: Parameter | None,
    labels: Int[Tensor, " samples"],
) -> tuple[Float[Tensor, "rows classes"], Float[Tensor, "rows classes"]]:
    """Lower bounds of ``logit_y - logit_k`` for every class (the own one says nothing), and sizes Σ|w||h| + |b|.

    Args:
        context: ε, rounding.
        hidden: input of the last layer, ``[rows, features]``.
        weight: of the last layer, ``[classes, features]``.
        bias: of the last layer, ``[classes]``.
        labels: right class of each sample.
    """
    weight, bias = _spread(weight, bias)
    bias = None if bias is None else bias.moved(lambda t: t.reshape(-1))
    hidden = context.expanded(hidden).settled(context.rounding.roundoff)
    levels, samples = context.row_epsilon.per_sample, context.row_epsilon.samples
    rows = hidden.lower.shape[0]
    if rows != levels * samples:
        levels = 1
    lower, upper = hidden.lower, hidden.upper
    features = weight.theta.shape[1]
    label = labels.repeat(levels)
    epsilon = context.epsilon(weight.factor).reshape(-1) if weight.factor else lower.new_zeros(rows)
    # Rounding of every row: relative to Σ (|θ_y| + |θ_k|)(1 + ε) max|h|.
    magnitude = upper if hidden.nonnegative else torch.maximum(lower.abs(), upper.abs())
    around = _magnitude_sums(context, magnitude, weight.magnitude)
    moves = around if weight.absolute is None else _magnitude_sums(context, magnitude, weight.absolute)
    around = around + moves * epsilon[:, None]
    relative = context.rounding.of_dot(2 * features + 8) + 4.0 * weight.theta_error
    rounding = around.gather(1, label[:, None]) + around
    rounding = rounding * (relative * (1.0 + relative) * SAFETY) + context.rounding.subnormal * features * 16
    if hidden.nonnegative and (context.row_epsilon.shared or not weight.factor):
        sums = _by_class(lower, upper, weight.theta, weight.unit_radius, epsilon.view(levels, -1)[:, 0], labels)
    else:
        sums = _row_by_row(lower, upper, weight.theta, weight.unit_radius, epsilon, label)
    margins = sums - rounding
    if bias is not None:
        margins = margins + _bias_margins(context, bias, label, features)
        around = around + bias.magnitude + _bias_radius(context, bias)
    return margins, around


def _spread(weight: Parameter, bias: Parameter | None) -> tuple[Parameter, Parameter | None]:
    """Weight and bias with one row a class: torch takes one number of either for all classes."""
    if bias is None:
        return weight, None
    classes = max(weight.theta.shape[0], bias.theta.numel())
    if weight.theta.shape[0] != classes:
        weight = weight.moved(lambda t: t.expand(classes, -1))
    return weight, bias.spread(classes)


def _magnitude_sums(context: Context, magnitude: Tensor, weight: Tensor) -> Tensor:
    """``Σ |w| max|h|`` for every row and class, or an upper bound without a product where it is only rounding."""
    if context.rounding.network:
        return magnitude @ weight.T
    return magnitude.amax(1)[:, None] * weight.sum(1)


def _by_class(lower: Tensor, upper: Tensor, theta: Tensor, radius: Tensor, epsilon: Tensor, labels: Tensor) -> Tensor:
    """Sums for hidden values of at least 0 and one ε a level: two matrix products for each class."""
    levels, features = len(epsilon), theta.shape[1]
    low, high = lower.reshape(levels, -1, features), upper.reshape(levels, -1, features)
    # Whole chunks come in the order of their classes, other rows are brought into it.
    order = None if bool((labels[1:] >= labels[:-1]).all()) else labels.argsort(stable=True)
    if order is not None:
        labels, low, high = labels[order], low[:, order], high[:, order]
    present, counts = torch.unique_consecutive(labels, return_counts=True)
    sizes = counts.tolist()
    sums = []
    groups = zip(low.split(sizes, 1), high.split(sizes, 1), strict=True)
    for classes in present.split(max(1, SLOPES // (levels * theta.numel()))):
        # [classes, levels, features, other classes]: one way up, one down.
        slope = (theta[classes, None] - theta)[:, None]
        slope = slope - epsilon[:, None, None] * (radius[classes, None] + radius)[:, None]
        rising, falling = (s.transpose(2, 3).unbind() for s in (slope.clamp(min=0), slope.clamp(max=0)))
        for up, down, (near, far) in zip(rising, falling, groups, strict=False):
            sums.append(torch.baddbmm(torch.bmm(near, up), far, down))
    joined = torch.cat(sums, 1)
    return (joined if order is None else joined[:, order.argsort()]).flatten(0, 1)


def _row_by_row(lower: Tensor, upper: Tensor, theta: Tensor, radius: Tensor, epsilon: Tensor, label: Tensor) -> Tensor:
    """Sums for hidden values of any sign and any ε: each end of each value tried."""
    theta_label, radius_label = theta[label], radius[label]
    columns = []
    for k in range(theta.shape[0]):
        d, s = theta_label - theta[k], (radius_label + radius[k]) * epsilon[:, None]
        columns.append(torch.minimum(d * lower - s * lower.abs(), d * upper - s * upper.abs()).sum(1))
    return torch.stack(columns, 1)


def _bias_margins(context: Context, bias: Parameter, label: Tensor, features: int) -> Tensor:
    radius = _bias_radius(context, bias).expand(len(label), -1)
    if len(bias.theta) == 1:  # the same number in both logits: it drops out, but a network rounds each sum with it
        relative = context.rounding.of_dot(features + 8) if context.rounding.network else 0.0
        return (bias.magnitude + radius) * (-2.0 * relative) - context.rounding.subnormal * 8
    both = radius.gather(1, label[:, None]) + radius
    size = bias.magnitude[label][:, None] + bias.magnitude
    # The bias may be the first term of the network's own sum, so it errs like the whole of it.
    relative = context.rounding.of_dot(features + 8) + 4.0 * bias.theta_error
    total = both * (1.0 + 4.0 * relative) + (size + both) * relative
    return bias.theta[label][:, None] - bias.theta - total - context.rounding.subnormal * 8


def _bias_radius(context: Context, bias: Parameter) -> Tensor:
    """Radius of each class's bias, ``[rows or 1, classes]``."""
    radius = bias.unit_radius
    return radius * context.epsilon(bias.factor).reshape(-1, 1) if bias.factor else torch.zeros_like(radius)[None]


def logit_margins(
    context: Context, logits: Interval, labels: Int[Tensor, " samples"]
) -> Float[Tensor, "levels samples"]:
    """Lower bound from two separate intervals: the baseline criterion of Büchel, Faber, Muir (ICLR 2022)."""
    logits = context.expanded(logits).settled(context.rounding.roundoff)
    levels = logits.lower.shape[0] // labels.numel()
    label = labels.repeat(levels)[:, None]
    others = logits.upper.scatter(1, label, -torch.inf).amax(1)
    of_label = logits.lower.gather(1, label).squeeze(1)
    size = of_label.abs() + others.abs()
    margin = of_label - others - 2.0 * context.rounding.roundoff * torch.where(size.isfinite(), size, 0.0)
    return known(margin).view(levels, labels.numel())


def known(margin: Tensor) -> Tensor:
    """Minus infinity where nothing is known; an overflow to plus infinity is no proof."""
    return torch.where(margin.isnan() | (margin == torch.inf), -torch.inf, margin)
