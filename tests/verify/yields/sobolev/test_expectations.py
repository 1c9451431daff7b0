"""Forms below and above the mean of outputs, ranges of gradients, and what events leave open, against draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.verify.yields.sobolev import chains
from thetabox.verify.yields.neuron import mean_relu
from thetabox.verify.yields.sobolev.convolved import Convolved, StageInputs
from thetabox.verify.yields.sobolev.ends import Ends
from thetabox.verify.yields.sobolev.expectations import lower, upper
from thetabox.verify.yields.sobolev.patterns import Pattern, of_all

SIGMA = 0.3
DRAWS = 4000


class Case:
    """A stage whose input lies in a box of some radius, with ends that hold at this many standard deviations."""

    def __init__(self, name: str, which: int, radius: float, z: float = 2.0) -> None:
        chain, x, _ = chains.samples(name, 1, seed=3)
        h = x[0] if which == 0 else chains.forward(chain, x)[which - 1][0]
        shape = (h.shape[0], h.shape[1], h.shape[2])
        self.stage = Convolved.of(chain.stages[which], shape, SIGMA)
        self.low, self.high = (h - radius).clamp(min=0.0), h.clamp(min=0.0) + radius
        self.g = torch.Generator().manual_seed(which)
        self.read = StageInputs.of(self.stage, self.low, self.high, (self.low + self.high) / 2.0)
        read, kernels = self.read, self.stage.kernels
        middle = read.means
        apart = middle - read.of_reference(middle)[..., None]
        reach = torch.einsum("ckq,oq->cok", kernels.abs(), self._patches(self.high - self.low)) / 2.0
        chosen = torch.einsum("cok,ckq->coq", read.reference, kernels)
        far = (kernels[:, None] - chosen[:, :, None]).abs()
        between = torch.einsum("cokq,oq->cok", far, self._patches(self.high - self.low)) / 2.0
        own, distance = read.spreads
        mean, apart_ends = (middle - reach, middle + reach), (apart - between, apart + between)
        least = read.of_reference(mean[0] - z * own)
        beyond = torch.where(read.reference > 0, 0.0, apart_ends[1] + z * distance)
        none = torch.zeros_like(beyond)
        self.ends = Ends(mean, apart_ends, least, mean[1] + z * own, beyond, 0.0, 0.0, none, none)
        self.pattern = Pattern.of(read, self.ends)

    def _patches(self, h: Tensor) -> Tensor:
        return self.stage.windows.patches(h).flatten(1)

    def inputs(self) -> Tensor:
        """Some input in the box; a corner of it half of the time."""
        share = torch.rand(self.low.shape, generator=self.g, dtype=torch.float64)
        share = share.round() if bool(torch.rand(1, generator=self.g) < 0.5) else share
        return self.low + share * (self.high - self.low)

    def values(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise ``[draws, channels, taps]``, what taps read, and the candidates' values."""
        sizes = self.stage.variance.sqrt()
        half = torch.randn(DRAWS // 2, *sizes.shape, generator=self.g, dtype=torch.float64) * sizes
        noise = torch.cat([half, -half])
        taps = self.stage.windows.taps(self.stage.windows.patches(h))
        mean = torch.einsum("ckq,oq->cok", self.stage.kernels, self._patches(h)) + self.stage.bias[:, None, None]
        return noise, taps, mean + torch.einsum("nct,okt->ncok", noise, taps)

    def open(self, z: Tensor) -> Tensor:
        """The largest of the open candidates, as the pattern says."""
        found = torch.where(self.pattern.open, z, -torch.inf).amax(-1)
        return torch.where(self.pattern.off, 0.0, torch.where(self.pattern.on, found, found.clamp(min=0.0)))

    def at(self, form: tuple[Tensor, Tensor, Tensor], h: Tensor) -> Tensor:
        return torch.einsum("coq,oq->co", form[0], self._patches(h)) + form[1]


CASES = [("plain", 0), ("two", 1), ("strides", 0), ("strides", 1), ("average", 0), ("three", 2)]


@pytest.mark.parametrize("radius", [0.0, 0.02, 0.3])
@pytest.mark.parametrize(("name", "which"), CASES)
def test_means_lie_between_the_forms(name: str, which: int, radius: float) -> None:
    case = Case(name, which, radius)
    above = upper(case.read, case.ends, case.pattern)
    below = lower(case.read, case.ends, case.pattern)
    for _ in range(3):
        h = case.inputs()
        z = case.values(h)[2]
        open_, true = case.open(z), z.amax(-1).clamp(min=0.0)
        error = 6.0 * open_.std(0) / DRAWS**0.5 + 1e-9
        assert bool((open_.mean(0) <= case.at(above, h) + error).all())
        for bound in below:
            # Below the output itself, whatever the events.
            assert bool((case.at(bound.form, h) <= true.mean(0) + error).all())


@pytest.mark.parametrize(("name", "which"), [("strides", 1), ("average", 1), ("three", 1)])
def test_forms_are_tight_where_the_input_is_known_and_there_is_no_max_pool(name: str, which: int) -> None:
    case = Case(name, which, 0.0)
    exact = mean_relu(case.read.means, case.read.spreads[0])[0][..., 0]
    exact = torch.where(case.pattern.off, 0.0, torch.where(case.pattern.on, case.read.means[..., 0], exact))
    h = case.low
    torch.testing.assert_close(case.at(upper(case.read, case.ends, case.pattern), h), exact, rtol=1e-8, atol=1e-8)
    first = lower(case.read, case.ends, case.pattern)[0].form
    torch.testing.assert_close(case.at(first, h), exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("radius", [0.0, 0.3])
@pytest.mark.parametrize(("name", "which"), CASES)
def test_on_the_events_outputs_and_gradients_are_what_the_pattern_leaves_open(
    name: str, which: int, radius: float
) -> None:
    case = Case(name, which, radius, z=1.0)
    read, pattern = case.read, case.pattern
    range_ = of_all(read, pattern)
    h = case.inputs()
    _, taps, z = case.values(h)
    reference = (z * read.reference).sum(-1)
    apart = z - reference[..., None]
    holds = (reference >= case.ends.least) & ((z <= case.ends.most) & (apart <= case.ends.beyond)).all(-1)
    assert 0.01 < float(holds.double().mean()) < 1.0
    true = z.amax(-1).clamp(min=0.0)
    assert bool((true == case.open(z))[holds].all())
    assert bool(((true >= pattern.least) & (true <= pattern.most))[holds].all())
    gradient = taps[torch.arange(taps.shape[0]), z.argmax(-1)] * (z.amax(-1) > 0)[..., None]
    inside = (gradient >= range_.low - 1e-12) & (gradient <= range_.high + 1e-12)
    assert bool(inside.all(-1)[holds].all())


@pytest.mark.parametrize(("name", "which"), CASES)
def test_functions_below_are_below_with_gradients_in_their_ranges(name: str, which: int) -> None:
    case = Case(name, which, 0.0)
    read = case.read
    z = case.values(case.low)[2]
    mean = read.of_reference(read.means)
    held = lower(read, case.ends, case.pattern)[1]
    # Where nothing is off: the reference itself, or 0.
    sign = (mean > 0).double() * (~case.pattern.off)
    torch.testing.assert_close(case.at(held.form, case.low), mean * sign, rtol=1e-9, atol=1e-9)
    taps = read.taps_of_reference(read.nominal) * sign[..., None]
    assert bool(((held.range.low <= taps + 1e-12) & (held.range.high >= taps - 1e-12)).all())
    assert bool((z.amax(-1).clamp(min=0.0) >= (z * read.reference).sum(-1) * sign).all())
