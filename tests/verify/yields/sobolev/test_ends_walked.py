"""Ends of later stages against draws: each fails no more often than it may."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.verify.yields.sobolev import chains
from thetabox.verify.yields.chain import Chain
from thetabox.verify.yields.sobolev import ends_walked
from thetabox.verify.yields.sobolev.convolved import Convolved, StageInputs
from thetabox.verify.yields.sobolev.ends import known
from thetabox.verify.yields.sobolev.ends_walked import walked
from thetabox.verify.yields.sobolev.expectations import upper
from thetabox.verify.yields.sobolev.patterns import Pattern
from thetabox.verify.yields.sobolev.proof import passed_stages

COUNT = 3000


@pytest.mark.parametrize(("name", "which"), [("two", 1), ("strides", 1), ("average", 1), ("three", 2)])
def test_each_end_fails_no_more_often_than_it_may(name: str, which: int) -> None:
    sigma, probability = 0.03, 0.2
    chain, x, _ = chains.samples(name, 1, seed=9)
    passed, output, _ = passed_stages(Chain(chain.stages[:which]), x[0], sigma, (1e-7, 1e-7))
    g = torch.Generator().manual_seed(3)
    before = chains.draws(Chain(chain.stages[:which]), x, sigma, COUNT, g)[-1][:, 0]
    shape = (before.shape[1], before.shape[2], before.shape[3])
    stage = Convolved.of(chain.stages[which], shape, sigma)
    read = StageInputs.of(stage, *(t.view(shape) for t in output))
    ends = walked(read, passed, probability)
    windows = stage.windows
    patches = torch.stack([windows.patches(h) for h in before])
    taps = torch.stack([windows.taps(p) for p in patches])
    mean = torch.einsum("ckq,noq->ncok", stage.kernels, patches.flatten(2)) + stage.bias[:, None, None]
    noise = torch.randn(COUNT, *stage.variance.shape, generator=g, dtype=torch.float64) * stage.variance.sqrt()
    value = mean + torch.einsum("nct,nokt->ncok", noise, taps)
    apart, distance = ((t - (t * read.reference).sum(-1)[..., None]) for t in (mean, value))
    failures = [
        mean < ends.mean[0],
        mean > ends.mean[1],
        (apart < ends.distance[0] - 1e-9),
        (apart > ends.distance[1] + 1e-9),
        ((value * read.reference).sum(-1) < ends.least)[..., None],
        value > ends.most,
        distance > ends.beyond + 1e-9,
    ]
    for failed in failures:
        assert float(failed.double().mean(0).max()) <= probability + 6.0 * (probability / COUNT) ** 0.5
    # Values are bounded with their own noise: those of means alone would fail far more often.
    assert float((value > ends.mean[1]).double().mean()) > 0.02


def test_ends_of_the_first_stage_fail_as_often_as_they_may() -> None:
    sigma, probability = 0.2, 0.1
    chain, x, _ = chains.samples("plain", 1, seed=9)
    stage = Convolved.of(chain.stages[0], (1, 6, 6), sigma)
    read = StageInputs.of(stage, x[0], x[0], x[0])
    ends = known(read, probability)
    taps = stage.windows.taps(stage.windows.patches(x[0]))
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(COUNT, *stage.variance.shape, generator=g, dtype=torch.float64) * stage.variance.sqrt()
    value = read.means + torch.einsum("nct,okt->ncok", noise, taps)
    reference = (value * read.reference).sum(-1)
    failures = [reference < ends.least, value > ends.most, value - reference[..., None] > ends.beyond + 1e-9]
    for failed in failures:
        share = failed.double().mean(0)
        assert float(share.max()) <= probability + 6.0 * (probability / COUNT) ** 0.5
        assert float(share.max()) >= probability - 6.0 * (probability / COUNT) ** 0.5
    # What is below 0 by more than its end asks for fails as seldom as that.
    for failed, chance, end in (
        (value > 0.0, ends.positive, ends.most),
        (value - reference[..., None] > 1e-9, ends.above, ends.beyond),
    ):
        decided = (end <= 0.0) & (read.reference == 0)
        assert bool(decided.any())
        assert bool((chance[decided] <= probability * (1.0 + 1e-6)).all())
        share = failed.double().mean(0)[decided]
        torch.testing.assert_close(share, chance[decided], rtol=0.0, atol=6.0 * (probability / COUNT) ** 0.5)
        assert float(share.max()) > 0.02


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.2])
@pytest.mark.parametrize(("name", "which"), [("two", 1), ("strides", 1), ("average", 1), ("three", 2)])
def test_a_first_look_changes_nothing_that_matters(
    name: str, which: int, sigma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, x, _ = chains.samples(name, 1, seed=4)
    passed, output, _ = passed_stages(Chain(chain.stages[:which]), x[0], sigma, (1e-4, 1e-4))
    before = chains.forward(chain, x)[which - 1]
    shape = (before.shape[1], before.shape[2], before.shape[3])
    read = StageInputs.of(Convolved.of(chain.stages[which], shape, sigma), *(t.view(shape) for t in output))
    found = []
    for blind in (False, True):
        if blind:
            looked = ends_walked._Place.ends

            def nothing(self: Any, *args: Any, first_look: bool = False, looked: Any = looked) -> Any:
                answer = looked(self, *args)
                return tuple(torch.full_like(t, -torch.inf) for t in answer) if first_look else answer

            monkeypatch.setattr(ends_walked._Place, "ends", nothing)
        ends = walked(read, passed, 1e-4)
        # By which look an end is known is what it may fail with; the first one's fail less often.
        first = ends_walked.FIRST_LOOK * 1e-4
        assert all(bool(((t == 1e-4) | (t == first)).all()) for t in (ends.positive, ends.above))
        dear = (ends.mean[1] < read.term_sizes) & (ends.most < torch.inf)
        assert bool((ends.positive[dear] == 1e-4).all())
        dear = (ends.distance[1] < ends.beyond) & (ends.beyond < torch.inf) & (read.reference == 0)
        assert bool((ends.above[dear] == 1e-4).all())
        if blind:
            assert bool((ends.positive == 1e-4).any())
            assert not bool((ends.positive[ends.most < torch.inf] == first).any())
        pattern = Pattern.of(read, ends)
        found.append((*pattern, *upper(read, ends, pattern)))
        # Ends that were not looked for hold always.
        assert bool((ends.mean[0] <= read.means + 1e-9).all())
        assert bool((ends.mean[1] >= read.means - 1e-9).all())
    for one, other in zip(*found, strict=True):
        live = ~found[0][1]
        torch.testing.assert_close(one[live], other[live], rtol=1e-9, atol=1e-12)
    assert torch.equal(found[0][1], found[1][1])
    assert bool((found[0][4][found[0][1]] == 0.0).all())
