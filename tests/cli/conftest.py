from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from tests.cli.interrupting import WAYS
from thetabox.cli import thetabox
from thetabox.data import load
from thetabox.models import LSNN, MLP, ConvNet, save

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run() -> Callable[..., Result]:
    """The command line in this process."""

    def call(*args: object) -> Result:
        return CliRunner().invoke(thetabox, [str(a) for a in args])

    return call


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """The command line in a process of its own."""

    def call(*args: object, env: Mapping[str, str] | None = None, **options: object) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(env or {})}
        command = [sys.executable, "-m", "thetabox", *(str(a) for a in args)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
        )

    return call


@pytest.fixture(params=WAYS)
def interrupted(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Sends this process the signal."""
    return lambda *args, **kwargs: os.kill(os.getpid(), WAYS[request.param])


@pytest.fixture(scope="session")
def cnn(tmp_path_factory) -> Path:
    """A small CNN after three passes over the digits."""
    path = tmp_path_factory.mktemp("models") / "cnn.safetensors"
    torch.manual_seed(0)
    model = ConvNet.small()
    train = load("digits", "train")
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(3):
        for rows in torch.arange(len(train)).split(100):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(train.x[rows]), train.y[rows]).backward()
            optimizer.step()
    save(model, path)
    return path


@pytest.fixture(scope="session")
def mlp(tmp_path_factory) -> Path:
    """A small dense network, trained with errors of its weights."""
    path = tmp_path_factory.mktemp("models") / "mlp.safetensors"
    torch.manual_seed(0)
    model = MLP([64, 32, 10])
    train = load("digits", "train")
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(12):
        for rows in torch.randperm(len(train)).split(100):
            drawn = {name: p * (1.0 + 0.2 * torch.randn_like(p)) for name, p in model.named_parameters()}
            loss = torch.nn.functional.cross_entropy(
                torch.func.functional_call(model, drawn, (train.x[rows],)), train.y[rows]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    save(model, path)
    return path


@pytest.fixture(scope="session")
def lsnn(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "lsnn.safetensors"
    torch.manual_seed(0)
    save(LSNN(12, 8, 9), path)
    return path


@pytest.fixture
def npz(tmp_path) -> Callable[..., Path]:
    """A data file with the given arrays."""

    def write(name: str = "data.npz", **arrays: object) -> Path:
        digits = load("digits").subset(12)
        np.savez(tmp_path / name, **({"x": digits.x.numpy(), "y": digits.y.numpy()} | arrays))
        return tmp_path / name

    return write
