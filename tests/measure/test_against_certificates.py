"""Attack and proof about the same box never contradict each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb

pytestmark = pytest.mark.usefixtures("traced_once")

EPSILON = [0.0, 1e-9, 1e-4, 1e-3, 1e-2, 0.1, 1.5]
SOUND: list[tuple[str, dict[str, Any]]] = [
    ("interval", {}),
    ("auto", {"effort": 500.0}),
    ("linear", {"intermediate": "backward"}),
    ("histories", {"histories": 4, "splits": 32}),
]


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    return {
        "mlp": (tb.models.MLP((6, 10, 3)), torch.randn(12, 6)),
        "cnn": (tb.models.ConvNet.small(), torch.randn(8, 1, 8, 8)),
        "lsnn": (tb.models.LSNN(3, 10, 3), torch.randn(8, 12, 3)),
    }


@pytest.mark.thin(2, quick=4)
@pytest.mark.parametrize("kind", ["relative", "absolute", "range"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "lsnn"])
def test_no_verified_sample_is_flipped(name: str, kind: str) -> None:
    model, x = networks()[name]
    with torch.no_grad():
        y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 3
    box = tb.Box(kind=kind)
    found = tb.attack(model, x, y, EPSILON, box=box, steps=6)
    assert not found.correct[-1].all()
    for domain, options in SOUND:
        if domain == ("linear" if name == "lsnn" else "histories"):
            continue
        proof = tb.certify(model, x, y, EPSILON, domain=domain, options=options, box=box)
        assert not (proof.verified & ~found.correct).any()
        assert (proof.margin <= found.margin + 1e-12).all()
        assert found.clean_accuracy == proof.clean_accuracy
        assert torch.equal(found.predicted, proof.predicted)
        assert proof.verified[0, 1:].all()
        assert (proof.verified[:-1] >= proof.verified[1:]).all()


def test_neuron_parameters_in_the_box() -> None:
    model, x = networks()["lsnn"]
    with torch.no_grad():
        y = model(x).argmax(1)
    box = tb.Box(include="*,threshold,tau,tau_adapt,beta")
    proof = tb.certify(model, x, y, [1e-3, 0.1], domain="interval", box=box)
    found = tb.attack(model, x, y, [1e-3, 0.1], box=box, steps=6)
    assert not (proof.verified & ~found.correct).any()
    assert (proof.margin <= found.margin + 1e-12).all()


@pytest.mark.long
def test_a_trained_spiking_network() -> None:
    """Real data, the strongest attack there is here, and proofs that reach further than plain intervals."""
    torch.manual_seed(0)
    model = tb.models.LSNN(12, 40, 9)
    parts = [tb.data.load("vowels", split) for split in ("train", "validation")]
    tb.train.fit(model, *parts, "l1", epochs=6, lr=1e-2, seed=0, threads=1, progress=False)
    test = tb.data.load("vowels", "test").subset(40)
    sweep = [1e-4, 1e-3, 1e-2, 5e-2]
    found = tb.attack(model, test.x, test.y, sweep, steps=10, restarts=2, seed=0)
    plain = tb.certify(model, test.x, test.y, sweep, domain="interval")
    assert plain.clean_accuracy > 0.6
    for domain, options in SOUND[1::2]:
        proof = tb.certify(model, test.x, test.y, sweep, domain=domain, options=options)
        assert not (proof.verified & ~found.correct).any()
        assert (proof.margin <= found.margin + 1e-12).all()
        assert (proof.verified >= plain.verified).all()
        assert proof.verified.sum() > plain.verified.sum() + 10
    assert not found.correct.all()
