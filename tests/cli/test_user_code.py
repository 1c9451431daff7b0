"""``--model file.py:Class``: the one way in which the user's own code is run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from click.testing import Result

import thetabox as tb
from thetabox.models import build, load

CODE = '''
from torch import nn

from parts_of_{stem} import Half


class Net(nn.Module):
    """A class of the user's own."""

    def __init__(self, hidden=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), Half(), nn.Linear(hidden, 10))

    def forward(self, x):
        return self.layers(x)

    class Inner(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)


def narrow():
    return Net(4)


def number():
    return 3


def fails():
    raise OSError("no such thing")


made = Net(8)
'''
PARTS = """
from torch import nn


class Half(nn.Module):
    def forward(self, x):
        return 0.5 * x
"""

Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """Of a class, what it needs, and weights; each test under names of its own, for modules are imported once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *sys.path])
    stem = f"net_{abs(hash(request.node.name))}"
    (tmp_path / "net.py").write_text(CODE.format(stem=stem), encoding="utf-8")
    (tmp_path / f"parts_of_{stem}.py").write_text(PARTS, encoding="utf-8")
    torch.manual_seed(0)
    torch.save(build("net.py:Net").state_dict(), "net.pt")
    return tmp_path


CERTIFY = ("--data", "digits", "--samples", 12, "--epsilon", "0,1e-4", "--out", "out")


def test_certify_and_gate(folder: Path, run: Run) -> None:
    result = run("certify", "net.pt", "--model", "net.py:Net", "--set", "hidden=8", *CERTIFY)
    assert result.exit_code == 0, result.output
    facts = json.loads((folder / "out" / "certificate.json").read_text())["model"]
    assert facts["code"] == "net.py:Net"
    assert facts["set"] == {"hidden": 8}
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "net.py:Net with hidden=8" in page
    assert facts["code_sha256"] in page
    net = build("net.py:Net")
    net.load_state_dict(torch.load("net.pt"))
    test = tb.data.load("digits", "test").subset(12)
    expected = tb.certify(net, test.x, test.y, [0.0, 1e-4])
    assert torch.equal(tb.Certificate.load("out").margin, expected.margin)
    for where in (("net.pt", "--model", "net.py:Net", "--data", "digits", "--samples", 12), ("out",)):
        assert run("gate", *where, "--epsilon", "1e-4", "--min-verified", 0).exit_code == 0, where
    # What was certified is the class as it was.
    with open("net.py", "a", encoding="utf-8") as file:
        file.write("\n")
    result = run("gate", "out", "--epsilon", "1e-4", "--min-verified", 0)
    assert result.exit_code == 2
    assert "net.py has changed since the certificate" in result.output
    (folder / "net.py").unlink()
    result = run("gate", "out", "--epsilon", "1e-4", "--min-verified", 0)
    assert result.exit_code == 0
    assert "whether the code of net.py:Net has changed" in result.output


@pytest.mark.parametrize("name", ["Net", "made", "Net.Inner", "narrow"])
def test_what_makes_a_network(folder: Path, run: Run, name: str) -> None:
    net = build(f"net.py:{name}")
    assert isinstance(net, torch.nn.Module)
    torch.save({"model_state_dict": {f"module.{k}": v.double() for k, v in net.state_dict().items()}}, "other.pt")
    back = load("other.pt", f"net.py:{name}")
    assert type(back) is type(net)
    assert all(torch.equal(a.double(), b) for a, b in zip(net.parameters(), back.parameters(), strict=True))


def test_what_was_seen_through_is_a_line(folder: Path, run: Run) -> None:
    torch.save({"model_state_dict": torch.load("net.pt"), "epoch": 3}, "other.pt")
    result = run("inspect", "other.pt", "--model", "net.py:Net", "--data", "digits")
    assert result.exit_code == 0, result.output
    assert "thetabox: other.pt: read the weights under 'model_state_dict'\n" in result.stderr


def test_a_module_by_its_name(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "package_of_ours"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "nets.py").write_text("from torch import nn\n\n\ndef small(width):\n    return nn.Linear(2, width)\n")
    assert build("package_of_ours.nets:small", width=3).out_features == 3
    result = run("inspect", "net.pt", "--model", "package_of_ours.nets:small", "--data", "digits")
    assert result.exit_code == 2
    assert "missing 1 required positional argument: 'width'" in result.output
    assert "--set name=value" in result.output


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("absent.py:Net", "absent.py: no such file"),
        ("net.py:Nett", "nearest: Net"),
        ("net.py:", "write package.module:name or path/to/file.py:name"),
        (":Net", "write package.module:name or path/to/file.py:name"),
        ("net.py:nn", "net.py:nn is a module, not a class"),
        ("net.py:number", "makes a int, not a torch.nn.Module"),
        ("net.py:fails", "OSError: no such thing"),
        ("broken.py:Net", "broken.py fails as it is imported: SyntaxError"),
        ("leaves.py:Net", "leaves.py fails as it is imported: SystemExit"),
        ("needs.py:Net", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("nowhere_to_be_found:Net", "cannot import the network's module nowhere_to_be_found"),
        ("net.pt:Net", "cannot import the network's module net.pt"),
        (".:Net", "cannot import the network's module ."),
    ],
)
def test_one_line_for_every_mistake(folder: Path, run: Run, place: str, told: str) -> None:
    (folder / "broken.py").write_text("class Net(:\n", encoding="utf-8")
    (folder / "leaves.py").write_text("raise SystemExit('bye')\n", encoding="utf-8")
    (folder / "needs.py").write_text("import nowhere_to_be_found\n", encoding="utf-8")
    result = run("inspect", "net.pt", "--model", place, "--data", "digits")
    assert result.exit_code == 2, result.output
    assert result.output.startswith("thetabox: ")
    assert result.output.count("\n") == 1
    assert told in result.output


def test_settings_that_do_not_fit(folder: Path, run: Run) -> None:
    for settings, told in ((["width=3"], "width"), (["hidden=4"], "not [4, 64]"), (["hidden=x"], "TypeError")):
        words = [word for setting in settings for word in ("--set", setting)]
        result = run("inspect", "net.pt", "--model", "net.py:Net", *words, "--data", "digits")
        assert result.exit_code == 2
        assert told in result.output
    result = run("inspect", "net.pt", "--model", "net.py:made", "--set", "hidden=8", "--data", "digits")
    assert "made already" in result.output


def test_no_file_names_code(folder: Path) -> None:
    """A checkpoint may name an architecture of the registry; code that it names is not run."""
    ran = folder / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\n", encoding="utf-8")
    meta: Any = {"architecture": "evil.py:Net", "config": {}}
    safetensors.torch.save_file({"w": torch.ones(1)}, "evil.safetensors", {"thetabox": json.dumps(meta)})
    for model in (None, "mlp"):
        with pytest.raises(tb.InputError):
            load("evil.safetensors", model)
    assert not ran.exists()


def test_train_says_that_it_is_for_networks_of_its_own(folder: Path, run: Run) -> None:
    result = run("train", "--task", "digits", "--model", "net.py:Net", "--out", "x.safetensors")
    assert result.exit_code == 2
    assert "tb.train.fit" in result.output


def test_a_class_stays_one_class(folder: Path) -> None:
    assert type(build("net.py:Net")) is type(build(f"{folder / 'net.py'}:Net"))
    before = type(build("net.py:Net"))
    with open("net.py", "a", encoding="utf-8") as file:
        file.write("\n\nextra = Net(2)\n")
    assert type(build("net.py:extra")) is not before
