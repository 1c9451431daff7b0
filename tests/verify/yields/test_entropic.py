"""Failure probabilities of dense networks: against exact ones, and never contradicted by draws."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor

import thetabox as tb
from tests.verify.yields.networks import dense
from thetabox.verify.yields import entropic
from thetabox.verify.yields.chain import Chain, ChainConvolution, ChainPool, ChainStage, Dense
from thetabox.verify.yields.entropic import DenseLayer, EntropicWalk, events, failure, fits

# Probability with which draws of a true claim would contradict it.
CHANCE = 1e-8


def chain_of(model: torch.nn.Module) -> Chain:
    """Of dense layers with ReLU between, relative noise."""
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    stages = []
    for n, m in enumerate(layers):
        weight, bias = m.weight.detach().double(), m.bias.detach().double()
        stages.append(ChainStage(Dense(weight, bias, weight.abs(), bias.abs()), relu=n < len(layers) - 1))
    return Chain(tuple(stages))


def random_chain(*sizes: int, seed: int = 0) -> tuple[Chain, Tensor, Tensor]:
    """A network, and twelve inputs with the labels that it gives them."""
    torch.manual_seed(seed)
    model, x = dense(*sizes).double(), torch.randn(12, sizes[0], dtype=torch.float64) * 2.0
    with torch.no_grad():
        return chain_of(model), x, model(x).argmax(1)


def trained_chain() -> tuple[Chain, Tensor, Tensor]:
    """A network that knows four clouds, with a noise of its weights."""
    torch.manual_seed(5)
    stream = torch.Generator().manual_seed(5)
    centres = torch.randn(4, 6, generator=stream, dtype=torch.float64) * 1.5
    y = torch.randint(0, 4, (400,), generator=stream)
    x = centres[y] + 0.3 * torch.randn(400, 6, generator=stream, dtype=torch.float64)
    model = dense(6, 16, 12, 4).double()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        exact = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            for p in model.parameters():
                p += 0.2 * p.abs() * torch.randn(p.shape, generator=stream, dtype=torch.float64)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for p, old in zip(model.parameters(), exact, strict=True):
                p.copy_(old)
        optimiser.step()
    return chain_of(model), x[:12], y[:12]


def drawn(chain: Chain, x: Tensor, sigma: float, draws: int, seed: int = 1) -> Tensor:
    """Logits ``[draws, samples, classes]``."""
    stream = torch.Generator().manual_seed(seed)
    h = x.expand(draws, -1, -1)
    for stage in chain.stages:
        layer = stage.layer
        noise = [
            torch.randn(draws, *t.shape, generator=stream, dtype=torch.float64) for t in (layer.weight, layer.bias)
        ]
        weight = layer.weight + sigma * layer.weight_size * noise[0]
        h = h @ weight.transpose(1, 2) + (layer.bias + sigma * layer.bias_size * noise[1])[:, None]
        h = h.relu() if stage.relu else h
    return h


def wrong(logits: Tensor, y: Tensor) -> Tensor:
    own = logits.gather(2, y.expand(len(logits), -1)[..., None])[..., 0]
    others = logits.scatter(2, y.expand(len(logits), -1)[..., None], -torch.inf).amax(2)
    return (own <= others).double().sum(0)


def test_a_single_layer_has_its_exact_probability() -> None:
    chain, x, y = random_chain(6, 2)
    layer = chain.stages[0].layer
    for sigma in (0.05, 0.3, 1.0):
        other = 1 - y
        margin = ((layer.weight[y] - layer.weight[other]) * x).sum(1) + layer.bias[y] - layer.bias[other]
        spread = sigma * (((layer.weight**2).sum(0) * x * x).sum(1) + (layer.bias**2).sum()).sqrt()
        exact = torch.as_tensor(norm.sf((margin / spread).numpy()))
        found = failure(chain, x, y, sigma, 0.0)
        assert bool((found >= exact).all())
        torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-290)


def test_a_hidden_layer_is_bounded_close_to_its_integral() -> None:
    chain, x, y = random_chain(3, 2, 2, seed=1)
    first, last = (s.layer for s in chain.stages)
    grid = torch.linspace(-9.0, 9.0, 361, dtype=torch.float64)
    density = torch.exp(-0.5 * grid * grid)
    density = density / density.sum()
    sigma, spent = 0.2, 1e-4
    found = failure(chain, x, y, sigma, spent)
    useful = 0
    for n in range(len(x)):
        mean = first.weight @ x[n] + first.bias
        spread = sigma * ((first.weight**2) @ x[n] ** 2 + first.bias**2).sqrt()
        h = (mean[:, None] + spread[:, None] * grid).relu()
        own, other = int(y[n]), 1 - int(y[n])
        row, bias = last.weight[own] - last.weight[other], last.bias[own] - last.bias[other]
        square, free = (last.weight**2).sum(0), (last.bias**2).sum()
        m = row[0] * h[0][:, None] + row[1] * h[1][None] + bias
        s = sigma * (square[0] * h[0][:, None] ** 2 + square[1] * h[1][None] ** 2 + free).sqrt()
        exact = float((torch.special.ndtr(-m / s) * density[:, None] * density[None]).sum())
        assert float(found[n]) >= exact * 0.999
        if 1e-12 < exact < 0.02:
            useful += 1
            assert float(found[n]) <= spent + 20.0 * exact + 1e-12
    assert useful >= 3


CASES = [
    *[(f"random {seed}", random_chain(6, 8, 8, 8, 3, seed=seed)) for seed in range(3)],
    ("wide", random_chain(6, 40, 3, seed=3)),
    ("trained", trained_chain()),
]  # networks, one to a line  # fmt: skip


@pytest.mark.thin(2, quick=5)
@pytest.mark.parametrize("case", CASES, ids=[name for name, _ in CASES])
@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2, 0.35])
def test_draws_never_contradict_a_probability(case: tuple[str, tuple[Chain, Tensor, Tensor]], sigma: float) -> None:
    (chain, x, y), draws = case[1], 4000
    count = wrong(drawn(chain, x, sigma, draws), y)
    for delta in (0.5, 0.3, 0.1, 0.01):
        found = failure(chain, x, y, sigma, delta / 2.0)
        claimed = found < 1.0
        chance = torch.as_tensor(binom.sf((count - 1.0).numpy(), draws, found.numpy()))
        assert bool((chance[claimed] > CHANCE).all())
        assert bool((found[claimed] >= delta / 2.0).all())


def test_something_is_proven() -> None:
    chain, x, y = trained_chain()
    assert bool((failure(chain, x, y, 0.1, 0.005) <= 0.01).double().mean() >= 0.9)
    assert bool((failure(chain, x, y, 0.2, 0.005) <= 0.01).double().mean() >= 0.5)


def masked(chain: Chain, *exact: int) -> Chain:
    """The same with some layers, and a third of all other weights, without errors."""
    stages = []
    for n, stage in enumerate(chain.stages):
        layer = stage.layer
        some = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(n)) > 1.0 / 3.0
        keep = 0.0 if n in exact else 1.0
        stages.append(
            replace(
                stage,
                layer=replace(layer, weight_size=layer.weight_size * some * keep, bias_size=layer.bias_size * keep),
            )
        )
    return Chain(tuple(stages))


@pytest.mark.parametrize("exact", [(), (0,), (1,), (2,), (0, 1), (1, 2), (0, 2)])
def test_parameters_without_errors_are_taken_as_such(exact: tuple[int, ...]) -> None:
    chain, x, y = trained_chain()
    chain, draws = masked(chain, *exact), 4000
    count = wrong(drawn(chain, x, 0.3, draws), y)
    found = failure(chain, x, y, 0.3, 0.01)
    assert bool((found < 0.5).any())
    assert bool((torch.as_tensor(binom.sf((count - 1.0).numpy(), draws, found.numpy())) > CHANCE)[found < 1].all())


def test_without_errors_at_all_a_right_sample_fails_with_what_is_spent_alone() -> None:
    chain, x, y = trained_chain()
    found = failure(masked(chain, 0, 1, 2), x, y, 0.3, 0.01)
    right = drawn(chain, x, 0.0, 1)[0].argmax(1) == y
    assert right.double().mean() > 0.8
    torch.testing.assert_close(found, torch.where(right, 0.01, 1.0).double(), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("probability", [0.1, 0.003])
def test_boxes_of_means_and_spreads_hold_as_often_as_the_ledger_says(probability: float) -> None:
    chain, x, _ = trained_chain()
    chain = Chain((*chain.stages[:-1], replace(chain.stages[1], layer=_square(12)), chain.stages[-1]))
    layers = [DenseLayer.of(s.layer) for s in chain.stages]
    sigma, draws = 0.3, 3000
    # Events that are far from certain.
    walk = EntropicWalk(layers, x, torch.full((len(x),), sigma, dtype=torch.float64))
    cost = torch.full((len(x), 1), -math.log(probability), dtype=torch.float64)
    for place in (1, 2):
        walk.go_on(cost, cost)
        layer, box = chain.stages[place].layer, walk.neurons[place]
        h = drawn(Chain(chain.stages[:place]), x, sigma, draws)
        mean = h @ layer.weight.T + layer.bias
        spread = sigma * (h.square() @ layer.weight_size.square().T + layer.bias_size.square()).sqrt()
        beyond = [mean < box.lower, mean > box.upper, spread < box.least, spread > box.most]
        for end in beyond:
            often = end.double().sum(0)
            # Those draws count as well in which a box of a layer before fails: they only make it harder.
            allowed = min(1.0, probability * (1 + 4 * 12 * (place - 1)))
            assert bool((torch.as_tensor(binom.sf((often - 1.0).numpy(), draws, allowed)) > CHANCE).all())
            assert place == 2 or probability < 0.1 or float(often.amax()) > 0.0


def _square(units: int) -> Dense:
    weight = torch.randn(units, units, generator=torch.Generator().manual_seed(8), dtype=torch.float64) / 3.0
    bias = torch.zeros(units, dtype=torch.float64)
    return Dense(weight, bias, weight.abs(), bias)


def test_more_noise_or_more_spent_of_several_samples_are_each_their_own() -> None:
    chain, x, y = random_chain(6, 8, 8, 3)
    sigma = torch.linspace(0.01, 0.3, len(x), dtype=torch.float64)
    spent = torch.logspace(-6, -1, len(x), dtype=torch.float64)
    together = failure(chain, x, y, sigma, spent)
    for n in range(len(x)):
        alone = failure(chain, x[n : n + 1], y[n : n + 1], float(sigma[n]), float(spent[n]))
        torch.testing.assert_close(alone, together[n : n + 1], rtol=1e-9, atol=0.0)


def test_chunks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, x, y = random_chain(6, 8, 8, 3)
    whole = failure(chain, x, y, 0.1, 0.01)
    monkeypatch.setattr(entropic, "NUMBERS", 1)
    torch.testing.assert_close(failure(chain, x, y, 0.1, 0.01), whole, rtol=1e-9, atol=0.0)


def test_a_tie_is_wrong() -> None:
    chain, x, y = random_chain(6, 8, 8, 3)
    last = chain.stages[-1].layer
    same = replace(last, weight=last.weight[:1].repeat(3, 1), bias=last.bias[:1].repeat(3))
    tied = Chain((*chain.stages[:-1], replace(chain.stages[-1], layer=same)))
    for sigma in (0.0, 1e-9, 0.1):
        assert bool((failure(tied, x, y, sigma, 0.01) == 1.0).all())


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200, 1e308])
@pytest.mark.parametrize("place", ["x", "weight", "size", "sigma"])
def test_what_overflows_proves_nothing(place: str, bad: float) -> None:
    chain, x, y = random_chain(6, 8, 8, 3)
    hidden = chain.stages[1].layer
    if place == "x":
        x = x * bad
    elif place in ("weight", "size"):
        name = "weight" if place == "weight" else "weight_size"
        changed = replace(hidden, **{name: torch.full_like(hidden.weight, bad)})
        chain = Chain((chain.stages[0], replace(chain.stages[1], layer=changed), chain.stages[2]))
    found = failure(chain, x, y, bad if place == "sigma" else 0.1, 0.01)
    assert bool((found == 1.0).all())


def test_nothing_is_proven_where_nothing_may_be_spent_on_events_that_are_needed() -> None:
    chain, x, y = random_chain(6, 8, 3)
    assert bool((failure(chain, x, y, 0.1, 0.0) > 0.0).all())
    deep, x, y = random_chain(6, 8, 8, 3)
    assert bool((failure(deep, x, y, 0.1, 0.0) == 1.0).all())


def test_events_are_counted_and_share_one_whole() -> None:
    assert {g: c for g, (c, _) in events(random_chain(6, 8, 7, 5, 3)[0]).items()} == {
        "means": 24,
        "spreads": 24,
        "margin spreads": 2,
    }
    assert events(random_chain(6, 8, 3)[0])["margin spreads"] == (2, 1.0)
    for sizes in ((6, 8, 7, 5, 3), (6, 8, 3)):
        assert sum(share for _, share in events(random_chain(*sizes)[0]).values()) == pytest.approx(1.0, abs=1e-12)
    assert all(count == share == 0 for count, share in events(random_chain(6, 3)[0]).values())


def test_it_fits_dense_layers_with_relu_between() -> None:
    chain, _, _ = random_chain(6, 8, 8, 3)
    assert fits(chain)
    assert fits(Chain(chain.stages[-1:]))
    first, last = chain.stages[0], chain.stages[-1]
    kernel = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    conv = ChainConvolution(kernel, kernel.flatten(), kernel, kernel.flatten(), (1, 1), (0, 0, 0, 0))
    pool = ChainPool(True, (2, 2), (2, 2))
    for stages in (
        (first, replace(last, relu=True)),
        (replace(first, relu=False), last),
        (replace(first, largest=pool), last),
        (replace(first, average=replace(pool, largest=False)), last),
        (ChainStage(conv), last),
    ):
        assert not fits(Chain(stages))


def test_no_samples_are_no_probabilities() -> None:
    chain, x, y = random_chain(6, 8, 8, 3)
    assert failure(chain, x[:0], y[:0], 0.1, 0.01).shape == (0,)


@pytest.mark.parametrize("size", [1.0, 1e20, 1e150])
def test_errors_whose_squares_underflow_are_not_lost(size: float) -> None:
    first, last = torch.nn.Linear(1, 1), torch.nn.Linear(1, 2)
    model = torch.nn.Sequential(first, torch.nn.ReLU(), last).double()
    with torch.no_grad():
        first.weight.fill_(1.0 / size)
        first.bias.fill_(-0.99)
        last.weight.copy_(torch.tensor([[0.0], [100.0]], dtype=torch.float64))
        last.bias.copy_(torch.tensor([2.0, 0.0], dtype=torch.float64))
    # h = .01 ± .1: every second chip answers the other class.
    box = tb.Box(include="0.weight")
    x = torch.tensor([[size]], dtype=torch.float64)
    for method in ("entropic", "martingale"):
        found = tb.certify_yield(model, x, [0], 0.1, 0.1, method=method, box=box)
        assert float(found.delta) > 0.4
