"""Parameters without dimensions, as a learned scale is, and without entries: every public function takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.train import METHODS, fit

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)
        self.scale, self.shift = nn.Parameter(torch.tensor(1.25)), nn.Parameter(torch.tensor(0.0))
        self.empty = nn.Parameter(torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.second((self.first(x) + self.shift).relu())


CALLS: dict[str, Callable[..., Any]] = {
    "certify": lambda *given: tb.certify(*given, [1e-3, 1e-2]),
    "linear": lambda *given: tb.certify(*given, [1e-3], domain="linear"),
    "absolute": lambda *given: tb.certify(*given, [1e-3], box=tb.Box(kind="absolute")),
    "range": lambda *given: tb.certify(*given, [1e-3], box=tb.Box(kind="range")),
    "radius": tb.certified_radius,
    "attack": lambda *given: tb.attack(*given, [0.1]),
    "shared attack": lambda *given: tb.measure.shared_attack(*given, [0.1]),
    "random attack": lambda *given: tb.random_attack(*given, [0.1], draws=4),
    "mismatch": lambda *given: tb.mismatch(*given, [0.1], 4),
    "pcm": lambda *given: tb.measure.pcm(*given, samples=2),
    "quantisation": lambda *given: tb.measure.quantisation(*given, [4]),
    "landscape": lambda *given: tb.landscape(*given, directions=2),
    "sampled yield": lambda *given: tb.sampled_yield(*given, [0.1]),
    "proven yield": lambda *given: tb.certify_yield(*given, [0.02]),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_function_takes_them(call: str) -> None:
    model = Scaled().eval()
    CALLS[call](model, X, model(X).argmax(1))


def test_radii_hold_what_is_proven_at_them() -> None:
    model = Scaled().eval()
    y = model(X).argmax(1)
    radii = tb.certified_radius(model, X, y)
    assert bool((radii > 0).all())
    for place, radius in enumerate(radii.tolist()):
        assert tb.certify(model, X[place : place + 1], y[place : place + 1], radius).verified.all()


@pytest.mark.parametrize("method", [name for name in METHODS if name != "counts"])
def test_every_method_trains_them(method: str) -> None:
    model = Scaled()
    fit(model, (X, model(X).argmax(1)), (X, model(X).argmax(1)), method, epochs=1, progress=False)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
