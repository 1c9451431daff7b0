"""Optimisers and schedules are those of the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from thetabox.errors import InputError
from thetabox.train import fit
from thetabox.train.settings import TrainingSettings
from thetabox.train.warp import warped


def rates(settings: TrainingSettings) -> list[float]:
    """Rate of every epoch."""
    optimiser = settings.make_optimizer([nn.Parameter(torch.zeros(1))])
    schedule = settings.make_schedule(optimiser)
    found = []
    for _ in range(settings.epochs):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return found


def test_steps_of_resnet32() -> None:
    """He et al. 2015 as in arXiv 2106.05009: rate 0.001, × 0.2 after 60, 120 and 160 of 300 epochs."""
    found = rates(TrainingSettings(epochs=300, lr=1e-3, optimizer="sgd", schedule="steps", weight_decay=5e-4))
    expected = [1e-3] * 60 + [2e-4] * 60 + [4e-5] * 40 + [8e-6] * 140
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("epochs", [15, 30, 45, 150])
def test_steps_keep_their_places_in_shorter_trainings(epochs: int) -> None:
    found = rates(TrainingSettings(epochs=epochs, lr=1.0, schedule="steps"))
    assert [found.count(pytest.approx(0.2**k)) for k in range(4)] == [
        epochs // 5,
        epochs // 5,
        2 * epochs // 15,
        epochs - 8 * epochs // 15,
    ]


@pytest.mark.parametrize("epochs", [10, 150])
def test_late_cosine_falls_behind_six_tenths(epochs: int) -> None:
    found = rates(TrainingSettings(epochs=epochs, lr=0.3, schedule="late-cosine"))
    held = 6 * epochs // 10
    assert found[: held + 1] == [0.3] * (held + 1)
    falling = [0.15 * (1 + math.cos(math.pi * n / (epochs - held))) for n in range(epochs - held)]
    assert found[held:] == pytest.approx(falling)


def test_sgd_is_nesterov_with_weight_decay() -> None:
    """v ← 0.9 v + g + λθ, θ ← θ − η (g + λθ + 0.9 v)."""
    rate, decay = 0.1, 5e-4
    parameter = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimiser = TrainingSettings(lr=rate, optimizer="sgd", weight_decay=decay).make_optimizer([parameter])
    theta, speed = parameter.detach().numpy().copy(), np.zeros(2)
    for gradient in ([0.3, 0.1], [-0.2, 0.4], [0.5, 0.5]):
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimiser.step()
        g = np.array(gradient) + decay * theta
        speed = 0.9 * speed + g
        theta = theta - rate * (g + 0.9 * speed)
        np.testing.assert_allclose(parameter.detach().numpy(), theta, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("optimizer", "clip"), [("sgd", 0.0), ("adam", 0.7)])
def test_inverse_weight_decay(optimizer: str, clip: float) -> None:
    """θ ← (1 + ηλ)(θ − step) after every step of the loop, with η as the schedule has it; 2 · 2 steps by hand."""
    rate, growth, epochs = 0.05, 0.4, 2
    random = np.random.default_rng(0)
    x, y = random.normal(size=(6, 3)), np.array([0, 1, 1, 0, 1, 0])
    model = nn.Linear(3, 2).double()
    theta = np.concatenate([model.weight.detach().numpy(), model.bias.detach().numpy()[:, None]], 1)
    order = torch.Generator().manual_seed(0)
    first = second = np.zeros_like(theta)
    seen = []
    for epoch in range(epochs):
        eta = rate * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        for rows in torch.randperm(6, generator=order).numpy().reshape(2, 3):
            inputs = np.concatenate([x[rows], np.ones((3, 1))], 1)
            z = inputs @ theta.T
            p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
            g = (p - np.eye(2)[y[rows]]).T @ inputs / 3
            if clip:
                g = g * min(1.0, clip / (np.sqrt((g**2).sum()) + 1e-6))
            n = len(seen) + 1
            if optimizer == "sgd":
                first = 0.9 * first + g
                theta = theta - eta * (g + 0.9 * first)
            else:
                first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
                theta = theta - eta * (first / (1 - 0.9**n)) / (np.sqrt(second / (1 - 0.999**n)) + 1e-8)
            theta = (1 + eta * growth) * theta
            seen.append(theta)
    data = (torch.tensor(x), torch.tensor(y))
    result = fit(
        model,
        data,
        data,
        epochs=epochs,
        batch_size=3,
        lr=rate,
        optimizer=optimizer,
        schedule="cosine",
        clip_norm=clip,
        inverse_weight_decay=growth,
        seed=0,
        device="cpu",
        progress=False,
    )
    expected = seen[2 * result.best_epoch - 1]
    np.testing.assert_allclose(model.weight.detach().numpy(), expected[:, :3], rtol=0, atol=1e-9)
    np.testing.assert_allclose(model.bias.detach().numpy(), expected[:, 3], rtol=0, atol=1e-9)


@pytest.mark.parametrize("warp", [-0.1, 1.1, float("nan")])
def test_warp_is_a_share(warp: float) -> None:
    with pytest.raises(InputError, match="warp is"):
        TrainingSettings(warp=warp)


def test_a_share_of_the_images_is_warped() -> None:
    x = torch.rand(400, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    once = TrainingSettings(warp=0.25).augment(x, torch.Generator().manual_seed(0))
    changed = (once != x).flatten(1).any(1)
    assert 60 <= int(changed.sum()) <= 140
    assert once.min() >= 0
    assert once.max() <= 1
    again = TrainingSettings(warp=0.25).augment(x, torch.Generator().manual_seed(0))
    assert torch.equal(once, again)
    everything = TrainingSettings(warp=1.0).augment(x, torch.Generator().manual_seed(0))
    assert (everything != x).flatten(1).any(1).all()
    # Sequences and rows of features are no images.
    for other in (x[:, 0], x.flatten(1)):
        assert torch.equal(TrainingSettings(warp=1.0).augment(other, torch.Generator().manual_seed(0)), other)


def test_a_warp_is_small() -> None:
    """A disk in the middle keeps its mass within the changes of size, and its centre within the largest shift."""
    place = torch.arange(16.0) - 7.5
    disk = ((place[:, None] ** 2 + place**2) < 16).float().expand(300, 1, 16, 16)
    found = warped(disk, torch.Generator().manual_seed(0))[:, 0]
    mass = found.sum((1, 2))
    assert (mass / disk[0].sum()).sub(1).abs().max() < 0.3
    for axis in (1, 2):
        centre = (found.sum(3 - axis) * place).sum(1) / mass
        assert 0.4 < centre.abs().max() < 0.8  # up to 0.6 pixels, a little more where a size changes too
        assert centre.mean().abs() < 0.1


def test_inverse_weight_decay_must_not_be_negative() -> None:
    with pytest.raises(InputError, match="inverse_weight_decay is -1"):
        TrainingSettings(inverse_weight_decay=-1)
