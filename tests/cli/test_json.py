"""``--json`` and ``--quiet`` of every command: one document on standard output, or nothing at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import thetabox as tb
from tests.cli.test_bad_input import refused
from thetabox.cli.group import COMMANDS

SMALL = ("--data", "digits", "--samples", 6)
FAST = ("--domain", "interval")


@pytest.fixture(scope="module")
def stored(cnn, tmp_path_factory) -> Path:
    """The folder of a certificate."""
    model, test = tb.load(cnn), tb.data.load("digits", "test").subset(6)
    folder = tmp_path_factory.mktemp("json") / "stored"
    tb.certify(model, test.x, test.y, [0, 1e-3], domain="interval", data_info=test.info).save(folder)
    return folder


@pytest.fixture
def lines(cnn, lsnn, stored, tmp_path) -> dict[str, tuple[object, ...]]:
    """What to call, and a key of its document."""
    out, spiking = tmp_path / "out", tmp_path / "spiking.safetensors"
    tb.save(tb.models.LSNN(inputs=3, units=4, classes=2, beta=0.0, refractory=0), spiking)
    train = ("--task", "digits", "--epochs", 1, "--out", tmp_path / "m.safetensors")
    return {
        "demo": ("demo", "--epochs", 1, "--samples", 4, "--epsilon", "0", "--processes", 2, "--out", out),
        "train": ("train", *train),
        "certify": ("certify", cnn, *SMALL, *FAST, "--epsilon", "0,1e-3", "--attack-steps", 1, "--out", out),
        "radius": ("radius", cnn, *SMALL, *FAST, "--out", out),
        "yield": ("yield", cnn, *SMALL, "--sigma", "0.01", "--out", out),
        "attack": ("attack", cnn, *SMALL, "--epsilon", "1e-3", "--steps", 1),
        "mismatch": ("mismatch", cnn, *SMALL, "--draws", 2),
        "landscape": ("landscape", cnn, *SMALL, "--points", 3, "--directions", 1),
        "pcm": ("pcm", cnn, *SMALL, "--times", "25s", "--draws", 1),
        "compare": ("compare", "--task", "digits", "--methods", "standard", "--seeds", 1, "--epochs", 1, "--out", out),
        "gate": ("gate", stored, "--epsilon", "1e-3", "--min-verified", 0),
        "diff": ("diff", stored, stored),
        "export": ("export", spiking, "--nir", tmp_path / "m.nir"),
        "inspect": ("inspect", cnn),
        "tasks": ("tasks",),
        "methods": ("methods",),
    }


KEYS = {
    "demo": "networks",
    "train": "validation_accuracy",
    "certify": "attack",
    "radius": "radius",
    "yield": "curve",
    "attack": "curve",
    "mismatch": "clean_accuracy",
    "landscape": "flatness",
    "pcm": "clean_accuracy",
    "compare": "rows",
    "gate": "pass",
    "diff": "lost",
    "export": "dynamics",
    "inspect": "operators",
    "tasks": "tasks",
    "methods": "methods",
}
LONG = [pytest.param(name, marks=pytest.mark.long) if name in ("demo", "compare") else name for name in KEYS]


def test_every_command_is_here():
    assert KEYS.keys() == COMMANDS.keys()


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("name", LONG)
def test_one_document(run, lines, name):
    result = run(*lines[name], "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert KEYS[name] in document


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("name", [name for name in KEYS if name not in ("demo", "compare", "train")])
def test_quiet_prints_nothing(run, lines, name):
    result = run(*lines[name], "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""


def test_a_document_says_what_the_files_say(run, cnn, tmp_path):
    result = run("certify", cnn, *SMALL, *FAST, "--epsilon", "0,1e-3", "--no-attack", "--out", tmp_path / "a", "--json")
    document = json.loads(result.stdout)
    written = json.loads((tmp_path / "a" / "certificate.json").read_text())
    assert {**document, "seconds": None}.items() >= written.items()
    assert len(document["radius"]) == 6
    assert Path(document["report"]).is_file()


def test_a_gate_that_fails_says_so_in_its_document(run, stored):
    result = run("gate", stored, "--epsilon", "1e-3", "--min-verified", 1, "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["pass"], document["claims"][0]["pass"]) == (1, False, False)


def test_bad_input_is_a_line_and_no_document(run, cnn):
    for way in ("--json", "--quiet"):
        result = run("attack", cnn, "--data", "digits", "--epsilon", "-1", way)
        refused(result, "epsilon")
        assert result.stdout == ""


def test_a_loss_beyond_all_numbers_is_null(run, tmp_path):
    model = tb.models.MLP(sizes=(4, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1e38)
    tb.save(model, tmp_path / "m.safetensors")
    np.savez(tmp_path / "d.npz", x=np.ones((3, 4), np.float32), y=np.arange(3))
    given = (tmp_path / "m.safetensors", "--data", tmp_path / "d.npz", "--points", 3, "--directions", 1)
    result = run("landscape", *given, "--zeta", 1e20, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    for text in (result.stdout, (tmp_path / "out" / "landscape.json").read_text()):
        assert json.loads(text)["flatness"] is None


def test_one_task(run):
    assert json.loads(run("tasks", "digits", "--json").stdout)["shape"] == [1, 8, 8]
