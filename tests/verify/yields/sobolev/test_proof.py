from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import binom

from tests.verify.yields.sobolev import chains
from thetabox.verify.yields import sobolev
from thetabox.verify.yields.chain import Chain, ChainConvolution, ChainPool, ChainStage, Dense
from thetabox.verify.yields.sobolev import proof
from thetabox.verify.yields.sobolev.patterns import Used

DRAWS = 10_000
CHANCE = 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", chains.NAMES)
@pytest.mark.parametrize("seeds", [(0,), pytest.param((1, 2, 3), marks=pytest.mark.long)])
def test_draws_do_not_contradict_a_proof(name: str, seeds: tuple[int, ...]) -> None:
    claims, spreads = 0, 0.0
    for seed in seeds:
        chain, x, y = chains.samples(name, 5, seed)
        for sigma in (0.03, 0.12):
            logits = chains.draws(chain, x, sigma, DRAWS, torch.Generator().manual_seed(7))[-1]
            own = logits.gather(2, y[None, :, None].expand(DRAWS, -1, 1))
            wrong = (logits.scatter(2, y[None, :, None].expand(DRAWS, -1, 1), -torch.inf) >= own).any(2).sum(0)
            for spent in (0.4, 0.02):
                failure = sobolev.failure(chain, x, y, sigma, spent)
                found = failure.probability
                tail = torch.as_tensor(binom.sf(wrong.numpy() - 1, DRAWS, found.numpy()))
                assert not bool((tail < CHANCE).any()), (sigma, spent, wrong / DRAWS, found)
                # The sum of what all groups fail with.
                whole = sum(part for _, part in failure.events.values())
                assert bool(((found == 1.0) | (found >= whole) & (found <= whole * (1.0 + 1e-8))).all())
                groups = {*sobolev.events(chain, (x.shape[1], x.shape[2], x.shape[3])), "margins"} - {"margin spreads"}
                assert all(bool((failure.events[g][1][found < 1.0] > 0.0).all()) for g in groups)
                claims += int((found < 1.0).sum())
                count, part = failure.events["margin spreads"]
                share = sobolev.events(chain, (x.shape[1], x.shape[2], x.shape[3]))["margin spreads"][1]
                spreads += float(count.sum())
                torch.testing.assert_close(part, count * (spent * share / 2))
    assert spreads > 0 or name not in ("plain", "average")
    assert claims >= 7 * len(seeds)


def test_less_noise_and_a_larger_margin_fail_less_often() -> None:
    chain, x, y = chains.samples("two", 4)
    small, large = (sobolev.failure(chain, x, y, sigma, 0.01).probability for sigma in (0.01, 0.05))
    assert bool((small <= large + 1e-12).all())
    assert bool((small < 0.011).all())


def test_a_wrong_label_is_never_proven() -> None:
    chain, x, y = chains.samples("plain", 6)
    assert sobolev.failure(chain, x, (y + 1) % 3, 0.02, 0.01).probability.tolist() == [1.0] * 6


def test_samples_that_are_wrong_without_noise_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in chains.NAMES:
        chain, x, y = chains.samples(name, 4)
        logits = chains.forward(chain, x)[-1]
        torch.testing.assert_close(proof._without_noise(chain, x), logits, rtol=1e-12, atol=1e-12)
        looked: list[int] = []

        def one(*args: Any, looked: list[int] = looked) -> tuple[float, dict[str, Used]]:
            looked.append(args[3])
            return 0.5, {"later places": Used(3, 0.25)}

        monkeypatch.setattr(proof, "_one", one)
        labels = torch.where(torch.tensor([True, False, True, False]), y, (y + 1) % 3)
        assert sobolev.failure(chain, x, labels, 0.1, 0.01).probability.tolist() == [0.5, 1.0, 0.5, 1.0]
        assert sobolev.failure(chain, x, labels, 0.1, 0.01).spent.tolist() == [0.25, 0.0, 0.25, 0.0]
        assert looked == 2 * labels[::2].tolist()


def test_nothing_is_proven_where_nothing_is_spent() -> None:
    chain, x, y = chains.samples("plain", 2)
    for sigma, spent in ((0.0, 0.1), (0.1, 0.0), (0.1, 1.0), (float("nan"), 0.1), (0.1, 5e-324)):
        assert sobolev.failure(chain, x, y, sigma, spent).probability.tolist() == [1.0, 1.0]
    assert sobolev.failure(chain, x[:0], y[:0], 0.1, 0.1).probability.shape == (0,)


def test_events_are_counted() -> None:
    chain, shape = chains.chain("two")
    events = sobolev.events(chain, shape)
    # 3 channels of 4x4 places of four candidates: 8 each; 4 of 2x2: 22 each; two ends of each mean and each value.
    counts = {group: count for group, (count, _) in events.items()}
    assert counts == {"first places": 48 * 8, "later places": 16 * 22, "dense means": 22, "dense values": 22} | {
        "margin spreads": 2
    }
    assert sum(share for _, share in events.values()) <= 1.0 + 1e-15
    without, shape = chains.chain("average")
    assert set(sobolev.events(without, shape)) == {"first places", "later places", "margin spreads"}
    # 3 channels of 4x3 places of two candidates; 4 channels without a pool.
    assert sobolev.events(without, shape)["later places"][0] % 4 == 0


def test_which_chains_fit() -> None:
    two, _ = chains.chain("two")
    first, second, hidden, *rest = two.stages
    assert all(sobolev.fits(chains.chain(name)[0]) for name in chains.NAMES)
    for stages in (
        (hidden, *rest),
        (first, second),
        (first, hidden, second, *rest),
        (first, ChainStage(second.layer, relu=False), hidden, *rest),
        (first, second, hidden, *rest[:-1], ChainStage(rest[-1].layer, relu=True)),
        (first, second, ChainStage(hidden.layer, average=ChainPool(False, (2, 2), (2, 2))), *rest),
        (),
    ):
        assert not sobolev.fits(Chain(stages))


def silent(layer: ChainConvolution | Dense, *, but: bool = False) -> ChainConvolution | Dense:
    """A layer without errors, unless it is the one."""
    factor = 1.0 if but else 0.0
    return replace(layer, weight_size=layer.weight_size * factor, bias_size=layer.bias_size * factor)


@pytest.mark.slow
@pytest.mark.parametrize("noisy", [0, 1, 2, 3, 4])
def test_the_noise_of_every_single_layer_counts(noisy: int) -> None:
    chain, x, y = chains.samples("two", 1, seed=2)
    stages = [replace(s, layer=silent(s.layer, but=n == noisy)) for n, s in enumerate(chain.stages)]
    chain = Chain(tuple(stages))
    found = []
    for sigma in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6):
        logits = chains.draws(chain, x, sigma, DRAWS, torch.Generator().manual_seed(0))[-1]
        wrong = int((logits.argmax(2) != y).any(1).sum())
        bound = float(sobolev.failure(chain, x, y, sigma, 1e-3).probability)
        assert binom.sf(wrong - 1, DRAWS, bound) > CHANCE
        found.append((wrong / DRAWS, bound))
    # Errors that flip the answer often are never called harmless.
    assert any(share > 0.02 for share, _ in found)


@pytest.mark.parametrize("name", ["average"])
def test_the_last_layer_alone_is_gaussian(name: str) -> None:
    chain, x, y = chains.samples(name, 3, seed=0)
    last = chain.stages[-1].layer
    chain = Chain(tuple(replace(s, layer=silent(s.layer, but=s.layer is last)) for s in chain.stages))
    h = chains.forward(chain, x)[-2].flatten(1)
    logits = chains.forward(chain, x)[-1]
    sigma, spent = 0.15, 1e-9
    for n, label in enumerate(y.tolist()):
        others = [k for k in range(3) if k != label]
        margin = logits[n, label] - logits[n, others]
        variances = last.weight_size.square() @ h[n].square() + last.bias_size.square()
        spread = sigma * (variances[label] + variances[others]).sqrt()
        exact = torch.special.ndtr(-margin / spread)
        bound = float(sobolev.failure(chain, x[n : n + 1], y[n : n + 1], sigma, spent).probability)
        assert bound >= float(exact.max())
        # At λ that are spaced for tails of some 1e-9; Markov alone gives more than twice away.
        markov = (-0.5 * (margin / spread).square()).exp()
        assert bound <= 3.0 * float((-0.25 * (margin / spread).square()).exp().sum()) + 1e-8
        assert bound <= 0.6 * float(markov.sum()) + 1e-8 or float(markov.max()) < 1e-4
