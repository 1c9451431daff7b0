"""Margins behind convolutions: the spread of their own noise, the last, and what that is worth."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.verify.yields.sobolev import chains
from thetabox.verify.yields import sobolev
from thetabox.verify.yields.chain import Dense
from thetabox.verify.yields.sobolev import head
from thetabox.verify.yields.sobolev.head import DenseHead
from thetabox.verify.yields.sobolev.proof import passed_stages

COUNT = 4000
SURE = 1e-7


def spreads(monkeypatch: pytest.MonkeyPatch, name: str, sigma: float, chance: float) -> tuple[Tensor, Tensor, Any]:
    """What squares of margins' own spreads are said to be at least, those of many chips, and the failures."""
    chain, x, y = chains.samples(name, 1, seed=3)
    dense = [s.layer for s in chain.stages if isinstance(s.layer, Dense)]
    passed, output, _ = passed_stages(chain, x[0], sigma, (SURE, SURE))
    of = DenseHead(dense, passed, (output.least, output.most), output.centre, sigma, SURE, SURE)
    said, failing = [], head._failing
    monkeypatch.setattr(head, "WORTH", -1.0)  # always
    monkeypatch.setattr(head, "_failing", lambda *args: (said.append(args[2].clone()), failing(*args))[1])
    costs, best = [], of._best
    monkeypatch.setattr(of, "_best", lambda *args: (costs.append(args[2]), best(*args))[1])
    label = int(y[0])
    failures = of.failures(label, 1e-3, chance)
    assert costs == [pytest.approx(-math.log(chance), rel=1e-9)] or not failures.spreads
    h = chains.draws(chain, x, sigma, COUNT, torch.Generator().manual_seed(2))[-2][:, 0].flatten(1)
    last = dense[-1]
    own = (h.square() @ last.weight_size.square().T + last.bias_size.square()) * sigma**2
    others = [k for k in range(len(last.bias)) if k != label]
    return said[-1], own[:, [label]] + own[:, others], failures


@pytest.mark.parametrize("chance", [0.3, 0.03])
@pytest.mark.parametrize("sigma", [0.02, 0.1])
@pytest.mark.parametrize("name", chains.NAMES)
def test_spreads_are_smaller_no_more_often_than_they_may(
    name: str, sigma: float, chance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, drawn, failures = spreads(monkeypatch, name, sigma, chance)
    assert failures.spreads <= int((failures.probability < 1.0).sum())
    often = (drawn < said * (1.0 - 1e-12)).double().mean(0)
    assert float(often.max()) <= chance + 6.0 * (chance / COUNT) ** 0.5


@pytest.mark.parametrize("name", chains.NAMES)
def test_spreads_of_little_noise_are_those_without_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the number around which squares are bounded: 2 h₀ h - h₀² at .8 h is .96 h²."""
    said, drawn, failures = spreads(monkeypatch, name, 1e-4, 0.03)
    assert bool((said >= 0.9 * drawn.mean(0)).all())
    assert bool((said <= 1.01 * drawn.mean(0)).all())
    assert failures.spreads <= len(said)


def test_what_a_spread_is_worth() -> None:
    """P(m + s n ≤ 0) = Φ(-m / s), up to the spacing of λ; Markov alone is far above."""
    m, s = 3.0, 1.0
    rates = torch.linspace(1.0, 6.0, 101, dtype=torch.float64)[:, None]
    exponents = rates * m - 0.5 * rates.square() * s * s
    exact = float(torch.special.ndtr(torch.tensor(-m / s, dtype=torch.float64)))
    found = [
        float(head._failing(exponents, rates, torch.tensor([q], dtype=torch.float64))[0]) for q in (1.0, 0.25, 0.0)
    ]
    assert exact <= found[0] <= 1.01 * exact
    assert found[0] < found[1] < found[2]
    assert found[2] == pytest.approx(float(torch.exp(torch.tensor(-4.5))), rel=1e-3)


@pytest.mark.parametrize("unproven", [-torch.inf, torch.inf, torch.nan])
def test_what_is_not_proven_gains_nothing(unproven: float) -> None:
    rates = torch.tensor([[2.0], [4.0]], dtype=torch.float64)
    squares = torch.ones(1, dtype=torch.float64)
    assert head._failing(torch.full_like(rates, unproven), rates, squares).tolist() == [1.0]


@pytest.mark.parametrize("spent", [1e-280, 1e-290, 1e-295, 1e-298, 1e-305, 1e-320])
@pytest.mark.parametrize("name", chains.NAMES)
def test_nothing_is_proven_by_ends_that_are_infinite(name: str, spent: float) -> None:
    chain, x, y = chains.samples(name, 2)
    for sigma in (1.0, 10.0):
        logits = chains.draws(chain, x, sigma, COUNT, torch.Generator().manual_seed(2))[-1]
        wrong = (logits.argmax(2) != y).double().mean(0)
        bounds = sobolev.failure(chain, x, y, sigma, spent).probability
        assert bool((bounds >= wrong - 6.0 * (wrong / COUNT).sqrt()).all())


def test_an_event_that_gains_nothing_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise of the last layer no spread can be more than the 0 that it is."""
    assert spreads(monkeypatch, "average", 0.1, 0.03)[2].spreads == 2
    silent = chains.dense

    def dense(*args: Any) -> Dense:
        layer = silent(*args)
        return replace(layer, weight_size=layer.weight_size * 0.0) if args[2] == 3 else layer

    monkeypatch.setattr(chains, "dense", dense)
    _, _, failures = spreads(monkeypatch, "average", 0.1, 0.03)
    assert failures.spreads == 0
