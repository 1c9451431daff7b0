"""The GitHub Action's own script, run by bash with what a workflow gives it, and the summary that it leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import thetabox as tb
from tests.cli.conftest import ROOT

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
bash = shutil.which("bash")
pytestmark = pytest.mark.skipif(bash is None, reason="there is no bash here")

ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
GATE = ACTION["runs"]["steps"][-1]


@pytest.fixture
def act(tmp_path):
    """The gate's step in an empty repository."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "thetabox").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m thetabox "$@"\n')
    (commands / "thetabox").chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()

    def run(**inputs: str) -> subprocess.CompletedProcess[str]:
        given = {name: str(one.get("default", "")) for name, one in ACTION["inputs"].items()} | inputs
        place = {f"${{{{ inputs.{name} }}}}": value for name, value in given.items()}
        values = {name: place[expression] for name, expression in GATE["env"].items()}
        environment = {
            **os.environ,
            **values,
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "GITHUB_STEP_SUMMARY": str(work / "summary.md"),
        }
        # As GitHub runs `shell: bash`.
        command = [bash, "--noprofile", "--norc", "-eo", "pipefail", "-c", GATE["run"]]
        return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, 4), torch.rand(5, 3)
    folder = tmp_path_factory.mktemp("action") / "a folder"
    tb.certify(model, x, model(x).argmax(1), [0, 1e-4, 0.9], domain="interval").save(folder)
    return folder


def summary(folder: Path) -> str:
    return (folder / "work" / "summary.md").read_text()


@pytest.mark.slow
def test_it_passes_and_fails_as_the_gate_does(act, stored, tmp_path):
    assert act(model=str(stored), epsilon="1e-4", **{"min-verified": "0.5"}).returncode == 0
    assert "| ✅ pass | verified accuracy at epsilon 0.0001 is at least 0.5 |" in summary(tmp_path)
    failed = act(model=str(stored), epsilon="0.9", **{"min-verified": "1"}, junit="x.xml")
    assert failed.returncode == 1
    assert summary(tmp_path).count("### thetabox.gate") == 2  # below what the step before has written
    assert "❌ fail" in summary(tmp_path)
    assert (tmp_path / "work" / "x.xml").is_file()
    assert (tmp_path / "work" / "thetabox-gate.xml").is_file()


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize("options", ["--domain=linear", "--no-such-option", "--epsilon=x"])
def test_no_answer_stands_in_the_summary(act, stored, tmp_path, options):
    result = act(model=str(stored), epsilon="1e-4", options=options, **{"min-verified": "0.5"})
    assert result.returncode == 2
    assert "⚠️ no answer" in summary(tmp_path)


@pytest.mark.long
def test_options_are_words_and_no_commands(act, stored, tmp_path):
    nasty = "$(touch hacked); touch hacked; `touch hacked`"
    for inputs in (
        {"model": nasty},
        {"model": str(stored), "options": nasty},
        {"model": str(stored), "epsilon": nasty},
    ):
        assert act(**{"epsilon": "1e-4", "min-verified": "0.5", **inputs}).returncode == 2
    assert not (tmp_path / "work" / "hacked").exists()


def test_texts_end_no_cell(tmp_path):
    from thetabox import report

    case = report.Case("a | b", failure="<script>\nx | y")
    report.append_summary(tmp_path / "s.md", "gate", [case])
    row = (tmp_path / "s.md").read_text().splitlines()[4]
    assert row == r"| ❌ fail | a \| b | &lt;script> x \| y |"


def test_a_summary_that_cannot_be_written_is_one_line(run, stored, tmp_path):
    for place in (tmp_path, tmp_path / "none" / "s.md"):
        result = run("gate", stored, "--epsilon", "1e-4", "--min-verified", 0, "--summary", place)
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1


def test_every_input_is_used():
    text = (ROOT / "action.yml").read_text()
    assert [name for name in ACTION["inputs"] if f"inputs.{name} " not in text] == []
    assert all("${{" not in step["run"] for step in ACTION["runs"]["steps"])


@pytest.mark.long
def test_several_models_one_a_line(act, stored, tmp_path):
    shutil.copytree(stored, tmp_path / "work" / "-other folder")
    claim = {"epsilon": "1e-4", "min-verified": "0.5"}
    assert act(model=f"{stored}\n-other folder\n", **claim).returncode == 0
    assert summary(tmp_path).count("✅ pass") == 2
    assert "| ✅ pass | -other folder | verified accuracy at epsilon 0.0001" in summary(tmp_path)
    assert act(model=f"{stored}\n$(touch hacked)", **claim).returncode == 2
    assert act(model="", **claim).returncode == 2
    assert not (tmp_path / "work" / "hacked").exists()
