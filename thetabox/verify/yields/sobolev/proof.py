"""The proof ``log-sobolev``: convolutions and pools in front of dense layers, ReLU between them, Gaussian noise."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from thetabox.verify.kernels import sound_kernels
from thetabox.verify.yields.chain import Chain, ChainConvolution, Dense
from thetabox.verify.yields.failure import MARGINS, Failure
from thetabox.verify.yields.sobolev.convolved import Convolved, StageInputs
from thetabox.verify.yields.sobolev.ends import count as count_of
from thetabox.verify.yields.sobolev.ends import known
from thetabox.verify.yields.sobolev.ends_walked import walked
from thetabox.verify.yields.sobolev.expectations import lower, upper
from thetabox.verify.yields.sobolev.head import DenseHead
from thetabox.verify.yields.sobolev.patterns import Pattern, Used, of_all, used
from thetabox.verify.yields.sobolev.tilted import Tilted
from thetabox.verify.yields.sobolev.walk import Passed
from thetabox.verify.yields.sobolev.windows import Windows

# How what is spent is shared among groups of events, before it is shared out among those that there are.
SHARES = {
    "first places": 0.16,
    "later places": 0.4,
    "dense means": 0.4,
    "dense values": 0.04,
    "margin spreads": 0.04,
}
# About the part of a group's events on which something is built (see :func:`.patterns.used`), of groups that are not
# built on whole; a choice, for what is counted in the end are those.
BUILT_ON = {"first places": 0.3, "later places": 0.2}


def fits(chain: Chain) -> bool:
    """Convolution stages with ReLU, at least one, then dense ones with ReLU, the last one without."""
    kinds = [isinstance(s.layer, ChainConvolution) for s in chain.stages]
    first = sum(kinds)
    if not 0 < first < len(kinds) or not all(kinds[:first]):
        return False
    if not all(s.relu for s in chain.stages[:-1]) or chain.stages[-1].relu:
        return False
    return all(s.average is None and s.largest is None for s in chain.stages[first:])


def events(chain: Chain, inputs: tuple[int, int, int]) -> dict[str, tuple[int, float]]:
    """Group → all of its events, and about its share of what is spent; shares add up to at most 1.

    Args:
        chain: that :func:`fits`.
        inputs: channels, rows and columns of a sample.
    """
    counts = dict.fromkeys(SHARES, 0)
    for n, stage in enumerate(chain.stages[:-1]):
        layer = stage.layer
        if isinstance(layer, ChainConvolution):
            windows = Windows.of(stage, inputs)
            places = len(layer.bias) * windows.count
            group = "later places" if n else "first places"
            counts[group] += places * count_of(windows.candidates, first=not n)
            inputs = (len(layer.bias), *windows.places)
        else:
            counts["dense means"] += 2 * len(layer.bias)
            counts["dense values"] += 2 * len(layer.bias)
    counts["margin spreads"] = len(chain.stages[-1].layer.bias) - 1
    whole = sum(SHARES[group] for group, count in counts.items() if count)
    return {group: (count, SHARES[group] / whole) for group, count in counts.items() if count}


def failure(
    chain: Chain,
    x: Float[Tensor, "samples channels height width"],
    y: Int[Tensor, " samples"],
    sigma: float,
    spent: float,
) -> Failure:
    """Upper bounds of the probability that a chip misclassifies each sample, a tie counted as wrong; at most 1.

    That is 1, without any work, of a sample that is wrong without noise.

    Args:
        chain: that :func:`fits`.
        x: samples, float64, exact; :meth:`~thetabox.verify.yields.chain.Chain.largest` of them is not above
            :data:`~thetabox.verify.yields.chain.LARGEST`.
        y: labels.
        sigma: of the noise.
        spent: about what all intermediate events may fail with together; the rows of the margins come on top. What
            those fail with on which something was built is what the result says.
    """
    groups = dict.fromkeys((*SHARES, MARGINS))
    counts, parts = ({group: torch.zeros(len(x), dtype=torch.float64) for group in groups} for _ in range(2))
    probability = torch.ones(len(x), dtype=torch.float64)
    failure = Failure(probability, {group: (counts[group], parts[group]) for group in groups})
    if not (sigma > 0.0 and 0.0 < spent < 1.0):
        return failure
    inputs = (x.shape[1], x.shape[2], x.shape[3])
    each = {g: spent * share / (count * BUILT_ON.get(g, 1.0)) for g, (count, share) in events(chain, inputs).items()}
    if min(each.values()) == 0.0:  # too little to be shared out
        return failure
    stages = _convolved(chain, inputs, sigma)
    dense = [s.layer for s in chain.stages if isinstance(s.layer, Dense)]
    with torch.no_grad(), sound_kernels():
        logits = _without_noise(chain, x)
        margins = logits.gather(1, y.long()[:, None]) - logits.scatter(1, y.long()[:, None], -torch.inf)
        for n in (margins.amin(1) > 0.0).nonzero()[:, 0].tolist():
            probability[n], built_on = _one(stages, dense, x[n], int(y[n]), sigma, each, spent)
            for group, (count, part) in built_on.items():
                counts[group][n], parts[group][n] = count, part
    return failure


def _without_noise(chain: Chain, x: Float[Tensor, "samples channels height width"]) -> Float[Tensor, "samples classes"]:
    """About the logits of the weights as they are."""
    h = x
    for stage in chain.stages:
        layer = stage.layer
        if isinstance(layer, ChainConvolution):
            h = F.conv2d(F.pad(h, layer.padding), layer.weight, layer.bias, stride=layer.stride)
        else:
            h = h.flatten(1) @ layer.weight.T + layer.bias
        if stage.average is not None:
            h = F.avg_pool2d(h, stage.average.kernel, stage.average.stride)
        h = h.relu() if stage.relu else h
        if stage.largest is not None:
            h = F.max_pool2d(h, stage.largest.kernel, stage.largest.stride)
    return h


def _one(
    stages: list[Convolved],
    dense: list[Dense],
    x: Float[Tensor, "channels height width"],
    label: int,
    sigma: float,
    each: dict[str, float],
    spent: float,
) -> tuple[float, dict[str, Used]]:
    """Upper bound for one sample, and the events that it is built on."""
    passed, output, events = _passed(stages, x, (each["first places"], each.get("later places", 0.5)))
    # Of groups without events, in networks without hidden dense layers.
    means, values = each.get("dense means", 0.5), each.get("dense values", 0.5)
    head = DenseHead(dense, passed, (output.least, output.most), output.centre, sigma, means, values)
    neurons = 2 * sum(len(layer.bias) for layer in dense[:-1])
    margins = head.failures(label, spent, each["margin spreads"])
    groups = {
        "first places": events[0],
        "later places": Used(sum(e.events for e in events[1:]), sum(e.probability for e in events[1:])),
        "dense means": Used(neurons, neurons * means),
        "dense values": Used(neurons, neurons * values),
        "margin spreads": Used(margins.spreads, margins.spreads * each["margin spreads"]),
        MARGINS: Used(len(dense[-1].bias) - 1, float(margins.probability.sum())),
    }
    total = sum(group.probability for group in groups.values()) * (1.0 + 1e-9)
    return (min(total, 1.0) if math.isfinite(total) else 1.0), groups


class StageOutput(NamedTuple):
    """Ends of a stage's output, and about where its mean is; flat."""

    least: Tensor
    most: Tensor
    centre: Tensor


def _passed(
    stages: list[Convolved], x: Float[Tensor, "channels height width"], each: tuple[float, float]
) -> tuple[list[Passed], StageOutput, list[Used]]:
    """The convolution stages of one sample, whose ends fail with at most these probabilities (first, later)."""
    passed: list[Passed] = []
    events: list[Used] = []
    least = most = centre = x
    for stage in stages:
        read = StageInputs.of(stage, least, most, centre)
        ends = walked(read, passed, each[1]) if passed else known(read, each[0])
        pattern = Pattern.of(read, ends)
        events.append(used(read, ends, pattern))
        above, below = upper(read, ends, pattern), lower(read, ends, pattern)
        tilted = None if passed else Tilted(read, ends, pattern)
        passed.append(Passed(read, above, of_all(read, pattern), below, tilted))
        shape = stage.outputs
        centre = ((above.at(read) + below[0].form.at(read)) / 2.0).clamp(min=0.0).view(shape)
        least, most = pattern.least.view(shape), pattern.most.view(shape)
    return passed, StageOutput(least.flatten(), most.flatten(), centre.flatten()), events


def passed_stages(
    chain: Chain, x: Float[Tensor, "channels height width"], sigma: float, each: tuple[float, float]
) -> tuple[list[Passed], StageOutput, list[Used]]:
    """The convolution stages of a chain for one sample; see :func:`_passed`."""
    return _passed(_convolved(chain, (x.shape[0], x.shape[1], x.shape[2]), sigma), x, each)


def _convolved(chain: Chain, inputs: tuple[int, int, int], sigma: float) -> list[Convolved]:
    stages = []
    for stage in chain.stages:
        if isinstance(stage.layer, ChainConvolution):
            stages.append(Convolved.of(stage, inputs, sigma))
            inputs = stages[-1].outputs
    return stages
