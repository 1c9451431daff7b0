from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.verify.yields.sobolev import chains
from thetabox.verify.yields.chain import Chain
from thetabox.verify.yields.neuron import mean_relu
from thetabox.verify.yields.sobolev.moments import parts_of
from thetabox.verify.yields.sobolev.proof import passed_stages
from thetabox.verify.yields.sobolev.tilted import GRID, SLACK, _chances


@pytest.mark.parametrize("place", range(0, len(GRID), 3))
def test_a_chance_is_the_mean_of_phi_over_the_tilts(place: int) -> None:
    reach = GRID[place]
    far = torch.linspace(-6.0, 9.0, 61, dtype=torch.float64)
    steps = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000 * reach
    exact = torch.special.ndtr(steps[:, None] - far).mean(0)
    found = _chances(far)[:, place]
    assert bool((found >= exact - 1e-7 * exact).all())
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=2 * SLACK + 1e-9)


def test_chances_of_numbers_that_are_none_are_one() -> None:
    far = torch.tensor([-torch.inf, torch.nan, torch.inf], dtype=torch.float64)
    assert _chances(far)[:2].flatten().tolist() == pytest.approx([1.0] * 2 * len(GRID), abs=1e-9)
    assert float(_chances(far)[2].max()) <= 2 * SLACK


def test_a_coordinate_under_the_tilt_is_no_further_than_the_bound_says() -> None:
    # f(u) = -L relu(u) is as steep as f may be, and the tilt pushes u up.
    u = torch.linspace(-12.0, 14.0, 200001, dtype=torch.float64)
    for reach in (0.5, 1.0, 2.0):
        density = torch.exp(-0.5 * u * u + reach * u.clamp(min=0.0))
        for far in (-1.0, 0.0, 1.0, 3.0):
            under = float(density[u >= far].sum() / density.sum())
            assert under <= float(torch.special.ndtr(torch.tensor(reach - far, dtype=torch.float64))) + 1e-4
    assert float(mean_relu(torch.zeros(1).double(), torch.ones(1).double())[1]) == pytest.approx(0.3989422804)


class _Asked:
    """A rule that looks at one λ and takes off the variance itself."""

    def __init__(self, rate: Tensor) -> None:
        self.rate = rate

    def rates(self, variance: Tensor) -> list[Tensor]:
        return [self.rate.expand_as(variance)]

    def at(self, variance: Tensor, rate: Tensor) -> Tensor:
        return variance


@pytest.mark.thin(quick=3)
@pytest.mark.parametrize("reach", [0.3, 0.9, 1.9])
@pytest.mark.parametrize("name", ["plain", "two", "strides"])
def test_gradients_under_the_tilt_are_no_larger_than_the_variance_says(name: str, reach: float) -> None:
    sigma, count = 0.25, 20_000
    chain, x, _ = chains.samples(name, 1, seed=8)
    passed, _, _ = passed_stages(Chain(chain.stages[:1]), x[0], sigma, (1e-7, 1e-7))
    stage, layer = passed[0], chain.stages[0].layer
    assert stage.tilted is not None
    channels, places, taps = len(layer.bias), stage.windows.count, stage.tilted.variance.shape[1]
    g = torch.Generator().manual_seed(4)
    inputs = stage.windows.taps(stage.windows.patches(x[0]))
    half = torch.randn(count, taps, generator=g, dtype=torch.float64)
    noise = torch.cat([half, -half])
    index, own = torch.arange(places), torch.zeros(1, 1, 1, dtype=torch.float64)
    sup = torch.full((channels, 1, taps), 1e9, dtype=torch.float64)
    less = 0
    for channel in range(channels):
        weights = torch.cat([layer.weight[channel].flatten(), layer.bias[channel : channel + 1]])
        z = torch.einsum("okt,nt->nok", inputs, weights + noise * stage.tilted.variance[channel].sqrt())
        value, chosen = z.amax(-1).clamp(min=0.0), inputs[torch.arange(places), z.argmax(-1)]
        chosen = chosen * (value > 0)[..., None]
        # All places, then single ones: they all pull down, and the tilt switches them on.
        for place in (None, 0, places // 2, places - 1):
            a = torch.zeros(channels, 1, places, dtype=torch.float64)
            a[channel, 0] = -1.0 - torch.rand(places, generator=g, dtype=torch.float64)
            if place is not None:
                a[channel, 0, torch.arange(places) != place] = 0.0
            row = a[channel, 0]
            f = value @ row
            square = torch.einsum("o,not->nt", row, chosen).square() @ stage.tilted.variance[channel]
            lipschitz = square.max()
            if float(lipschitz) == 0.0:
                continue
            parts = torch.zeros(channels, 1, dtype=torch.float64)
            parts[channel] = lipschitz
            rate = reach / lipschitz.sqrt()
            tilts = [torch.softmax(-s * rate * f, 0) @ square for s in (torch.arange(20) + 0.5) / 20]
            true = float(torch.stack(tilts).mean())
            rule = _Asked(rate.view(1, 1))
            found = -float(stage.tilted.values(parts_of(a, index, stage.alive), (sup, parts), own, rule))
            assert found >= true * (1.0 - 0.03) - 1e-3 * float(lipschitz)
            less += found < 0.98 * float(lipschitz)
    # And it says something where the tilt is small: less than the largest gradient.
    assert less > 0 or reach > 1.0
