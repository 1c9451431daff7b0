"""Attacked accuracy against epochs: the curve, and a training that goes on as if nobody looked."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from thetabox.errors import InputError
from thetabox.measure import attack, attacked_during, shared_attack
from thetabox.train import Epoch, fit


@pytest.mark.parametrize("kind", ["shared", "sample"])
def test_the_curve_and_the_training_are_what_they_would_be_apart(kind: str) -> None:
    torch.manual_seed(0)
    y = torch.arange(60) % 3
    x = 2 * torch.randn(3, 4)[y] + torch.randn(60, 4)
    start = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 3))
    watched, alone = copy.deepcopy(start), copy.deepcopy(start)
    states: list[nn.Module] = []
    curve = attacked_during(watched, (x[:30], y[:30]), 0.3, every=2, kind=kind, steps=4)

    def look(record: Epoch) -> None:
        curve(record)
        if record.epoch % 2 == 0:
            states.append(copy.deepcopy(watched))

    fit(watched, (x, y), (x, y), epochs=5, lr=0.02, progress=False, on_epoch=look)
    fit(alone, (x, y), (x, y), epochs=5, lr=0.02, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), alone.parameters(), strict=True))
    assert curve.epoch == [2, 4]
    search = shared_attack if kind == "shared" else attack
    for state, clean, attacked in zip(states, curve.clean, curve.attacked, strict=True):
        found = search(state, x[:30], y[:30], 0.3, steps=4, restarts=1)
        assert clean == found.clean_accuracy
        assert attacked == float(found.accuracy[0])
    assert curve.attacked[-1] < curve.clean[-1]
    assert curve.to_json()["curve"][1]["epoch"] == 4


def test_bad_input_is_one_clear_line() -> None:
    model, pair = nn.Linear(2, 2), (torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))
    for change, message in (
        ({"every": 0}, "at least 1"),
        ({"kind": "odd"}, "unknown kind"),
        ({"epsilon": -1}, "least 0"),
    ):
        with pytest.raises(InputError, match=message):
            attacked_during(**{"model": model, "data": pair, "epsilon": 0.1, **change})
