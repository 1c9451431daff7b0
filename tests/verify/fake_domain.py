"""A domain with known answers, to test what is made of domains: ``margin = slope (radius_n - epsilon)``."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify import agreement, domains
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.domain import Domain

RADIUS = torch.tensor([0.004, 0.02, 0.05, 0.3, 2.0, 1e-5, 0.1, 0.15], dtype=torch.float64)


class Fake(Domain):
    """Proves sample n up to RADIUS[n] × its option ``reach``; all that is asked of it is noted in ``asked``."""

    name = "fake"
    defaults: ClassVar[Mapping[str, Any]] = {"reach": 1.0, "word": "a"}
    cascade = ({"reach": 0.1}, {"reach": 1.0})
    asked: ClassVar[list[tuple[float, int, float]]] = []
    at_once: ClassVar[int] = 100
    refuses: ClassVar[str] = ""
    holes: ClassVar[tuple[tuple[float, float], ...]] = ()
    cost: ClassVar[float] = 1.0
    extra: ClassVar[float] = 0.0
    error: ClassVar[type[Exception]] = InputError

    def __init__(self, problem: Any, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(problem, options)
        if self.refuses == "made":
            raise self.error("fake takes no such network; interval does")

    def passes(self, criterion: str) -> float:
        return self.cost

    def margins(self, which: Any, epsilon: Tensor, y: Tensor) -> Tensor:
        if self.refuses == "asked" or (self.refuses == "above 0.01" and float(epsilon.max()) > 0.01):
            raise self.error("fake cannot do this")
        places = torch.arange(len(self.problem.x))[which]
        self.asked.extend(
            (float(self.options["reach"]), n, e)
            for row in epsilon.tolist()
            for n, e in zip(places.tolist(), row, strict=True)
        )
        self.meter.pay(torch.full((epsilon.numel(),), self.extra))
        margin = 10.0 * (RADIUS[places % len(RADIUS)] * self.options["reach"] - epsilon)
        for low, high in self.holes:
            margin = torch.where((epsilon > low) & (epsilon < high), torch.tensor(-1e-3, dtype=margin.dtype), margin)
        return margin

    def logits(self, which: Any, epsilon: Tensor) -> Interval:
        rows = epsilon.numel()
        low = torch.tensor([[-torch.inf, 0.25, -1.0]], dtype=torch.float64).repeat(rows, 1)
        return Interval(low, torch.tensor([[0.5, torch.nan, 1.0]], dtype=torch.float64).repeat(rows, 1))

    def samples_at_once(self, levels: int) -> int:
        return self.at_once


class Unsound(Fake):
    name = "unsound"
    sound = False


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    """The fake is the one dearer domain there is."""
    module = types.ModuleType("thetabox_fake")
    module.__spec__ = importlib.machinery.ModuleSpec("thetabox_fake", None)
    for kind in (Fake, Unsound):
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "thetabox_fake", module)
    table = {
        "interval": domains.DOMAINS["interval"],
        "unsound": "thetabox_fake:Unsound",
        "fake": "thetabox_fake:Fake",
        "absent": "thetabox.verify.not_in_this_build:Absent",
    }
    monkeypatch.setattr(domains, "DOMAINS", table)
    # What it says is not true of any network.
    for name in ("check_margins", "check_logits"):
        monkeypatch.setattr(agreement, name, lambda *_: None)
    for name, value in {
        "asked": [],
        "at_once": 100,
        "refuses": "",
        "holes": (),
        "cost": 1.0,
        "extra": 0.0,
        "error": InputError,
    }.items():
        monkeypatch.setattr(Fake, name, value)
    return Fake
