"""Several models at one gate: each is judged, each is named, and one that is wrong keeps no other from its verdict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import thetabox as tb
from tests.cli.test_bad_input import refused
from thetabox import report
from thetabox.cli.commands import gate_box

HERE = ("--epsilon", "1e-4,1e-3", "--min-verified", 0.5)
YIELD = ("--sigma", 0.01, "--min-yield", 0.9, "--min-accuracy", 0.5)


def claims(folder: Path, weight: torch.Tensor) -> None:
    """A certificate and a proven yield of three samples, by the logits ``weight @ x``."""
    model = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(weight)
    x, y = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])
    tb.certify(model, x, y, [1e-4, 1e-3, 0.5], domain="interval").save(folder / "box")
    tb.certify_yield(model, x, y, [0.01]).save(folder / "yield")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Folders of a network that is good and of one that answers always the same."""
    place = tmp_path_factory.mktemp("several")
    claims(place / "good", torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    claims(place / "bad", torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
    return place


@pytest.fixture
def stored(made, monkeypatch) -> Path:
    monkeypatch.chdir(made)
    return made


def suites(file: Path) -> list[tuple[str, str, str, str]]:
    root = ElementTree.parse(file).getroot()
    return [tuple(suite.attrib[name] for name in ("name", "tests", "failures", "errors")) for suite in root]


@pytest.mark.slow
def test_all_pass(run, stored, tmp_path):
    result = run("gate", "good/box", "good/box/certificate.json", *HERE, "--junit", tmp_path / "gate.xml")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"pass  {name}: verified accuracy at ε = {e}: 3/3 = 1.0000, required 0.5"
        for name in ("good/box", "good/box/certificate.json")
        for e in ("0.0001", "0.001")
    ]
    assert [name for name, *_ in suites(tmp_path / "gate.xml")] == [
        "thetabox.gate good/box",
        "thetabox.gate good/box/certificate.json",
    ]


@pytest.mark.slow
def test_one_fails(run, stored, tmp_path):
    files = ("--junit", tmp_path / "gate.xml", "--summary", tmp_path / "gate.md")
    result = run("gate", "bad/box", "good/box", *HERE, *files)
    assert (result.exit_code, result.stderr) == (1, "")
    assert [line[:14] for line in result.stdout.splitlines()] == ["FAIL  bad/box:"] * 2 + ["pass  good/box"] * 2
    assert suites(tmp_path / "gate.xml") == [
        ("thetabox.gate bad/box", "2", "2", "0"),
        ("thetabox.gate good/box", "2", "0", "0"),
    ]
    root = ElementTree.parse(tmp_path / "gate.xml").getroot()
    assert [root.attrib[name] for name in ("name", "tests", "failures", "errors")] == ["thetabox.gate", "4", "2", "0"]
    # By which a CI system tells tests of the same name apart.
    assert len({(case.attrib["classname"], case.attrib["name"]) for case in root.iter("testcase")}) == 4
    table = (tmp_path / "gate.md").read_text().splitlines()
    assert table[2:4] == ["| | model | claim | found |", "| --- | --- | --- | --- |"]
    assert [row.split(" | ")[:2] for row in table[4:8]] == [["| ❌ fail", "bad/box"]] * 2 + [
        ["| ✅ pass", "good/box"]
    ] * 2


@pytest.mark.parametrize("wrong", ["none.pt", "good/yield"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_with_which_something_is_wrong(run, stored, tmp_path, wrong, place):
    files = ("--junit", tmp_path / "gate.xml", "--summary", tmp_path / "gate.md")
    models = ["good/box", "bad/box"]
    models.insert(place, wrong)
    result = run("gate", *models, *HERE, *files)
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 4
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"thetabox: {wrong}: ")
    expected = {"good/box": ("2", "0", "0"), "bad/box": ("2", "2", "0"), wrong: ("1", "0", "1")}
    assert suites(tmp_path / "gate.xml") == [(f"thetabox.gate {m}", *expected[m]) for m in models]
    assert f"| ⚠️ no answer | {wrong} |" in (tmp_path / "gate.md").read_text()
    document = json.loads(run("gate", *models, *HERE, "--json").stdout)
    assert (document["pass"], document["finished"]) == (False, False)
    assert [entry["model"] for entry in document["models"]] == models
    entries = {entry["model"]: entry for entry in document["models"]}
    assert (entries[wrong]["pass"], entries[wrong]["claims"]) == (False, [])
    assert line.endswith(entries[wrong]["error"])
    assert entries["good/box"]["pass"]
    assert "error" not in entries["good/box"]


def test_an_entry_is_the_document_of_the_model_alone(run, stored):
    several = json.loads(run("gate", "good/box", "bad/box", *HERE, "--json").stdout)
    assert (several["pass"], several["finished"]) == (False, True)
    for entry in several["models"]:
        alone = json.loads(run("gate", entry.pop("model"), *HERE, "--json").stdout)
        assert entry == alone


def test_yields(run, stored, tmp_path):
    result = run("gate", "good/yield", "bad/yield", *YIELD, "--junit", tmp_path / "gate.xml")
    assert result.exit_code == 1, result.output
    first, second = result.stdout.splitlines()
    assert first.startswith("pass  good/yield: proven yield at σ = 0.01: at least 0.9 of all chips reach 3/3")
    assert second.startswith("FAIL  bad/yield: proven yield at σ = 0.01")
    assert run("gate", "good/yield", "good/box", *YIELD).exit_code == 2


def test_models_and_what_is_stored_of_them_side_by_side(run, cnn, mlp, tmp_path):
    given = ("--data", "digits", "--samples", 4, "--epsilon", "1e-4")
    files = ("--domain", "interval", "--no-attack", "--no-radius", "--out", tmp_path / "out")
    assert run("certify", cnn, *given, *files).exit_code == 0
    result = run("gate", cnn, mlp, tmp_path / "out", *given, "--min-verified", 0.1, "--domain", "interval")
    assert (result.exit_code, result.stderr) == (0, "")
    own = [line.split(": ", 1) for line in result.stdout.splitlines()]
    assert [name for name, _ in own] == [f"pass  {path}" for path in (cnn, mlp, tmp_path / "out")]
    assert own[0][1] == own[2][1]


def test_a_word_on_a_file_that_is_gone_names_what_it_is_about(run, cnn, stored, tmp_path):
    shutil.copy(cnn, tmp_path / "gone.safetensors")
    given = (
        "--data",
        "digits",
        "--samples",
        4,
        "--epsilon",
        "1e-3",
        "--domain",
        "interval",
        "--no-attack",
        "--no-radius",
    )
    assert run("certify", tmp_path / "gone.safetensors", *given, "--out", tmp_path / "out").exit_code == 0
    (tmp_path / "gone.safetensors").unlink()
    said = f"{tmp_path / 'gone.safetensors'} is not here, so whether it has changed since the proof was not looked at"
    claim = ("--epsilon", "1e-3", "--min-verified", 0)
    assert run("gate", tmp_path / "out", *claim).stderr == f"thetabox: {said}\n"
    result = run("gate", "good/box", tmp_path / "out", *claim)
    assert (result.exit_code, result.stderr) == (0, f"thetabox: {tmp_path / 'out'}: {said}\n")


def test_a_claim_that_is_none_is_one_line(run, stored, tmp_path):
    for given in (("--epsilon", 1e-3), ("--sigma", 0.01, "--min-yield", 1, "--min-accuracy", 0.5)):
        refused(run("gate", "good/box", "bad/box", *given, "--junit", tmp_path / "gate.xml"))
        assert [suite[3] for suite in suites(tmp_path / "gate.xml")] == ["1", "1"]


def test_no_model_at_all(run, tmp_path):
    refused(run("gate", *HERE, "--junit", tmp_path / "gate.xml"), "MODEL")
    assert suites(tmp_path / "gate.xml") == [("thetabox.gate", "1", "0", "1")]


def test_what_was_judged_before_an_interrupt_is_kept(run, stored, tmp_path, monkeypatch):
    file, asked = tmp_path / "gate.xml", []
    own = gate_box._stored

    def interrupt(context, path):
        asked.append(path)
        # What a run that is killed now leaves.
        assert [suite[3] for suite in suites(file)] == ["0"] * (len(asked) - 1) + ["1"] * (4 - len(asked))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return own(context, path)

    monkeypatch.setattr(gate_box, "_stored", interrupt)
    files = ("--junit", file, "--summary", tmp_path / "gate.md")
    result = run("gate", "good/box", "bad/box", "good/box/certificate.json", *HERE, *files)
    assert result.exit_code == 130
    assert len(result.stdout.splitlines()) == 2
    assert [suite[1:] for suite in suites(file)] == [("2", "0", "0"), ("1", "0", "1"), ("1", "0", "1")]
    assert (tmp_path / "gate.md").read_text().count("interrupted") == 2


def test_verdicts_that_do_not_reach_the_summary(run, stored, tmp_path):
    files = ("--junit", tmp_path / "gate.xml", "--summary", tmp_path / "none" / "gate.md")
    refused(run("gate", "good/box", "good/box/certificate.json", *HERE, *files), "gate.md")
    assert [suite[3] for suite in suites(tmp_path / "gate.xml")] == ["0", "0", "1"]


def test_an_error_of_ours_is_no_bad_input(run, stored, monkeypatch):
    def broken(*args):
        raise RuntimeError("a slip")

    monkeypatch.setattr(gate_box, "_computed", broken)
    result = run("gate", "model.pt", "good/box", *HERE)
    assert result.exit_code == 70
    assert len(result.stdout.splitlines()) == 2
    assert "model.pt: unexpected RuntimeError: a slip" in result.stderr


def test_what_no_xml_file_may_hold(tmp_path):
    """Names of files may hold it."""
    case = report.Case("a\x01b", failure="\x00\ud800 ünd 🙂", output="\uffff")
    report.write_suites(tmp_path / "x.xml", "s\x1b", [report.Suite("n\x08", [case], 1.0), report.Suite("m", [], 0.5)])
    root = ElementTree.parse(tmp_path / "x.xml").getroot()
    assert (root.attrib["name"], root.attrib["time"]) == ("s\ufffd", "1.500")
    assert root.find(".//failure").text == "\ufffd\ufffd ünd 🙂"
    assert root.find(".//testcase").attrib["name"] == "a\ufffdb"


def test_a_notice_names_the_model_that_it_is_about(run, mlp, tmp_path):
    """A state dict inside another is read, which is said of that file alone."""
    nested = tmp_path / "nested.pt"
    torch.save({"epoch": 3, "state_dict": tb.load(mlp).state_dict()}, nested)
    how = ("--model", "mlp", "--set", "sizes=[64,32,10]")
    given = ("--data", "digits", "--samples", 4, "--epsilon", "1e-4", "--min-verified", 0, "--domain", "interval")
    alone = run("gate", nested, *how, *given).stderr
    assert alone.startswith("thetabox: ")
    assert len(alone.splitlines()) == 1
    both = run("gate", nested, nested, *how, *given)
    assert both.exit_code == 0
    assert both.stderr == alone.replace("thetabox: ", f"thetabox: {nested}: ") * 2
