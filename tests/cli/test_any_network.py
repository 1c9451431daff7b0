"""Networks of several inputs, and of other answers than logits, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from thetabox.models import build

CODE = """
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense, self.conv, self.last = nn.Linear(4, 8), nn.Conv2d(1, 2, 3), nn.Linear(16, 3)

    def forward(self, x, image, mask=None):
        h = torch.cat([self.dense(x), self.conv(image).flatten(1)], 1).relu()
        h = h if mask is None else h * mask.unsqueeze(1)
        return {"logits": self.last(h), "hidden": h}


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(9, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.table(x).mean(1).relu())


class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x):
        return self.net(x).squeeze(-1)
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(CODE)
    torch.manual_seed(0)
    two, one = build("nets.py:Two"), build("nets.py:One")
    torch.save(two.state_dict(), "two.pt")
    torch.save(one.state_dict(), "one.pt")
    x, image, mask = torch.randn(12, 4), torch.rand(12, 1, 4, 4), torch.rand(12) > 0.2
    with torch.no_grad():
        y, side = two(x, image, mask)["logits"].argmax(1), (one(x) > 0).long()
    np.savez("two.npz", x=x, x_image=image, x_mask=mask, y=y)
    np.savez("other.npz", x=x, x_hat=image, y=y)
    np.savez("alone.npz", x=x, y=y)
    np.savez("one.npz", x=x, y=side)
    np.savez("more.npz", x=x, y=np.full(12, 2))
    return tmp_path


@pytest.mark.slow
def test_several_inputs_of_a_file(files: Path, run: Callable[..., Result]) -> None:
    network = ("two.pt", "--model", "nets.py:Two", "--data", "two.npz")
    result = run("certify", *network, "--epsilon", "0,1e-4", "--out", "out")
    assert result.exit_code == 0, result.output
    assert "the network's answer is read as output['logits'] of 2: logits" in result.stderr
    model = json.loads(Path("out/certificate.json").read_text())["model"]
    assert model["inputs"] == [[4], [1, 4, 4], []]
    assert model["answer"] == "output['logits'] of 2: logits"
    assert "answer read as" in Path("out/report.html").read_text()
    assert run("gate", "out", "--data", "two.npz", "--epsilon", "1e-4", "--min-verified", "0.5").exit_code == 0
    for command in ("attack", "mismatch", "radius", "inspect", "pcm"):
        more = {"radius": ("--out", "r"), "attack": ("--epsilon", "0.1")}.get(command, ())
        result = run(command, *network, *more)
        assert result.exit_code == 0, result.output


def test_what_is_left_out_is_said(files: Path, run: Callable[..., Result]) -> None:
    Path("soft.py").write_text(
        "from torch import nn\n\n\nclass Soft(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Linear(4, 3), nn.Softmax(1))\n"
    )
    network = build("soft.py:Soft")
    torch.save(network.state_dict(), "soft.pt")
    x = torch.randn(6, 4)
    with torch.no_grad():
        np.savez("soft.npz", x=x, y=network(x).argmax(1))
    given = ("--model", "soft.py:Soft", "--data", "soft.npz", "--epsilon", "0")
    result = run("certify", "soft.pt", *given, "--out", "out")
    assert result.exit_code == 0, result.output
    said = json.loads(Path("out/certificate.json").read_text())["model"]["answer"]
    assert said.endswith("bounded in front of the softmax, which keeps their order")
    assert said.split(";")[0] in result.stderr


def test_tokens_of_a_file(files: Path, run: Callable[..., Result]) -> None:
    network = build("nets.py:Tokens")
    torch.save(network.state_dict(), "tokens.pt")
    x = torch.randint(0, 9, (12, 5))
    with torch.no_grad():
        np.savez("tokens.npz", x=x, y=network(x).argmax(1))
    given = ("tokens.pt", "--model", "nets.py:Tokens", "--data", "tokens.npz", "--epsilon", "0")
    result = run("certify", *given, "--out", "out")
    assert result.exit_code == 0, result.output
    assert json.loads(Path("out/certificate.json").read_text())["curve"][0]["verified"] == 12
    assert run("gate", *given, "--min-verified", "1").exit_code == 0
    assert run("attack", *given).exit_code == 0


def test_one_logit_for_two_classes(files: Path, run: Callable[..., Result]) -> None:
    network = ("one.pt", "--model", "nets.py:One")
    result = run("certify", *network, "--data", "one.npz", "--epsilon", "0", "--out", "out")
    assert result.exit_code == 0, result.output
    assert json.loads(Path("out/certificate.json").read_text())["curve"][0]["verified"] == 12
    result = run("certify", *network, "--data", "more.npz", "--epsilon", "0", "--out", "more")
    assert result.exit_code == 2
    assert "more.npz has label 2, but the network has classes 0 to 1" in result.stderr


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("other.npz", "takes image, mask, x and no 'hat'"),
        ("alone.npz", "missing 1 required positional argument: 'image'"),
        ("one.npz", "missing 1 required positional argument: 'image'"),
    ],
)
def test_inputs_that_do_not_fit(files: Path, run: Callable[..., Result], data: str, message: str) -> None:
    result = run("certify", "two.pt", "--model", "nets.py:Two", "--data", data, "--epsilon", "0", "--out", "out")
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not Path("out").exists()
