"""Networks of every kind go to a worker and are there what they are here."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import thetabox as tb
from tests.models.test_nir import fixture
from thetabox.workers import LocalProcesses
from thetabox.workers.pickled import pickled, unpickled


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.a(x) + self.b(mask)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.out = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cells(x)[0][:, -1])


class Spiking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        u, out = torch.zeros(x.shape[0], 8), torch.zeros(x.shape[0], 3)
        for t in range(x.shape[1]):
            u = 0.9 * u + self.a(x[:, t])
            z = (u > 0.3).float()
            u = u - 0.3 * z
            out = out + self.b(z)
        return out


def dense() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def weight_norm() -> nn.Module:
    model = dense()
    parametrizations.weight_norm(model[0])
    parametrizations.spectral_norm(model[2])
    return model.eval()


def pruned() -> nn.Module:
    model = dense()
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


def program(folder: Path) -> nn.Module:
    batch = {0: torch.export.Dim("batch")}
    torch.export.save(torch.export.export(dense(), (torch.rand(5, 4),), dynamic_shapes=(batch,)), folder / "net.pt2")
    return tb.load(folder / "net.pt2")


def normalised() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    model(torch.rand(50, 4))
    return model.eval()


FLAT, TIMES = (lambda: torch.rand(8, 4)), (lambda: torch.rand(8, 5, 4))
NETWORKS: dict[str, tuple[Callable[..., nn.Module], Callable[[], Any], dict[str, Any]]] = {
    "weight norm": (weight_norm, FLAT, {}),
    "pruned": (pruned, FLAT, {"arithmetic": "float32"}),
    "program": (program, FLAT, {"arithmetic": "float32"}),
    "folded": (normalised, FLAT, {"box": tb.Box(fold=True, exclude="*bias")}),
    "folded probabilities": (lambda: normalised().append(nn.Softmax(-1)), FLAT, {"box": tb.Box(fold=True)}),
    "softmax in float32": (
        lambda: normalised().append(nn.Softmax(-1)),
        FLAT,
        {"arithmetic": "float32", "box": tb.Box(kind="range")},
    ),
    "two inputs": (TwoInputs, lambda: (torch.rand(8, 4), torch.rand(8, 2)), {"box": tb.Box(scale={"a.*": 3.0})}),
    "LSTM": (Recurrent, TIMES, {"precision": "float32"}),
    "spiking": (Spiking, TIMES, {}),
    "double": (lambda: dense().double(), lambda: torch.rand(8, 4).double(), {"box": tb.Box(kind="absolute")}),
}


@pytest.mark.thin(quick=3)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_worker_proves_the_same(name: str, two: LocalProcesses, tmp_path: Path) -> None:
    make, data, how = NETWORKS[name]
    model, x = make(tmp_path) if make is program else make(), data()
    with torch.no_grad():
        y = (model(*x) if isinstance(x, tuple) else model(x)).argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notices of what was read how
        here, there = (tb.certify(model, x, y, [1e-4, 1e-2], executor=where, **how) for where in (None, two))
    assert torch.equal(here.margin, there.margin)
    assert here.options == there.options
    assert bool(here.verified[0].any())


@pytest.mark.slow
def test_a_file_of_another_framework(two: LocalProcesses) -> None:
    model, x, _ = fixture("norse_box_leak")
    with torch.no_grad():
        y = model(x[:6]).argmax(1)
    here, there = (tb.certify(model, x[:6], y, [1e-4, 1e-3], executor=where) for where in (None, two))
    assert torch.equal(here.margin, there.margin)
    assert here.options == there.options


def test_a_parametrised_module_computes_what_it_did() -> None:
    model = weight_norm()
    there, x = unpickled(pickled(model)), torch.rand(3, 4)
    assert torch.equal(there(x), model(x))
    assert parametrize.is_parametrized(there[0], "weight")
    with torch.no_grad():
        there[0].parametrizations.weight.original0.mul_(2.0)  # what the weight is computed of, at every call
    assert not torch.equal(there(x), model(x))
    assert [name for name, _ in there.named_parameters()] == [name for name, _ in model.named_parameters()]
