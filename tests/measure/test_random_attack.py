"""Random weights of the box: the draws, their worst by sample and by set, bad input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.measure.networks import labelled
from thetabox.errors import InputError
from thetabox.measure import random_attack


def linear() -> tuple[nn.Sequential, Tensor, Tensor]:
    return labelled(3, 3, samples=12)


@pytest.mark.parametrize("kind", ["uniform", "corner"])
@pytest.mark.parametrize("batch", [1, 7, None])
def test_worst_of_the_draws_written_out(kind: str, batch: int | None) -> None:
    model, x, y = linear()
    y[0] = (y[0] + 1) % 3
    found = random_attack(model, x, y, [0.0, 0.2, 0.6], draws=25, kind=kind, seed=2, batch=batch)
    weight, bias = (p.detach().double() for p in model.parameters())
    for e, epsilon in enumerate((0.0, 0.2, 0.6)):
        right = []
        for draw in range(25):
            stream = torch.Generator().manual_seed(2 * 1_000_003 + draw)
            delta = [2 * torch.rand(t.shape, generator=stream, dtype=torch.float64) - 1 for t in (weight, bias)]
            if kind == "corner":
                delta = [torch.where(d < 0, -1.0, 1.0).double() for d in delta]
            w, b = (t + epsilon * t.abs() * d for t, d in zip((weight, bias), delta, strict=True))
            right.append((x.double() @ w.T + b).argmax(1) == y)
        stacked = torch.stack(right)
        expected = stacked.all(0)
        expected[0] = False
        assert torch.equal(found.correct[e], expected)
        assert torch.equal(found.shared[e], stacked.double().mean(1))
    assert found.clean_accuracy == pytest.approx(11 / 12)
    assert found.accuracy[2] < found.accuracy[0]
    assert (found.accuracy <= found.shared_accuracy).all()
    assert found.to_json()["curve"][0]["accuracy"] == pytest.approx(11 / 12)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kind": "wild"}, "unknown kind"), ({"draws": 0}, "at least 1"), ({"epsilon": []}, "empty")],
)
def test_bad_input_is_one_clear_line(change: dict[str, object], message: str) -> None:
    model, x, y = linear()
    with pytest.raises(InputError, match=message):
        random_attack(**{"model": model, "x": x, "y": y, "epsilon": 0.1, **change})
