"""Yield by draws: exact binomial bounds, the same chips as mismatch draws, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor, nn

import thetabox as tb
from thetabox.measure.binomial import draws_needed, probability_at_least, worst_that_counts
from thetabox.measure.drawn_chips import DrawnChips


def two_classes() -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    model, x = nn.Linear(5, 2).double(), torch.randn(12, 5, dtype=torch.float64)
    return model.eval(), x, model(x).argmax(1)


@pytest.mark.parametrize(
    ("share", "confidence", "needed"), [(0.99, 0.99, 459), (0.95, 0.95, 59), (0.9, 0.95, 29), (0.999, 0.99, 4603)]
)
def test_the_least_number_of_draws_is_that_of_wilks(share: float, confidence: float, needed: int) -> None:
    assert draws_needed(share, confidence) == needed
    assert worst_that_counts(needed, share, confidence) == 1
    assert worst_that_counts(needed - 1, share, confidence) == 0


@pytest.mark.parametrize("draws", [459, 1000, 5000])
def test_the_rank_is_the_largest_that_the_binomial_allows(draws: int) -> None:
    rank = worst_that_counts(draws, 0.99, 0.99)
    assert binom.sf(rank - 1, draws, 0.01) >= 0.99 > binom.sf(rank, draws, 0.01)


@pytest.mark.parametrize("draws", [1, 7, 40])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.999])
def test_one_probability_is_covered_as_often_as_the_confidence_says(draws: int, confidence: float) -> None:
    counts = np.arange(draws + 1)
    bounds = probability_at_least(counts, draws, confidence)
    assert bounds[0] == 0.0
    assert bool((np.diff(bounds) > 0).all())
    for p in np.linspace(0.001, 0.999, 97):
        covered = binom.pmf(counts, draws, p)[bounds <= p].sum()
        assert covered >= confidence - 1e-12
    # k of n: the tail at the bound is what is left of the confidence.
    assert binom.sf(draws - 1, draws, bounds[-1]) == pytest.approx(1.0 - confidence, rel=1e-5)


def test_draws_are_those_of_mismatch() -> None:
    model, x, y = two_classes()
    ours = tb.sampled_yield(model, x, y, [0.1, 0.5], seed=3)
    theirs = tb.mismatch(model, x, y, [0.1, 0.5], samples=459, seed=3)
    assert torch.equal(ours.accuracies, theirs.accuracy)
    assert torch.equal(ours.accuracy, theirs.min)
    torch.testing.assert_close(ours.correct.double().mean(1) / 459, ours.mean)
    again = tb.sampled_yield(model, x, y, [0.1, 0.5], seed=3)
    assert torch.equal(again.correct, ours.correct)


@pytest.mark.slow
def test_bounds_lie_below_probabilities_that_are_known() -> None:
    model, x, y = two_classes()
    sigma = 0.5
    theta = torch.cat([model.weight, model.bias[:, None]], 1).detach()
    wide = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    margin = ((theta[0] - theta[1]) @ wide.T).abs()
    truth = torch.as_tensor(norm.cdf(margin / (sigma * (wide.square() @ theta.square().sum(0)).sqrt())))
    found = [tb.sampled_yield(model, x, y, sigma, seed=seed) for seed in range(20)]
    held = [bool((one.probability[0] <= truth).all()) for one in found]
    assert sum(held) >= 19
    loose = torch.stack([one.probability[0] for one in found]).mean(0)
    assert bool((loose >= truth - 0.12).all())


def test_scale_drift_and_common_errors_are_those_of_the_noise() -> None:
    model, _, _ = two_classes()
    theta, bias = model.weight.detach(), model.bias.detach()
    noise = tb.Noise(scale={"weight": 2.0}, drift={"bias": -0.1})
    chips = DrawnChips(model, tb.Box(scale={"bias": 0.5}), noise, 0)
    stream = torch.Generator().manual_seed(4)
    n, m = torch.randn(2, 5, generator=stream), torch.randn(2, generator=stream)
    drawn = chips.weights(4, 0.3)
    torch.testing.assert_close(drawn["weight"], theta + 0.3 * 2.0 * theta.abs() * n)
    torch.testing.assert_close(drawn["bias"], 0.9 * bias + 0.3 * 0.5 * bias.abs() * m)
    alone = DrawnChips(model, tb.Box(), tb.Noise(), 0)
    shared = DrawnChips(model, tb.Box(), tb.Noise(correlated={"chip": 0.5}), 0)
    gains = [(shared.weights(4, 1.0)[k] - alone.weights(4, 1.0)[k]) / t for k, t in (("weight", theta), ("bias", bias))]
    flat = torch.cat([g.flatten() for g in gains])
    assert float(flat.std()) < 1e-9
    assert float(flat.abs().mean()) > 1e-3
    by_layer = DrawnChips(model, tb.Box(), tb.Noise(correlated={"layer": 0.5}), 0)
    gains = [
        (by_layer.weights(4, 1.0)[k] - alone.weights(4, 1.0)[k]) / t for k, t in (("weight", theta), ("bias", bias))
    ]
    assert all(float(g.std()) < 1e-9 for g in gains)
    assert abs(float(gains[0].mean() - gains[1].mean())) > 1e-3


def test_a_spiking_network_is_measured_and_stays_as_it_was() -> None:
    model = tb.models.LSNN(3, 8, 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = tb.sampled_yield(model, torch.rand(6, 10, 3), torch.randint(0, 2, (6,)), [0.0, 0.3])
    assert found.accuracies.shape == (2, 459)
    assert found.probability.shape == found.correct.shape == (2, 6)
    assert float(found.accuracy[0]) == found.clean_accuracy
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert "no proof" in found.to_json()["kind"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"draws": 458}, "459 can"),
        ({"draws": 0}, "draws is 0"),
        ({"confidence": 1.0}, "confidence is 1"),
        ({"share": 0.0}, "share is 0"),
        ({"sigma": -1.0}, "sigma"),
        ({"noise": tb.Noise("subgaussian")}, "family"),
        ({"noise": tb.Noise(drift_bound={"*": 0.1})}, "unknown drift"),
        ({"noise": tb.Noise(scale={"nothing": 1.0})}, "matches none"),
        ({"noise": 3}, "must be a thetabox.Noise"),
        ({"box": tb.Box(exclude="*")}, "no parameter"),
        ({"chunk": 0}, "chunk"),
        ({"box": 3}, "must be a thetabox.Box"),
        ({"seed": "a"}, "whole number"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: dict[str, object], words: str) -> None:
    model, x, y = two_classes()
    with pytest.raises(tb.InputError, match=words) as error:
        tb.sampled_yield(model, x, y, **({"sigma": 0.1} | arguments))  # type: ignore[arg-type]  # on purpose
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("confidence", [1.0 - 1e-10, 1.0 - 1e-13])
def test_a_confidence_next_to_one_only_needs_more_draws(confidence: float) -> None:
    needed = draws_needed(0.99, confidence)
    assert 0.99**needed <= 1.0 - confidence < 0.99 ** (needed - 2)
    model, x, y = two_classes()
    with pytest.raises(tb.InputError, match=f"{needed} can"):
        tb.sampled_yield(model, x, y, 0.1, confidence=confidence)


def test_a_chip_that_answers_nan_is_wrong() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.where(self.weight == 1.0, 3.0 * x, torch.nan * x)

    x, y = torch.tensor([[2.0, -1.0], [-1.0, 2.0]]), torch.tensor([0, 1])
    found = tb.sampled_yield(Dead(), x, y, 0.1)
    assert found.clean_accuracy == 1.0
    assert int(found.correct.sum()) == 0
    assert float(found.probability.max()) == 0.0


def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    model, x = torch.nn.Linear(2, 2), torch.eye(2)
    given = {"draws": np.int64(459), "seed": np.int32(3), "chunk": np.uint8(2), "batch": np.int64(1)}
    found = tb.sampled_yield(model, x, [0, 1], 0.1, **given)  # type: ignore[arg-type]  # of another kind
    plain = tb.sampled_yield(model, x, [0, 1], 0.1, draws=459, seed=3)
    assert torch.equal(found.accuracies, plain.accuracies)
    assert (found.draws, type(found.draws), type(found.seed)) == (459, int, int)
