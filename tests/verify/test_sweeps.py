"""A sweep of ε answers what each ε answers alone: products kept from one to the next change nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import thetabox as tb

SWEEP = [0.0, 1e-9, 1e-3, 0.1, 1.5]
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: tb.models.MLP([6, 16, 12, 4]), (6,)),
    "convnet": (
        lambda: tb.models.ConvNet(input=[1, 8, 8], channels=[3, 4], kernel=3, hidden=[6], classes=4),
        (1, 8, 8),
    ),
    "lsnn": (lambda: tb.models.LSNN(3, 12, 4), (20, 3)),
    "feed-forward lsnn": (lambda: tb.models.LSNN(3, 12, 4, recurrent=False), (20, 3)),
}


@pytest.mark.parametrize("arithmetic", ["real", "float32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_sweep_equals_each_alone(name: str, arithmetic: str) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(7, *shape)
    together = tb.logit_bounds(model, x, SWEEP, arithmetic=arithmetic)
    for place, epsilon in enumerate(SWEEP):
        alone = tb.logit_bounds(model, x, [epsilon], arithmetic=arithmetic)
        assert torch.equal(together.lower[place], alone.lower[0])
        assert torch.equal(together.upper[place], alone.upper[0])


def test_products_kept_are_those_of_the_same_input() -> None:
    """A known value behind a threshold may differ from one ε to the next."""

    class Stepped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second((self.first(x) > 0).to(x.dtype))

    torch.manual_seed(0)
    model, x = Stepped(), torch.randn(5, 2)
    sweep = [1e-6, 1e-3, 0.5, 2.0]
    together = tb.logit_bounds(model, x, sweep)
    for place, epsilon in enumerate(sweep):
        alone = tb.logit_bounds(model, x, [epsilon])
        assert torch.equal(together.lower[place], alone.lower[0])
        assert torch.equal(together.upper[place], alone.upper[0])
