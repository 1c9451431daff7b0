"""Optimisers and schedules are those of the papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from thetabox.train.settings import Settings


def rates(settings: Settings) -> list[float]:
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
    found = rates(Settings(epochs=300, lr=1e-3, optimizer="sgd", schedule="steps", weight_decay=5e-4))
    expected = [1e-3] * 60 + [2e-4] * 60 + [4e-5] * 40 + [8e-6] * 140
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("epochs", [15, 30, 45, 150])
def test_steps_keep_their_places_in_shorter_trainings(epochs: int) -> None:
    found = rates(Settings(epochs=epochs, lr=1.0, schedule="steps"))
    assert [found.count(pytest.approx(0.2**k)) for k in range(4)] == [
        epochs // 5,
        epochs // 5,
        2 * epochs // 15,
        epochs - 8 * epochs // 15,
    ]


def test_sgd_is_nesterov_with_weight_decay() -> None:
    """v ← 0.9 v + g + λθ, θ ← θ − η (g + λθ + 0.9 v)."""
    rate, decay = 0.1, 5e-4
    parameter = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimiser = Settings(lr=rate, optimizer="sgd", weight_decay=decay).make_optimizer([parameter])
    theta, speed = parameter.detach().numpy().copy(), np.zeros(2)
    for gradient in ([0.3, 0.1], [-0.2, 0.4], [0.5, 0.5]):
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimiser.step()
        g = np.array(gradient) + decay * theta
        speed = 0.9 * speed + g
        theta = theta - rate * (g + 0.9 * speed)
        np.testing.assert_allclose(parameter.detach().numpy(), theta, rtol=0, atol=1e-12)
