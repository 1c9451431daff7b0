"""The events that a stage is built on: none is forgotten, and none counted that nothing hangs on."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor

from tests.verify.yields.sobolev import chains
from thetabox.verify.yields.chain import Chain, ChainConvolution, ChainPool, ChainStage
from thetabox.verify.yields.neuron import mean_relu
from thetabox.verify.yields.sobolev.convolved import Convolved, StageInputs
from thetabox.verify.yields.sobolev.ends import Ends, known
from thetabox.verify.yields.sobolev.ends_walked import walked
from thetabox.verify.yields.sobolev.expectations import upper
from thetabox.verify.yields.sobolev.patterns import Pattern, used
from thetabox.verify.yields.sobolev.proof import passed_stages

COUNT = 4000
EACH = 0.01


def ends(**of: list[list[float]]) -> tuple[Any, Ends]:
    """Of places of two candidates, the first of which is the reference, each end failing with 1 %."""
    given = {name: torch.tensor([rows], dtype=torch.float64) for name, rows in of.items()}
    most = given["most"]
    read = SimpleNamespace(reference=torch.tensor([1.0, 0.0], dtype=torch.float64).expand_as(most))
    nowhere = (torch.zeros_like(most), torch.zeros_like(most))
    far = given["least"].squeeze(-1)
    return read, Ends(nowhere, nowhere, far, most, given["beyond"], EACH, EACH, given["positive"], given["above"])


# Lower end of the reference; upper ends of both values; of the second beyond the first; probabilities that values are
# positive, and that the second is above the first; what of it is built on, in the first stage and in a later one.
PLACES = {
    "on, the other closed": ([1.0], [2.0, 2.0], [0.0, -1.0], [0.5, 0.5], [0.5, 1e-3], (3, 2 * EACH + 1e-3), 0),
    "on, the other open": ([1.0], [2.0, 2.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5], (3, 3 * EACH), 2),
    "off": ([-2.0], [-1.0, -1.0], [0.0, 1.0], [1e-4, 1e-5], [0.5, 0.5], (2, 1.1e-4), 0),
    "off, the other the likelier": ([-2.0], [-1.0, -1.0], [0.0, -1.0], [1e-4, 1e-3], [0.5, 1e-6], (2, 1.01e-4), 0),
    "unknown, the other closed": ([-1.0], [1.0, -1.0], [0.0, 1.0], [0.5, 1e-3], [0.5, 0.5], (2, EACH + 1e-3), 2),
    "unknown, the other open": ([-1.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5], (2, 2 * EACH), 4),
    "closed for certain": ([1.0], [2.0, 2.0], [0.0, -9.0], [0.5, 0.5], [0.5, 0.0], (2, 2 * EACH), 0),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", PLACES)
def test_events_of_a_place(name: str, first: bool) -> None:
    least, most, beyond, positive, above, (values, probability), means = PLACES[name]
    read, found = ends(least=[least], most=[most], beyond=[beyond], positive=[positive], above=[above])
    found = replace(found, each_mean=0.0) if first else found
    events = used(read, found, Pattern.of(read, found))
    assert events.events == values + (0 if first else means)
    assert events.probability == pytest.approx(probability + (0.0 if first else means * EACH), rel=1e-9)
    assert events.probability >= probability


def test_events_of_places_add_up() -> None:
    columns = list(zip(*PLACES.values(), strict=True))
    names = ("least", "most", "beyond", "positive", "above")
    read, found = ends(**dict(zip(names, map(list, columns[:5]), strict=True)))
    events = used(read, found, Pattern.of(read, found))
    assert events.events == sum(v for v, _ in columns[5]) + sum(columns[6])
    assert events.probability == pytest.approx(sum(p for _, p in columns[5]) + EACH * sum(columns[6]))


def drawn(stage: Convolved, h: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Means, own deviations and values of all candidates on many chips, ``[chips, channels, places, candidates]``."""
    patches = torch.stack([stage.windows.patches(one) for one in h])
    taps = torch.stack([stage.windows.taps(p) for p in patches])
    mean = torch.einsum("ckq,noq->ncok", stage.kernels, patches.flatten(2)) + stage.bias[:, None, None]
    noise = torch.randn(len(h), *stage.variance.shape, generator=g, dtype=torch.float64) * stage.variance.sqrt()
    own = torch.einsum("ct,nokt->ncok", stage.variance, taps.square()).sqrt()
    return mean, own, mean + torch.einsum("nct,nokt->ncok", noise, taps)


def built_wrong(read: StageInputs, found: Ends, pattern: Pattern, chips: tuple[Tensor, ...], h: Tensor) -> Tensor:
    """On which chips anything that a stage passes on does not hold."""
    mean, own, value = chips
    output = value.amax(-1).relu()
    largest = value.masked_fill(~pattern.open, -torch.inf).amax(-1)
    said = torch.where(pattern.on, largest, largest.relu()).masked_fill(pattern.off, 0.0)
    wrong = ((said - output).abs() > 1e-9) | (output < pattern.least - 1e-9) | (output > pattern.most + 1e-9)
    if found.each_mean:
        form = upper(read, found, pattern)
        patches = torch.stack([read.stage.windows.patches(one).flatten(1) for one in h])
        above = torch.einsum("coq,noq->nco", form.slopes, patches) + form.constant
        # Of any single one of what the output is on the events: no more than the mean of the largest.
        least = torch.where(pattern.on[..., None], mean, mean_relu(mean, own)[0])
        least = least.masked_fill(~pattern.open, -torch.inf).amax(-1).masked_fill(pattern.off, -torch.inf)
        wrong |= above < least - 1e-9
    return wrong.flatten(1).any(1)


@pytest.mark.parametrize("sigma", [0.02, 0.1])
@pytest.mark.parametrize("each", [1e-2, 2e-3])
@pytest.mark.parametrize("name", chains.NAMES)
def test_what_is_built_fails_no_more_often_than_its_events(name: str, each: float, sigma: float) -> None:
    chain, x, _ = chains.samples(name, 1, seed=5)
    stages = tuple(s for s in chain.stages if isinstance(s.layer, ChainConvolution))
    g = torch.Generator().manual_seed(1)
    h = x.expand(COUNT, -1, -1, -1)
    ends_of_input = (x[0], x[0], x[0])
    wrong, allowed = torch.zeros(COUNT, dtype=torch.bool), 0.0
    for n in range(len(stages)):
        passed, output, events = passed_stages(Chain(stages[: n + 1]), x[0], sigma, (each, each))
        stage = Convolved.of(stages[n], (h.shape[1], h.shape[2], h.shape[3]), sigma)
        read = StageInputs.of(stage, *ends_of_input)
        found = walked(read, passed[:n], each) if n else known(read, each)
        chips = drawn(stage, h, g)
        wrong |= built_wrong(read, found, Pattern.of(read, found), chips, h)
        allowed += events[n].probability
        h = chips[2].amax(-1).relu().view(COUNT, *stage.outputs)
        ends_of_input = tuple(t.view(stage.outputs) for t in output)  # type: ignore[assignment]  # three of them
    assert binom.sf(int(wrong.sum()) - 1, COUNT, min(allowed, 1.0)) > 1e-9
    assert int(wrong.sum()) > 0


@pytest.mark.parametrize("shift", [-2.0, -1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("candidates", [1, 2])
def test_one_place_of_the_first_stage_fails_as_often(candidates: int, shift: float) -> None:
    """Where nothing else is added up, hardly anything is lost: one place, and candidates whose noises are apart."""
    g = torch.Generator().manual_seed(0)
    layer = chains.convolution(g, 1, 1, (1, 1))
    layer = replace(layer, bias=torch.full_like(layer.bias, shift), bias_size=torch.zeros_like(layer.bias))
    layer = replace(layer, weight=torch.ones_like(layer.weight), weight_size=torch.ones_like(layer.weight))
    pool = None if candidates == 1 else ChainPool(True, (1, 2), (1, 2))
    stage = Convolved.of(ChainStage(layer, largest=pool), (1, 1, candidates), 0.5)
    x = torch.tensor([[[1.0, 0.2][:candidates]]], dtype=torch.float64)
    read = StageInputs.of(stage, x, x, x)
    found = known(read, 0.05)
    pattern = Pattern.of(read, found)
    h = x.expand(40_000, -1, -1, -1)
    share = float(built_wrong(read, found, pattern, drawn(stage, h, g), h).double().mean())
    allowed = used(read, found, pattern).probability
    if candidates == 1:  # off: above 0; on: two ends; unknown: the upper end
        expected = norm.sf(-(1.0 + shift) / 0.5) if shift <= -2.0 else 0.1 if shift >= 0.0 else 0.05
        assert allowed == pytest.approx(expected, rel=1e-6)
        assert share == pytest.approx(expected, abs=6.0 * (expected / 40_000) ** 0.5)
    assert share <= allowed + 6.0 * (allowed / 40_000) ** 0.5
