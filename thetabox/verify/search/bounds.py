"""Bounds of a domain as certificates use them: nothing but numbers, by either criterion, one ε a row if need be."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.errors import OneEpsilonAtATime
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.domain import Domain, known_ends
from thetabox.verify.effort import FREE, Meter
from thetabox.verify.interpreter.margin import known
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.network.head import only_output
from thetabox.verify.problem import Problem, Which

# Units in the last place of what stands behind the logits, with room.
ROUNDINGS = 128.0


def margins(
    domain: Domain,
    which: Which,
    epsilon: Float[Tensor, "levels samples"],
    y: Int[Tensor, " all"],
    criterion: str = "margin",
    meter: Meter = FREE,
) -> Float[Tensor, "levels samples"]:
    """Lower bounds of the margin in this domain; minus infinity where nothing is known.

    Args:
        domain: made for the problem that holds the samples.
        which: the samples, as a range or as indices in the problem's ``x``.
        epsilon: of each of them, any number of times over.
        y: labels of all samples of the problem.
        criterion: ``margin``, or ``logits`` for the least logit of class y minus the largest of another.
        meter: of all pairs, those of the first ε first; a domain that pays no more stops there.
    """
    bound = domain.margins if criterion == "margin" else domain.logit_margins

    def margins_of(rows: Which, values: Tensor) -> Tensor:
        return bound(rows, values, y)

    with sound_kernels():
        bounded = known(_rows(domain, margins_of, which, epsilon, meter).double().cpu())
        return behind_logits(domain.problem, bounded)


def behind_logits(problem: Problem, margin: Float[Tensor, "levels samples"]) -> Float[Tensor, "levels samples"]:
    r"""Margins above 0 only where what stands behind the logits tells the classes apart, in the network's arithmetic.

    In real numbers a softmax keeps every difference. In float32 the probabilities of two logits are equal where these
    differ by less than the roundings of an exponential, a quotient and a logarithm:
    :math:`c\,u\,(1 + \ln K + \text{margin})` is more, with :math:`u = 2^{-24}` and eight units in the last place
    allowed for each function.
    """
    network = problem.network
    if not (problem.settings.rounding.network and network.ending):
        return margin
    classes = network.main.layouts[only_output(network.main)].shape[-1] or 1
    return margin - (margin.abs() + 1.0 + math.log(classes)) * (ROUNDINGS * 2.0**-24)


def logits(
    domain: Domain, which: Which, epsilon: Float[Tensor, "levels samples"], meter: Meter | None = None
) -> Interval:
    """Bounds of the logits in this domain, rows ``[E samples, K]``; infinite where nothing is known."""

    def ends_of(rows: Which, values: Tensor) -> Tensor:
        ends = domain.logits(rows, values)
        stacked = torch.stack([ends.lower, ends.upper], -1).double().cpu()
        return stacked.view(*values.shape, *stacked.shape[1:])

    with sound_kernels():
        lower, upper = _rows(domain, ends_of, which, epsilon, meter or domain.meter).flatten(0, 1).unbind(-1)
        return known_ends(Interval(lower, upper))


def intersected(one: Interval, other: Interval) -> Interval:
    """What two proofs say together."""
    with sound_kernels():
        return Interval(torch.maximum(one.lower, other.lower), torch.minimum(one.upper, other.upper))


def _rows(
    domain: Domain, bound: Callable[[Which, Tensor], Tensor], which: Which, epsilon: Tensor, meter: Meter
) -> Tensor:
    """All rows at once, or the samples of one ε after the other where the domain asks for that."""
    before, domain.meter = domain.meter, meter
    try:
        with torch.no_grad():
            try:
                return bound(which, epsilon)
            except OneEpsilonAtATime:
                if len(epsilon.unique()) == 1 and len(epsilon) == 1:
                    raise
            indices, together = torch.arange(len(domain.problem.x))[which], None
            for level, values in enumerate(epsilon):
                for value in values.unique():
                    members = (values == value).nonzero().squeeze(1)
                    domain.meter = meter.part(level * len(values) + members)
                    part = bound(indices[members], value.expand(1, len(members)))[0]
                    together = part.new_empty(*epsilon.shape, *part.shape[1:]) if together is None else together
                    together[level, members] = part
    finally:
        domain.meter = before
    assert together is not None
    return together
