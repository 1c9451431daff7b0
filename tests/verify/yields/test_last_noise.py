"""What the last noise is worth, against its definition in long arithmetic."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch

from thetabox.verify.yields.last_noise import beyond_chernoff

THETAS = [0.051, 0.1, 0.3, 0.7980, 1.0, 2.0, 3.3, 5.0, 9.0, 17.0, 29.9]


@pytest.mark.parametrize("theta", THETAS)
def test_it_is_hardly_less_than_its_definition(theta: float) -> None:
    with mpmath.workdps(60):
        t = mpmath.findroot(lambda t: mpmath.npdf(t) / mpmath.ncdf(-t) - theta, theta - 1 / (theta + 1.5))
        exact = mpmath.mpf(theta) ** 2 / 2 - mpmath.log(mpmath.ncdf(-t)) - mpmath.mpf(theta) * t
        found = float(beyond_chernoff(torch.tensor(theta, dtype=torch.float64)))
        assert 0.0 < found <= exact
        assert float(exact) - found < 1e-5


def test_outside_of_its_range_it_gives_what_is_certain() -> None:
    found = beyond_chernoff(torch.tensor([math.nan, -1.0, 0.0, 0.01, 30.0, 1e6, math.inf], dtype=torch.float64))
    assert found[:4].tolist() == [0.0, 0.0, 0.0, 0.0]
    assert found[4] == found[5] == found[6] > 4.0


def test_a_gaussian_tail_is_below_it_for_every_rate() -> None:
    grid = torch.linspace(-5.0, 12.0, 300, dtype=torch.float64)
    for theta in THETAS:
        rate = torch.tensor(theta, dtype=torch.float64)
        bound = -theta * grid + theta**2 / 2.0 - beyond_chernoff(rate)
        assert bool((torch.special.log_ndtr(-grid) <= bound).all())
