"""Sums of constants and gradients, against those that are written out."""

from __future__ import annotations

import pytest
import torch

from thetabox.verify.yields.sobolev import moments
from thetabox.verify.yields.sobolev.moments import StageMoments, parts_of
from thetabox.verify.yields.sobolev.patterns import DerivativeRange

CHANNELS, PLACES, TAPS, ROWS, SIDES = 3, 7, 5, 4, 3


@pytest.mark.parametrize("small", [1, 64])
@pytest.mark.parametrize("sides", [1, SIDES])
def test_sums_are_those_that_are_written_out(small: int, sides: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "SMALL", small)
    g = torch.Generator().manual_seed(0)
    variance = torch.rand(CHANNELS, TAPS, generator=g, dtype=torch.float64)
    variance[0, 0] = 0.0
    alive = torch.rand(CHANNELS, PLACES + 1, generator=g) < 0.6
    alive[:, -1], alive[2] = False, False
    ranges, constants = [], []
    for _ in range(SIDES + 1):
        ends = torch.randn(2, CHANNELS, PLACES, TAPS, generator=g, dtype=torch.float64).sort(0).values
        ranges.append(DerivativeRange(*(ends * alive[:, :-1, None])))
        constants.append(torch.randn(CHANNELS, PLACES, generator=g, dtype=torch.float64) * alive[:, :-1])
    most = torch.stack([t.abs() for r in ranges for t in r]).amax((0, 1, 2))
    size = torch.stack([c.abs() for c in constants]).amax(0)
    found = StageMoments(
        variance, most, size, (constants[0], ranges[0]), list(zip(constants[1:], ranges[1:], strict=True)), 1
    )
    # One position beyond the edge, and one place twice.
    index = torch.tensor([0, 3, PLACES, 6, 3])
    a = torch.randn(CHANNELS, ROWS, len(index), generator=g, dtype=torch.float64)
    sums = found.of(parts_of(a, index, alive), sides, squares=True)
    rising, falling = a.clamp(min=0.0), a.clamp(max=0.0)

    def at(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values, torch.zeros_like(values[:, :1])], 1)[:, index]

    assert sums.variances.shape == (sides, CHANNELS, ROWS)
    for n in range(sides):
        high = rising @ at(ranges[n + 1].high) + falling @ at(ranges[0].low)
        low = rising @ at(ranges[n + 1].low) + falling @ at(ranges[0].high)
        squares = torch.maximum(high.abs(), low.abs()).square() * variance[:, None]
        assert bool((sums.variances[n] >= squares.sum(-1)).all())
        torch.testing.assert_close(sums.variances[n], squares.sum(-1), rtol=1e-11, atol=1e-13)
        if n == 0:
            torch.testing.assert_close(sums.squares, squares, rtol=1e-11, atol=1e-13)
        constant = torch.einsum("crl,cl->r", rising, at(constants[n + 1]))
        constant = constant + torch.einsum("crl,cl->r", falling, at(constants[0]))
        assert bool((sums.constants[n] <= constant).all())
        torch.testing.assert_close(sums.constants[n], constant, rtol=1e-11, atol=1e-11)
