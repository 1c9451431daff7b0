"""A proven failure probability is never below what draws show, up to what the draws themselves can say."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn
from torch.func import functional_call

import thetabox as tb
from tests.verify.yields import networks
from thetabox.verify.yields.certify import certify_yield
from thetabox.verify.yields.question import YieldQuestion
from thetabox.verify.yields.search import FIRST

DRAWS = 10_000
# Probability with which draws of a true claim would contradict it; some thousand claims are tested.
CHANCE = 1e-9


def contradicted(failures: Tensor, delta: Tensor) -> Tensor:
    """Samples whose failures in the draws are too many for their bound."""
    tail = binom.sf(failures.numpy() - 1, DRAWS, delta.clamp(max=1.0).numpy())
    return torch.as_tensor(tail) < CHANCE


def check(model: nn.Module, x: Tensor, y: Tensor, sigmas: tuple[float, ...], least: int) -> None:
    """Every claim of every proof of these samples, at large and small failure probabilities, against draws."""
    claims = 0
    question = YieldQuestion.of(model, x, y, torch.tensor(sigmas, dtype=torch.float64), None, None, "auto", "cpu")
    for sigma in sigmas:
        wrong = networks.failures(model, x, y, sigma, DRAWS)
        for proof, delta in product(question.proofs, (0.5, 0.3, 0.1, 0.01)):
            row, spent = torch.full((2, len(y)), sigma, dtype=torch.float64)
            found = proof.failure(question.x, question.y, row, spent.fill_(FIRST * delta)).probability
            assert not bool(contradicted(wrong, found).any()), (proof.name, sigma, delta, wrong / DRAWS, found)
            claims += int((found < 1.0).sum())
    # The smallest of all, where as little or much is spent as helps.
    proven = certify_yield(model, x[:3], y[:3], sigma, 0.1).delta[0]
    assert not bool(contradicted(wrong[:3], proven).any()), (sigma, wrong / DRAWS, proven)
    assert claims >= least


@pytest.mark.thin(7, quick=5)
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_draws_do_not_contradict_a_proof(name: str) -> None:
    model, x = networks.network(name, seed=1)
    # Of attention little is proven at these σ.
    x = x[:5] if name == "tied images" else x
    check(model, x, model(x).argmax(1), (0.01, 0.1), 3 if name == "attention" else 20)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_draws_do_not_contradict_a_proof_of_a_trained_network(kind: str) -> None:
    torch.manual_seed(0)
    train, held = tb.data.load("digits", "train"), tb.data.load("digits", "test")
    if kind == "dense":
        model = nn.Sequential(nn.Flatten(), networks.dense(64, 32, 16, 10))
    else:
        model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 10))
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    x, y = torch.as_tensor(train.x).float(), torch.as_tensor(train.y)
    for _ in range(6):
        for batch in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            weights = {k: p * (1.0 + 0.2 * torch.randn_like(p)) for k, p in model.named_parameters()}
            nn.functional.cross_entropy(functional_call(model, weights, (x[batch],)), y[batch]).backward()
            optimiser.step()
    x, y = torch.as_tensor(held.x)[:16].double(), torch.as_tensor(held.y)[:16]
    check(model.double().eval(), x, y, (0.05, 0.15), 60)
