"""What README shows does work."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from thetabox.cli import thetabox

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(cnn, tmp_path, monkeypatch, capsys):
    shutil.copy(cnn, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    code, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code.replace("subset(100)", "subset(10)"), {})
    assert capsys.readouterr().out.count("tensor(") == 1
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_network_of_ones_own_is_certified(tmp_path, monkeypatch, run):
    _, code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (command,) = re.findall(r"\$ thetabox (certify net.pt .*)", README)
    (tmp_path / "net.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code, found)
    torch.save(found["Net"]().state_dict(), "net.pt")
    result = run(*shlex.split(command), "--samples", "20")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1])
def test_the_spiking_networks_of_ones_own_run(place: int):
    page = (ROOT / "docs" / "spiking-networks.md").read_text("utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[place]
    found: dict[str, Any] = {}
    exec(code, found)
    assert any("histories" in stage and any(counts) for stage, counts in found["cert"].options["proven_by"].items())
    assert found["cert"].verified_accuracy[0] > 0.5


def test_the_commands_exist_with_their_options():
    shown = re.findall(r"(?:^\$|run:) (thetabox [^\n]*)", README, re.MULTILINE)
    assert len(shown) >= 6
    for line in shown:
        words = shlex.split(line, comments=True)[1:]
        if words[0].startswith("-"):
            continue
        command = thetabox.get_command(click.Context(thetabox), words[0])
        assert command is not None, line
        assert command.make_context(words[0], words[1:]) is not None


def test_links_and_places_exist():
    for place in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / place).exists(), place
    for place in re.findall(r"`((?:thetabox|tests|docs|benchmarks)/[^`]*)`", README):
        assert (ROOT / place).exists(), place
