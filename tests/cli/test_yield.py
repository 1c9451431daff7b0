"""`thetabox yield`: the folder, the words, refusals, interrupts."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import thetabox as tb
from tests.cli.interrupting import POSIX, said
from tests.cli.test_bad_input import refused
from tests.cli.test_commands import names, ok
from thetabox.cli.commands import yield_
from thetabox.verify.yields import search
from thetabox.verify.yields.martingale import Martingale
from thetabox.verify.yields.search import FIRST

DIGITS = ("--data", "digits", "--samples", 10)
# The quickest proof.
SMALL = (*DIGITS, "--method", "martingale")
QUICK = (*SMALL, "--draws", 0)
FILES = ["report.html", "samples.csv", "yield.json", "yield.pdf", "yield.png"]


@pytest.mark.slow
def test_it_writes_the_folder_and_says_the_claims(run, mlp, tmp_path):
    out = tmp_path / "out"
    result = ok(run("yield", mlp, *DIGITS, "--sigma", "0.05,0.01", "--out", out))
    assert names(out) == sorted([*FILES, "sampled.json"])
    # The command says what the library says, though it takes one σ after the other.
    test, model = tb.data.load("digits").subset(10), tb.load(mlp)
    info = {"source": str(mlp), "kind": "file", "sha256": tb.models.sha256(mlp)}
    found = tb.certify_yield(model, test.x, test.y, [0.05, 0.01], model_info=info, data_info=test.info)
    assert json.loads((out / "yield.json").read_text()) == found.to_json()
    assert tb.YieldCertificate.load(out).to_json() == found.to_json()
    assert found.proven[1].any()
    rows = list(csv.DictReader((out / "samples.csv").open(newline="")))
    assert [float(row["delta"]) for row in rows] == found.delta.flatten().tolist()
    for place in range(2):
        assert found.claim(place) in result.output
    page = (out / "report.html").read_text()
    assert "proven by" in page
    # Draws beside, of the same question.
    sampled = json.loads((out / "sampled.json").read_text())
    own = tb.sampled_yield(model, test.x, test.y, [0.05, 0.01])
    assert [level["accuracy"] for level in sampled["levels"]] == own.accuracy.tolist()
    assert (sampled["draws"], sampled["confidence"], sampled["share"]) == (459, 0.99, 0.99)
    assert "statistical, not proof" in result.output
    assert "statistical: confidence, not proof" in page
    assert f"report: {out}/report.html" in result.output


def test_without_draws(run, mlp, tmp_path):
    result = ok(run("yield", mlp, *QUICK, "--sigma", 0.01, "--out", tmp_path))
    assert names(tmp_path) == FILES
    assert "sampled" not in result.output


def test_every_part_of_the_question_arrives(run, mlp, tmp_path):
    given = (
        *("--noise-scale", "*weight=0.5", "--noise-scale", "*=0.25", "--correlated", "chip=0.5"),
        *("--correlated", "layer=0.1", "--drift", "dense1*=-0.01", "--drift", "*bias=0.02"),
        *("--drift-bound", "*bias=0.001", "--delta", 0.05),
        *("--box-kind", "range", "--exclude", "dense2.bias", "--scale", "*=0.1"),
    )
    result = ok(run("yield", mlp, *SMALL, "--sigma", 0.01, *given, "--out", tmp_path))
    found = tb.YieldCertificate.load(tmp_path)
    assert list(found.noise.scale.items()) == [("*weight", 0.5), ("*", 0.25)]
    assert found.noise.correlated == {"chip": 0.5, "layer": 0.1}
    assert list(found.noise.drift.items()) == [("dense1*", -0.01), ("*bias", 0.02)]
    assert found.noise.drift_bound == {"*bias": 0.001}
    assert found.box == tb.Box("range", exclude="dense2.bias", scale={"*": 0.1})
    assert (found.method, found.asked) == ("martingale", 0.05)
    # An unknown drift has no distribution, so no chip is drawn of it.
    assert not (tmp_path / "sampled.json").exists()
    assert "no chips were drawn" in result.stderr


def test_subgaussian_errors_are_proven_and_not_drawn(run, mlp, tmp_path):
    result = ok(run("yield", mlp, *SMALL, "--sigma", 0.01, "--noise", "subgaussian", "--out", tmp_path))
    assert tb.YieldCertificate.load(tmp_path).noise.kind == "subgaussian"
    assert names(tmp_path) == FILES
    assert "no chips were drawn" in result.stderr
    sampled = run("yield", mlp, *SMALL, "--noise", "subgaussian", "--sampled-only", "--out", tmp_path / "s")
    refused(sampled, "family of distributions")


def test_settings_of_the_draws(run, mlp, tmp_path):
    given = ("--draws", 100, "--confidence", 0.6, "--seed", 7)
    ok(run("yield", mlp, *SMALL, "--sigma", 0.1, *given, "--out", tmp_path))
    sampled = json.loads((tmp_path / "sampled.json").read_text())
    assert (sampled["draws"], sampled["confidence"], sampled["seed"]) == (100, 0.6, 7)


# --- networks that the proof refuses


def refusing(folder: Path, line: str) -> Path:
    """A dense network with a line that no proof of yield follows."""
    (folder / "own.py").write_text(
        "import torch\n\n\nclass Own(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.one = torch.nn.Linear(64, 64)\n"
        "        self.head = torch.nn.Linear(64, 10)\n\n"
        f"    def forward(self, x):\n        x = x.flatten(1)\n        return self.head({line})\n"
    )
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"one": torch.nn.Linear(64, 64), "head": torch.nn.Linear(64, 10)})
    torch.save(model.state_dict(), folder / "own.pt")
    return folder / "own.pt"


@pytest.mark.parametrize(
    ("line", "why"),
    [("(x @ self.one.weight.abs()).relu()", "abs"), ("torch.special.i0(self.one(x))", "special_i0")],
    ids=["noise through an operator", "no rule"],
)
def test_a_network_that_is_refused_is_drawn_only_when_asked(run, tmp_path, monkeypatch, line, why):
    path = refusing(tmp_path, line)
    monkeypatch.chdir(tmp_path)
    given = ("yield", path, "--model", "own.py:Own", *SMALL, "--sigma", "0.02,0.1", "--out", tmp_path / "out")
    refused(run(*given), why, "--sampled-only")
    assert not (tmp_path / "out").exists()
    refused(run(*given, "--sampled-only", "--draws", 0), "--sampled-only", "--draws")
    result = ok(run(*given, "--sampled-only"))
    assert names(tmp_path / "out") == ["sampled.json"]
    found = json.loads((tmp_path / "out" / "sampled.json").read_text())
    assert found["schema"] == "thetabox.sampled_yield/1"
    assert found["model"]["code"] == "own.py:Own"
    assert [level["sigma"] for level in found["levels"]] == [0.02, 0.1]
    assert "statistical, not proof" in result.output
    assert "proven" not in result.output


@pytest.mark.slow
def test_a_spiking_network_is_drawn(run, lsnn, tmp_path):
    given = ("--data", "vowels", "--samples", 4, "--sigma", 0.05, "--sampled-only", "--out", tmp_path)
    ok(run("yield", lsnn, *given))
    assert names(tmp_path) == ["sampled.json"]


# --- bad input


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (("--sigma", "nan"), "--sigma"),
        (("--sigma", "-0.1"), "--sigma"),
        (("--sigma", "0.1,0.1"), "twice"),
        (("--sigma", "much"), "--sigma"),
        (("--delta", 0), "--delta"),
        (("--delta", 1), "--delta"),
        (("--delta", "nan"), "--delta"),
        (("--draws", 10), "459"),
        (("--draws", -1), "--draws"),
        (("--confidence", 1), "--confidence"),
        (("--noise", "uniform"), "uniform"),
        (("--noise-scale", "*=-1"), "at least 0"),
        (("--noise-scale", "*=nan"), "nan"),
        (("--noise-scale", "*=1", "--noise-scale", "*=2"), "--noise-scale"),
        (("--noise-scale", "nothing*=1"), "matches none"),
        (("--correlated", "wafer=1"), "wafer"),
        (("--drift", "dense1*"), "--drift"),
        (("--method", "hope"), "hope"),
        (("--include", "nothing"), "nothing"),
        (("--timeout", "nan"), "--timeout"),
        (("--epsilon", "0.1"), "--epsilon"),
        (("--sigma", "0.1", "--sigma", "0.2"), "twice"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(run, mlp, tmp_path, given, part):
    refused(run("yield", mlp, *DIGITS, *given, "--out", tmp_path / "out"), part)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_a_box_is_left_alone(run, mlp, tmp_path):
    ok(run("certify", mlp, *DIGITS, "--epsilon", "1e-4", "--no-attack", "--no-radius", "--out", tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    refused(run("yield", mlp, *QUICK, "--sigma", 0.01, "--out", tmp_path), "another claim")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_of_a_yield_is_left_alone_before_any_proof(run, mlp, tmp_path, monkeypatch):
    ok(run("yield", mlp, *QUICK, "--sigma", 0.01, "--out", tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(tb, "certify", None)
    refused(run("certify", mlp, *DIGITS, "--epsilon", "1e-4", "--out", tmp_path), "another claim")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- interrupts and time


@POSIX
def test_interrupted_before_anything_is_read(run, mlp, tmp_path, monkeypatch, interrupted):
    monkeypatch.setattr(yield_, "read_all", interrupted)
    assert "had not begun" in said(run("yield", mlp, *SMALL, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@POSIX
def test_interrupted_before_the_first_part_is_done(run, mlp, tmp_path, monkeypatch, interrupted):
    monkeypatch.setattr(Martingale, "failure", interrupted)
    line = said(run("yield", mlp, *QUICK, "--out", tmp_path / "out"))
    assert "nothing was kept" in line
    assert "no part of the proof" in line
    assert not (tmp_path / "out").exists()


def after(count: int, instead: Any) -> Any:
    """A proof that does something else after so many first runs of a part, and a list of their σ and sizes."""
    real, asked = Martingale.failure, []

    def call(self: Any, x: Any, y: Any, sigma: Any, spent: Any) -> Any:
        if float(spent[0]) == FIRST * 0.01:
            if len(asked) == count:
                instead()
            asked.append((float(sigma[0]), len(y)))
        return real(self, x, y, sigma, spent)

    return call, asked


@pytest.mark.slow
@POSIX
def test_finished_parts_are_kept_and_not_proven_again(run, mlp, tmp_path, monkeypatch, interrupted):
    monkeypatch.setattr(search, "PART", 4)
    given = ("yield", mlp, *QUICK, "--sigma", "0.01,0.02", "--out")
    with monkeypatch.context() as patched:
        call, all_ = after(99, interrupted)
        patched.setattr(Martingale, "failure", call)
        ok(run(*given, tmp_path / "whole"))
    assert {sigma for sigma, _ in all_} == {0.01, 0.02}
    assert all(size <= 4 for _, size in all_)
    with monkeypatch.context() as patched:
        call, asked = after(len(all_) // 2 + 1, interrupted)
        patched.setattr(Martingale, "failure", call)
        line = said(run(*given, tmp_path / "out"))
    assert asked == all_[: len(asked)]
    assert "the finished part is kept" in line
    assert names(tmp_path / "out") == ["partial"]
    # Another question does not take what is not its own.
    for change in (("--noise-scale", "*=1.5"), ("--exclude", "dense1.bias"), ("--noise", "subgaussian")):
        other = tmp_path / "-".join(change).replace("*", "")
        shutil.copytree(tmp_path / "out", other)
        with monkeypatch.context() as patched:
            call, anew = after(99, interrupted)
            patched.setattr(Martingale, "failure", call)
            ok(run(*given, other, *change))
        assert len(anew) == len(all_)
    # The same one goes on, and ends in the same files.
    call, rest = after(99, interrupted)
    monkeypatch.setattr(Martingale, "failure", call)
    ok(run(*given, tmp_path / "out"))
    assert asked + rest == all_
    assert names(tmp_path / "out") == FILES
    for name in ("yield.json", "samples.csv", "yield.png", "yield.pdf"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "of other samples", "a claim that is none"])
def test_a_damaged_part_is_proven_anew(run, mlp, tmp_path, monkeypatch, damage):
    def stop() -> None:
        raise KeyboardInterrupt

    given = ("yield", mlp, *QUICK, "--sigma", "0.01,0.02", "--out", tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Martingale, "failure", after(1, stop)[0])
        said(run(*given))
    (kept,) = tmp_path.glob("partial/*/0.01-0.safetensors")
    if damage == "cut":
        kept.write_bytes(kept.read_bytes()[:-3])
    else:
        held = load_file(kept)
        if damage == "of other samples":
            held["members"][0] += 1
        else:
            held["delta"][0] = -1.0
        save_file(held, kept)
    call, asked = after(9, stop)
    monkeypatch.setattr(Martingale, "failure", call)
    ok(run(*given))
    assert [sigma for sigma, _ in asked] == [0.01, 0.02]


@POSIX
def test_the_proof_is_written_before_the_draws(run, mlp, tmp_path, monkeypatch, interrupted):
    def stop(*args: Any, **kwargs: Any) -> None:
        assert tb.YieldCertificate.load(tmp_path / "out").sigma.tolist() == [0.01]
        interrupted()

    monkeypatch.setattr(tb, "sampled_yield", stop)
    line = said(run("yield", mlp, *SMALL, "--sigma", 0.01, "--out", tmp_path / "out"))
    assert "holds the proof" in line
    assert set(FILES) <= set(names(tmp_path / "out"))


@pytest.mark.slow
def test_what_time_cuts_is_said_and_goes_on(run, mlp, tmp_path):
    given = ("yield", mlp, *SMALL, "--sigma", "0.01,0.02", "--out", tmp_path)
    result = ok(run(*given, "--timeout", 0))
    assert "not finished: 0 s were over before all of the proof" in result.output
    assert "the draws" in result.output
    assert not tb.YieldCertificate.load(tmp_path).finished
    result = ok(run(*given, "--timeout", 1000))
    assert "not finished" not in result.output
    assert tb.YieldCertificate.load(tmp_path).finished
