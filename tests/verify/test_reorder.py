"""Operations in a cheaper order give the same bounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.verify.network import Network
from thetabox.verify.network.reorder import pooled_first


class Pooled(nn.Module):
    """A convolution, ReLU and a pool."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.pool, self.last = nn.Conv2d(1, 3, 3, padding=1), pool, nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(self.first(x).relu()).flatten(1))


X = torch.randn(4, 1, 7, 7)
POOLS = {
    "tiles": nn.MaxPool2d(2),
    "overlapping": nn.MaxPool2d(3, 2, padding=1),
    "uneven": nn.MaxPool2d(2, ceil_mode=True),
}


def operators(model: nn.Module) -> list[str]:
    return [o.operator for o in pooled_first(Network(model, X).main)]


@pytest.mark.parametrize("name", POOLS)
def test_pool_before_relu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Pooled(POOLS[name])
    model(X)
    found = operators(model)
    assert found.index("aten.max_pool2d.default") == found.index("aten.relu.default") - 1
    settings: dict[str, Any] = {"domain": "interval", "epsilon": [0.0, 0.01, 0.5]}
    swapped = tb.logit_bounds(model, X, **settings)
    monkeypatch.setattr("thetabox.verify.network.feedforward.pooled_first", lambda graph: graph.operations)
    kept = tb.logit_bounds(model, X, **settings)
    torch.testing.assert_close(swapped.lower, kept.lower, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(swapped.upper, kept.upper, rtol=1e-12, atol=1e-12)


def test_left_alone() -> None:
    """A ReLU that something else reads as well stays where it is, as before a mean or a dilated pool."""

    class Twice(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            active = self.first(x).relu()
            return self.last((self.pool(active) + active[:, :, :3, :3]).flatten(1))

    for model in (Twice(nn.MaxPool2d(2)), Pooled(nn.AvgPool2d(2)), Pooled(nn.MaxPool2d(2, 1, 1, dilation=3))):
        model(X)
        assert operators(model) == [o.operator for o in Network(model, X).main.operations]
