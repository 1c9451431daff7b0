from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from thetabox.box import Box
from thetabox.verify.domain import Profile

EPSILON = [0.0, 1e-4, 1e-3, 1e-2]


class StandIn(SimpleNamespace):
    """Has the fields of a certificate, without the verifier behind them."""

    def to_json(self) -> dict[str, Any]:
        curve = [
            {
                "epsilon": float(e),
                "verified": int(v.sum()),
                "total": len(v),
                "verified_accuracy": float(v.double().mean()),
            }
            for e, v in zip(self.epsilon, self.verified, strict=True)
        ]
        return {"schema": "thetabox.certificate/1", "box": self.box.describe(), "curve": curve}

    def rows(self) -> Any:
        for e in range(len(self.epsilon)):
            for n in range(len(self.label)):
                yield (
                    n,
                    int(self.label[n]),
                    int(self.predicted[n]),
                    float(self.epsilon[e]),
                    float(self.margin[e, n]),
                    bool(self.verified[e, n]),
                )


def stand_in(samples: int = 40, seed: int = 0, **changes: Any) -> StandIn:
    draw = torch.Generator().manual_seed(seed)
    epsilon = torch.tensor(EPSILON, dtype=torch.float64)
    limit = 10 ** (-4.5 + 3 * torch.rand(samples, generator=draw, dtype=torch.float64))
    limit[:2] = 0.0
    margin = limit[None] - epsilon[:, None] - 1e-12
    label = torch.randint(0, 5, (samples,), generator=draw)
    verified = margin > 0
    fields: dict[str, Any] = {
        "epsilon": epsilon,
        "verified": verified,
        "margin": margin,
        "label": label,
        "predicted": label.clone(),
        "verified_accuracy": verified.double().mean(1),
        "clean_accuracy": 1.0,
        "domain": "interval",
        "criterion": "margin",
        "options": {},
        "sound": True,
        "arithmetic": "real",
        "precision": "float64",
        "box": Box(),
        "model_info": {"source": "model.safetensors", "sha256": "ab" * 32, "parameters": 1234, "perturbed": 1200},
        "data_info": {"name": "digits test", "sha256": "cd" * 32, "samples": samples},
        "seconds": 1.5,
        "radius": limit,
        "baseline": (margin > 2e-5).double().mean(1),
        "finished": True,
        "profile": Profile(
            kind="steps",
            names=[str(t) for t in range(60)],
            share=torch.stack([(torch.arange(60) / 60.0 * e * 100).clamp(max=0.9) for e in EPSILON]),
        ),
    }
    return StandIn(**(fields | changes))


@pytest.fixture
def certificate() -> StandIn:
    return stand_in()


@pytest.fixture
def make_certificate() -> Callable[..., StandIn]:
    return stand_in


@pytest.fixture
def attack(certificate: StandIn) -> SimpleNamespace:
    correct = certificate.margin > -5e-3
    return SimpleNamespace(epsilon=certificate.epsilon, correct=correct, accuracy=correct.double().mean(1))


@pytest.fixture
def disk_full_at_the_third_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files are written, then there is no space left."""
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
