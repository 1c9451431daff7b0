"""Where a layer needs less than two products for every ε, and bounds are the same or as good."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.ends import Product, ends, samples


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


def share_radius(weight: Parameter, bias: Parameter | None) -> bool:
    """Whether one factor turns weight and bias into their radii."""
    return bias is None or (bias.relative and (bias.factor, bias.theta_error) == (weight.factor, weight.theta_error))


def known_input(
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

    parts = products() if context.memo is None else context.memo.products(context, x.lower, products)
    middle, around = parts.middle, parts.around
    uniform, kept = context.uniform(weight.factor), context.memo is not None
    if uniform is not None:
        factor = (uniform + relative) * (1.0 + relative) * SAFETY
        # By the sizes also where no other ε needs them: the bounds of an ε are the same alone and beside others.
        return ends(context, middle, around, relative, factor, keep=kept, sizes=parts.sizes)
    scale = (context.epsilon(weight.factor) + relative) * ((1.0 + relative) * SAFETY)
    levels = context.row_epsilon.per_sample if context.rows(x) == context.row_epsilon.samples else 1
    scale = scale.reshape(levels, -1).repeat_interleave(x.merged, 1)
    batch = samples(x, middle.dim())
    shape = [levels] + [1] * middle.dim()
    shape[batch + 1] = scale.shape[1]
    out = ends(context, middle[None], around[None] * scale.view(shape), relative, keep=kept)
    merged = out.moved(lambda t: t.movedim(0, batch).flatten(batch, batch + 1))
    return replace(merged, owned=out.owned)


# Up to this share of the largest output, the radius may be one number for all outputs of a layer. That costs tightness,
# which every layer behind it amplifies: for networks of few layers only. Rounding in float32 is more.
NEGLIGIBLE = 2.0**-36
# The same where runs are compared, of which sums may be taken in any order.
COMPARED = 2.0**-33


def unperturbed(context: Context, middle: Tensor, radius: Tensor, relative: float) -> Interval | None:
    """Exact weights on an input known but for rounding: ``middle``, with ``radius [outputs]`` as slack.

    ``None`` where the radius is more than that: then only a product of its own is tight.
    """
    negligible = COMPARED if context.compared else NEGLIGIBLE
    slack, size = float(radius.amax()) * SAFETY, max(abs(float(end)) for end in torch.aminmax(middle))
    if not (math.isfinite(size) and slack <= negligible * size):
        return None
    # As in ends: a partial sum of the network may overflow once Σ|w||x| does.
    if not slack < relative * context.rounding.overflow:
        return None
    return Interval(middle, middle, slack, size, owned=True)


# Rows of nothing but [0, 1] that are worth being multiplied once only.
LEAST_UNKNOWN = 0.2


def may_be_unknown(x: Interval) -> bool:
    """Whether these are truth values, as spikes are, of which whole rows are unknown once certainty is lost."""
    truth = x.nonnegative and x.bound is not None and 1.0 <= x.bound < 1.0 + 2.0**-30
    return truth and x.batch == 0 and x.lower.dim() == 2 and not x.is_point and not torch.is_grad_enabled()


def unknown_once(x: Interval) -> tuple[Interval, Tensor | None]:
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
