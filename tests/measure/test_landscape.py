"""The loss landscape: the loss written out along its directions, flatness by hand, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.measure import LandscapeResult, landscape
from thetabox.models import LSNN


def linear() -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3)).double()
    x = torch.randn(9, 4, dtype=torch.float64)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


@pytest.mark.parametrize("batch", [1, 6, None])
def test_the_loss_along_each_direction_written_out(batch: int | None) -> None:
    model, x, y = linear()
    alpha = np.linspace(-2, 2, 9)
    found = landscape(model, x, y, alpha, 3, zeta=0.4, seed=5, batch=batch)
    weight, bias = (p.detach().numpy() for p in model.parameters())
    for direction in range(3):
        stream = torch.Generator().manual_seed(5 * 1_000_003 + direction)
        xi = [torch.randn(t.shape, generator=stream).double().numpy() for t in (weight, bias)]
        for a, step in enumerate(alpha):
            w, b = (t + step * 0.4 * np.abs(t) * d for t, d in zip((weight, bias), xi, strict=True))
            logits = x.numpy() @ w.T + b
            loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(9), y.numpy()]
            assert float(found.loss[direction, a]) == pytest.approx(loss.mean(), rel=1e-12)
    assert torch.allclose(found.mean, found.loss.mean(0))
    assert float(found.loss[:, 4].std()) < 1e-12


def test_flatness_by_hand() -> None:
    """L = 3|α|: smoothed slopes are ∓3 but for the windows across 0."""
    alpha = torch.linspace(-2, 2, 9, dtype=torch.float64)
    v = LandscapeResult(alpha, torch.stack([2 * alpha.abs(), 4 * alpha.abs()]), 0.2, 0, Box(), 0.0)
    # Windows of 5 around −1 … 1: means of 3·|α| are 3, 2.1, 1.8, 2.1, 3, half a unit of α apart.
    assert v.flatness == pytest.approx((0.9 + 0.3 + 0.3 + 0.9) / 4 / 0.5)
    straight = LandscapeResult(alpha, 0.7 * alpha[None] + 9, 0.2, 0, Box(), 0.0)
    assert straight.flatness == pytest.approx(0.7)
    short = LandscapeResult(alpha[:2], torch.tensor([[1.0, 4.0]], dtype=torch.float64), 0.2, 0, Box(), 0.0)
    assert short.flatness == pytest.approx(6)


def test_defaults_on_spikes() -> None:
    torch.manual_seed(0)
    model, x = LSNN(3, 10, 3), torch.randn(12, 10, 3)
    with torch.no_grad():
        y = model(x).argmax(1)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    calls: list[tuple[int, int]] = []
    found = landscape(model, x, y, progress=lambda a, b: calls.append((a, b)))
    assert found.loss.shape == (5, 51)
    assert found.alpha.tolist() == pytest.approx([0.08 * step - 2 for step in range(51)], abs=1e-12)
    assert calls[-1] == (255, 255)
    assert found.flatness > 0
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert found.to_json()["flatness"] == found.flatness
    assert torch.equal(
        landscape(model, x, y, [-1.0, 1.0], zeta=0).loss[0], landscape(model, x, y, [0.0, 1.0]).loss[:2, 0]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": [0.0]}, "two finite"),
        ({"alpha": [1.0, 0.0]}, "larger"),
        ({"directions": 0}, "at least 1"),
        ({"zeta": -1.0}, "at least 0"),
        ({"zeta": float("nan")}, "at least 0"),
    ],
)
def test_bad_input_is_one_clear_line(change: dict[str, object], message: str) -> None:
    model, x, y = linear()
    with pytest.raises(InputError, match=message):
        landscape(model, x, y, **change)
