"""One hidden layer of three units whose biases are off: the failure probability by quadrature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify.yields import networks
from tests.verify.yields.test_never_contradicted import DRAWS, contradicted
from thetabox.noise import Noise
from thetabox.verify.yields.certify import certify_yield

# Midpoints of equal parts of [-6, 6], outside of which a standard normal number lies with 2e-9.
POINTS = 72


def exact(model: nn.Sequential, x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """Of every sample, by the midpoint rule in three dimensions, the last of them summed by its distribution."""
    first, last = model[0], model[2]
    n = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS * 12.0 - 6.0
    weight = torch.exp(-0.5 * n * n) * (12.0 / POINTS) / (2.0 * torch.pi) ** 0.5
    error = torch.cartesian_prod(n, n, n)
    mass = (weight[:, None, None] * weight[None, :, None] * weight[None, None, :]).reshape(-1)
    found = torch.zeros(len(x), dtype=torch.float64)
    with torch.no_grad():
        for k, sample in enumerate(x):
            z = first(sample) + sigma * first.bias.abs() * error
            logits = last(z.relu())
            own = logits[:, y[k]]
            others = logits.clone()
            others[:, y[k]] = -torch.inf
            found[k] = (mass * (own <= others.amax(1))).sum()
    return found


@pytest.mark.thin(5)
@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_one_hidden_layer_by_quadrature(seed: int, sigma: float) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3)).double().eval()
    x = torch.randn(6, 4, dtype=torch.float64)
    y = model(x).argmax(1)
    truth = exact(model, x, y, sigma)
    box = tb.Box(include="0.bias")
    for delta in (0.5, 0.1, 0.01):
        found = certify_yield(model, x, y, sigma, delta, box=box).delta[0]
        # What the rule may be off by where the margin changes its sign inside of a cell.
        assert bool((found >= truth - 4.0 / POINTS * truth.clamp(min=1e-3)).all()), (truth, found)
    assert bool((found < 1.0).any())


@pytest.mark.thin(quick=7)
@pytest.mark.parametrize("noise", [networks.uniform, networks.two_points, networks.truncated])
@pytest.mark.parametrize("name", ["one layer", "two layers", "convolutions"])
def test_draws_of_other_errors_do_not_contradict_a_claim_of_all_of_them(name: str, noise: networks.Draw) -> None:
    model, x = networks.network(name, seed=2)
    y = model(x).argmax(1)
    for sigma in (0.02, 0.1):
        wrong = networks.failures(model, x, y, sigma, DRAWS, noise)
        for delta in (0.5, 0.1):
            proven = certify_yield(model, x, y, sigma, delta, noise=Noise("subgaussian")).delta[0]
            assert not bool(contradicted(wrong, proven).any())
        assert bool((proven < 1.0).any())
