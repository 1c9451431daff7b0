"""Each source of error of a device: mean and spread by many draws against the formulas, written out here in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.measure import devices

DRAWS = 100_000
TARGETS = [0.3, 0.5, 0.7, 0.85, 1.0]
TIMES = [25.0, 3600.0, 86400.0, 31536000.0]


def full(g: float) -> Tensor:
    return torch.full((DRAWS,), g, dtype=torch.float64)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clipped_moments(mean: float, std: float) -> tuple[float, float]:
    """Mean and standard deviation of max(N(mean, std²), 0)."""
    z = mean / std
    density, below = math.exp(-z * z / 2) / math.sqrt(2 * math.pi), 0.5 * math.erfc(-z / math.sqrt(2))
    first = mean * below + std * density
    second = (mean**2 + std**2) * below + mean * std * density
    return first, math.sqrt(second - first**2)


def folded_moments(mean: float, std: float) -> tuple[float, float]:
    """Mean and standard deviation of |N(mean, std²)|."""
    z = mean / std
    first = std * math.sqrt(2 / math.pi) * math.exp(-z * z / 2) + mean * math.erf(z / math.sqrt(2))
    return first, math.sqrt(mean**2 + std**2 - first**2)


@pytest.mark.parametrize("g", [0.0, 0.02, *TARGETS])
def test_programming_noise(g: float) -> None:
    sigma = max(-1.1731 * g * g + 1.9650 * g + 0.2635, 0) / 25.0
    mean, std = clipped_moments(g, sigma)
    drawn = devices.programmed(full(g), generator=stream())
    assert float(drawn.mean()) == pytest.approx(mean, rel=0.02)
    assert float(drawn.std()) == pytest.approx(std, rel=0.02)
    assert float(drawn.min()) >= 0


@pytest.mark.parametrize("g", [0.0, 0.05, *TARGETS])
def test_drift_exponents(g: float) -> None:
    log = math.log(g) if g else -math.inf
    mu = min(max(-0.0155 * log + 0.0244, 0.049), 0.1)
    sigma = min(max(-0.0125 * log - 0.0059, 0.008), 0.045)
    mean, std = folded_moments(mu, sigma)
    drawn = devices.drift_exponents(full(g), generator=stream())
    assert float(drawn.mean()) == pytest.approx(mean, rel=0.02)
    assert float(drawn.std()) == pytest.approx(std, rel=0.02)
    assert float(drawn.min()) >= 0


@pytest.mark.parametrize("g", TARGETS)
@pytest.mark.parametrize("time", TIMES)
def test_drift(g: float, time: float) -> None:
    """ν is normal here (its folding is 5σ away), so g(t) is lognormal."""
    mu, sigma = max(-0.0155 * math.log(g) + 0.0244, 0.049), max(-0.0125 * math.log(g) - 0.0059, 0.008)
    decades = math.log((time + 20) / 20)
    mean = g * math.exp(-mu * decades + (sigma * decades) ** 2 / 2)
    std = mean * math.sqrt(math.exp((sigma * decades) ** 2) - 1)
    drawn = devices.drifted(full(g), time, generator=stream())
    assert float(drawn.mean()) == pytest.approx(mean, rel=0.02)
    assert float(drawn.std()) == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize("g", [0.001, *TARGETS])
@pytest.mark.parametrize("time", TIMES)
def test_read_noise(g: float, time: float) -> None:
    share = min(0.0088 / g**0.65, 0.2) * math.sqrt(math.log((time + 20 + 250e-9) / (2 * 250e-9)))
    mean, std = clipped_moments(g, g * share)
    drawn = devices.read(full(g), time, generator=stream())
    assert float(drawn.mean()) == pytest.approx(mean, rel=0.02)
    assert float(drawn.std()) == pytest.approx(std, rel=0.02)
    assert float(drawn.min()) >= 0


def test_read_noise_goes_by_the_conductance_before_drift() -> None:
    drawn = devices.read(full(0.2), 3600.0, full(0.8), generator=stream())
    share = 0.0088 / 0.8**0.65 * math.sqrt(math.log((3620 + 250e-9) / 500e-9))
    assert float(drawn.std()) == pytest.approx(0.2 * share, rel=0.02)


def test_known_numbers() -> None:
    """Half of the largest conductance: σ = 0.952725 µS; a device of ν = 0.05 keeps 0.9602 of it at 25 s (t = 45 s)."""
    half = torch.tensor([0.5], dtype=torch.float64)
    assert float(devices.programming_spread(half)) * devices.G_MAX == pytest.approx(0.952725)
    kept = devices.drifted(half, 25.0, torch.tensor([0.05], dtype=torch.float64))
    assert float(kept) == pytest.approx(0.5 * 2.25**-0.05)
    assert float(devices.drifted(half, 0.0, half)) == 0.5
    # ln(45/5e-7) = 18.3153; 0.0088·√18.3153 = 0.03766
    assert float(devices.read_spread(torch.ones(1), 25.0)) == pytest.approx(0.03766, rel=1e-3)


def test_empty_devices() -> None:
    """A device at 0 has finite noise, drifts as much as any, and reads 0 once it is 0."""
    zero = torch.zeros(1)
    assert [float(v) for v in devices.exponent_law(zero)] == pytest.approx([0.1, 0.045])
    assert float(devices.read_spread(zero, 25.0)) == pytest.approx(0.2 * math.sqrt(math.log(45 / 5e-7)), rel=1e-4)
    assert float(devices.read(devices.drifted(zero, 25.0), 25.0)) == 0


def test_a_seed_means_the_same_devices() -> None:
    g = torch.rand(50)
    one, again, other = (devices.programmed(g, generator=stream(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    state = torch.get_rng_state()
    devices.read(g, 1.0, generator=stream())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("time", [-1.0, math.nan, math.inf])
def test_bad_times(time: float) -> None:
    with pytest.raises(InputError, match="finite number of seconds"):
        devices.drifted(torch.ones(1), time)
    with pytest.raises(InputError, match="finite number of seconds"):
        devices.read(torch.ones(1), time)


@pytest.fixture(scope="module")
def model():
    """The model of aihwkit, in µS."""
    why = "aihwkit is not installed: pip install --no-deps --only-binary :all: aihwkit==1.1.0"
    pcm = pytest.importorskip("aihwkit.inference.noise.pcm", reason=why)  # aihwkit may be absent
    return pcm.PCMLikeNoiseModel(g_max=25.0)


class TestAgainstAihwkit:
    """The same distributions as IBM's aihwkit draws (its PCMLikeNoiseModel, in µS)."""

    @staticmethod
    def alike(ours: Tensor, theirs: Tensor) -> None:
        # Two means of 1e5 draws differ by √2·σ/√1e5 at one standard error.
        error = float(theirs.std()) * math.sqrt(2 / DRAWS)
        assert float(ours.mean()) == pytest.approx(float(theirs.mean()), abs=5 * error)
        assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.02)
        wanted = [0.01, 0.1, 0.5, 0.9, 0.99]
        for a, b in zip(np.quantile(ours, wanted), np.quantile(theirs, wanted), strict=True):
            assert a == pytest.approx(b, abs=0.05 * float(theirs.std()))

    @pytest.mark.parametrize("g", [0.0, 0.02, 0.1, 0.3, 0.6, 1.0])
    def test_programming(self, model, g: float) -> None:
        theirs = model.apply_programming_noise_to_conductance(25 * full(g)) / 25
        self.alike(devices.programmed(full(g), generator=stream()), theirs)

    @pytest.mark.parametrize("g", [0.0, 0.02, 0.1, 0.3, 0.6, 1.0])
    def test_exponents(self, model, g: float) -> None:
        theirs = model.generate_drift_coefficients(25 * full(g))
        self.alike(devices.drift_exponents(full(g), generator=stream()), theirs)

    @pytest.mark.parametrize("g", [0.02, 0.3, 1.0])
    @pytest.mark.parametrize("time", [25.0, 86400.0])
    def test_drift_and_read_noise(self, model, g: float, time: float) -> None:
        theirs = model.apply_drift_noise_to_conductance(
            25 * full(g), model.generate_drift_coefficients(25 * full(g)), time
        )
        drift = devices.drifted(full(g), time, generator=stream(1))
        self.alike(devices.read(drift, time, full(g), generator=stream(2)), theirs / 25)

    @pytest.mark.parametrize("g", [0.0, 0.3, 1.0])
    def test_all_together(self, model, g: float) -> None:
        """Programmed, drifted for a day, read: as a weight on a pair, so both devices count."""
        weights = full(g)
        weights[0] = 1.0  # so that the largest conductance stands for weight 1
        theirs = model.apply_noise(weights, 86400.0)[1:]
        pair = torch.stack([full(g), full(0.0)])
        noisy = devices.programmed(pair, generator=stream(1))
        drift = devices.drifted(noisy, 86400.0, devices.drift_exponents(pair, generator=stream(2)))
        found = devices.read(drift, 86400.0, noisy, generator=stream(3))
        self.alike((found[0] - found[1])[1:], theirs)
