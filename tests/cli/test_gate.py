"""A stored certificate answers its own question: every option that asks another is refused, every edit is noticed."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import click
import numpy as np
import pytest
import torch

import thetabox as tb
from tests.cli.test_bad_input import refused
from thetabox.cli.commands import gate

SMALL = ("--data", "digits", "--samples", 10)
HERE = ("--epsilon", "1e-4", "--min-verified", 0.1)
OWN = ("--scale", "dense*=0.5", "--exclude", "conv1.bias", "--box-kind", "relative", "--domain", "interval")


@pytest.fixture(scope="module")
def made(cnn, tmp_path_factory) -> Path:
    """A folder with a certificate of ten digits, and beside it its model."""
    from click.testing import CliRunner

    from thetabox.cli import thetabox

    place = tmp_path_factory.mktemp("gate")
    shutil.copy(cnn, place / "cnn.safetensors")
    given = ["certify", place / "cnn.safetensors", *SMALL, "--epsilon", "0,1e-4,0.9", *OWN]
    result = CliRunner().invoke(
        thetabox, [str(a) for a in [*given, "--no-attack", "--no-radius", "--out", place / "out"]]
    )
    assert result.exit_code == 0, result.output
    return place / "out"


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A copy to spoil."""
    shutil.copytree(made.parent, tmp_path / "copy")
    path = tmp_path / "copy" / "out" / "certificate.json"
    found = json.loads(path.read_text())
    found["model"]["source"] = "cnn.safetensors"
    path.write_text(json.dumps(found))
    return path.parent


def test_it_passes_as_it_is(run, made):
    for target in (made, made / "certificate.json"):
        assert run("gate", target, *HERE).exit_code == 0
        assert run("gate", target, "--epsilon", 0.9, "--min-verified", 0.1).exit_code == 1


OTHER = {
    "--box-kind": "absolute",
    "--include": "dense*",
    "--exclude": "conv2.bias",
    "--scale": "*=100",
    "--fold": None,
    "--domain": "linear",
    "--option": "histories=4",
    "--effort": 3,
    "--budget": 1,
    "--criterion": "logits",
    "--arithmetic": "float32",
    "--precision": "float32",
    "--model": "convnet",
    "--set": "classes=10",
    "--data": "vowels",
    "--split": "train",
    "--samples": 9,
    "--data-dir": ".",
}
FREE = {"--epsilon", "--min-verified", "--junit", "--device", "--threads", "--seed", "--timeout", "--help"}


def test_every_option_of_the_command_is_one_or_the_other():
    options = {p.opts[0] for p in gate.command.params if isinstance(p, click.Option)}
    assert options - FREE == set(OTHER)


@pytest.mark.parametrize("option", OTHER)
def test_another_question_is_refused(run, made, option):
    value = [] if OTHER[option] is None else [OTHER[option]]
    refused(run("gate", made, *HERE, option, *value), option)
    # Nothing counts but that it was said: not the order, not that the certificate fails anyway.
    refused(run("gate", option, *value, made, "--epsilon", 0.9, "--min-verified", 1), option)


@pytest.mark.parametrize(
    "given",
    [
        OWN,
        ("--include", "*"),
        ("--criterion", "margin", "--arithmetic", "real", "--precision", "float64"),
        SMALL,
        ("--data", "digits", "--split", "test", "--samples", 10),
        ("--samples", 10),
        ("--seed", 3, "--threads", 1, "--device", "cpu"),
    ],
    ids=str,
)
def test_the_same_question_passes(run, made, given):
    result = run("gate", made, *HERE, *given)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "given",
    [
        ("--scale", "*=0"),
        ("--scale", "dense*=0.5", "--scale", "conv*=2"),
        ("--scale", "dense*=0.25"),
        ("--include", ""),
        ("--exclude", ""),
        ("--data", "digits"),
        ("--data", "digits", "--samples", 11),
        ("--data", "digits", "--samples", 10, "--split", "train"),
        ("--samples", 10, "--split", "test"),
        ("--domain", "auto"),
    ],
    ids=str,
)
def test_other_questions_that_look_alike(run, made, given):
    refused(run("gate", made, *HERE, *given), "--")


def test_both_values_are_said(run, made):
    refused(run("gate", made, *HERE, "--scale", "*=100"), "--scale *=100.0", "dense*=0.5")
    refused(run("gate", made, *HERE, "--arithmetic", "float32"), "float32", "real")


def test_patterns_are_compared_and_not_their_text(run, cnn, tmp_path):
    given = ("--include", "conv1.weight,dense1.weight", "--no-attack", "--no-radius", "--out", tmp_path / "out")
    assert run("certify", cnn, *SMALL, "--epsilon", "1e-4", "--domain", "interval", *given).exit_code == 0
    assert run("gate", tmp_path / "out", *HERE, "--include", " dense1.weight, conv1.weight").exit_code == 0
    refused(run("gate", tmp_path / "out", *HERE, "--include", "dense1.weight"), "--include")


def test_settings_of_the_domain(run, cnn, tmp_path):
    out = tmp_path / "out"
    given = ("--effort", 5, "--no-attack", "--no-radius", "--out", out)
    assert run("certify", cnn, *SMALL, "--epsilon", "1e-4", *given).exit_code == 0
    assert run("gate", out, *HERE, "--effort", 5).exit_code == 0
    assert run("gate", out, *HERE, "--option", "effort=5").exit_code == 0
    for other in (("--effort", 6), ("--option", "effort=6"), ("--effort", "inf")):
        refused(run("gate", out, *HERE, *other), other[0])


def test_an_option_of_which_nobody_has_said_how_it_compares(run, made, monkeypatch):
    novel = click.Option(["--novel"], default="as before")
    monkeypatch.setattr(gate.command, "params", [*gate.command.params, novel])
    assert run("gate", made, *HERE).exit_code == 0
    refused(run("gate", made, *HERE, "--novel", "as before"), "--novel")


# --- what changed since


def test_a_model_that_changed(run, folder):
    assert run("gate", folder, *HERE).exit_code == 0
    model = tb.load(folder.parent / "cnn.safetensors")
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    tb.save(model, folder.parent / "cnn.safetensors")
    refused(run("gate", folder, *HERE), "cnn.safetensors", "changed")
    refused(run("gate", folder / "certificate.json", *HERE), "changed")
    (folder.parent / "cnn.safetensors").unlink()
    result = run("gate", folder, *HERE)
    assert result.exit_code == 0, result.output
    assert "cnn.safetensors is not here" in result.stderr


def test_a_model_where_the_command_runs(run, folder, monkeypatch, tmp_path):
    (tmp_path / "deep").mkdir()
    shutil.move(folder.parent / "cnn.safetensors", tmp_path / "deep" / "cnn.safetensors")
    monkeypatch.chdir(tmp_path / "deep")
    assert run("gate", folder, *HERE).stderr == ""
    Path("cnn.safetensors").write_bytes(b"another")
    refused(run("gate", folder, *HERE), "changed")


def test_data_that_changed(run, cnn, npz, tmp_path):
    data = npz()
    given = ("--domain", "interval", "--no-attack", "--no-radius", "--out", tmp_path / "out")
    assert run("certify", cnn, "--data", data, "--samples", 8, "--epsilon", "1e-4", *given).exit_code == 0
    gated = ("gate", tmp_path / "out", *HERE)
    assert run(*gated).exit_code == 0
    assert run(*gated, "--data", data, "--samples", 8).exit_code == 0
    with np.load(data) as arrays:
        x, y = arrays["x"], arrays["y"]
    x[3] += 0.25
    np.savez(data, x=x, y=y)
    refused(run(*gated), "data.npz", "changed")
    refused(run(*gated, "--data", data, "--samples", 8), "--data", "other samples")
    data.unlink()
    assert run(*gated).exit_code == 0


def test_a_certificate_of_python_knows_its_data(run, cnn, tmp_path):
    data = tb.data.load("digits").subset(10)
    tb.certify(tb.load(cnn), data.x, data.y, [1e-4], domain="interval").save(tmp_path / "out")
    assert run("gate", tmp_path / "out", *HERE, *SMALL).exit_code == 0
    refused(run("gate", tmp_path / "out", *HERE, "--data", "digits", "--samples", 9), "--data")


# --- what is not finished, or not a share


def test_what_is_not_finished_does_not_pass(run, folder, tmp_path):
    path = folder / "certificate.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "finished": False}))
    result = run("gate", folder, "--epsilon", "1e-4", "--min-verified", 0, "--junit", tmp_path / "gate.xml")
    assert result.exit_code == 1
    assert result.output.startswith("not finished")
    assert "FAIL" not in result.output
    failure = ElementTree.parse(tmp_path / "gate.xml").getroot().find(".//failure")
    assert "not finished" in failure.attrib["message"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "finished": True}))
    assert run("gate", folder, *HERE).exit_code == 0


@pytest.mark.parametrize("share", ["nan", "NaN", "-nan", "inf", "-inf", "-0.1", "1.1", "much", "", "0,1"])
def test_shares_that_are_none(run, made, cnn, share):
    refused(run("gate", made, "--epsilon", "1e-4", f"--min-verified={share}"), "--min-verified")
    refused(run("gate", cnn, *SMALL, "--epsilon", "1e-4", f"--min-verified={share}"), "--min-verified")


@pytest.mark.parametrize("box", [("--include", ""), ("--scale", "*=0"), ("--exclude", "*")], ids=str)
@pytest.mark.parametrize("command", ["certify", "radius", "attack", "mismatch", "gate"])
def test_a_box_in_which_nothing_moves(run, cnn, tmp_path, box, command):
    epsilon = {"radius": (), "mismatch": ()}.get(command, ("--epsilon", "0,1e-3"))
    out = ("--min-verified", 0.1) if command == "gate" else ("--out", tmp_path / "out")
    refused(run(command, cnn, *SMALL, *epsilon, *box, *out), "no parameter is in the box")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--scale", "--include", "--exclude"])
@pytest.mark.parametrize("command", ["certify", "gate", "inspect"])
def test_patterns_with_a_slip(run, cnn, tmp_path, option, command):
    more = {
        "certify": (*SMALL, "--epsilon", "1e-3", "--out", tmp_path / "out"),
        "gate": (*SMALL, "--epsilon", "1e-3", "--min-verified", 0.1),
        "inspect": (),
    }[command]
    pattern = "dense1.wieght"
    refused(
        run(command, cnn, option, f"{pattern}=2" if option == "--scale" else pattern, *more), pattern, "dense1.weight"
    )


def test_a_pattern_with_two_factors(run, cnn, tmp_path):
    given = ("--scale", "conv*=2", "--scale", "conv*=3", "--out", tmp_path / "out")
    refused(run("certify", cnn, *SMALL, "--epsilon", "1e-3", *given), "two factors")


# --- edits


def edit_json(folder: Path, change) -> None:
    path = folder / "certificate.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_rows(folder: Path, change) -> None:
    path = folder / "samples.csv"
    rows = list(csv.reader(io.StringIO(path.read_text())))
    change(rows)
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")


def put(*keys, value):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


JSON = {
    "a count": put("curve", 2, "verified", value=10),
    "a share": put("curve", 2, "verified_accuracy", value=1.0),
    "no samples": put("curve", 0, "total", value=0),
    "fewer samples at one ε": put("curve", 1, "total", value=9),
    "a count of another kind": put("curve", 0, "verified", value=True),
    "a count below 0": put("curve", 0, "verified", value=-1),
    "a total as text": put("curve", 0, "total", value="10"),
    "another ε": put("curve", 2, "epsilon", value=2.0),
    "NaN for ε": put("curve", 2, "epsilon", value=float("nan")),
    "ε as text": put("curve", 2, "epsilon", value="0.9"),
    "ε below 0": put("curve", 0, "epsilon", value=-1e-3),
    "ε in another order": lambda c: c["curve"].reverse(),
    "no curve": put("curve", value=[]),
    "a point less": lambda c: c["curve"].pop(),
    "a point twice": lambda c: c["curve"].append(c["curve"][-1]),
    "clean accuracy": put("clean_accuracy", value=1.5),
    "no clean accuracy": lambda c: c.pop("clean_accuracy"),
    "sound as text": put("sound", value="false"),
    "finished as text": put("finished", value="false"),
    "finished as a number": put("finished", value=0),
    "samples of the data": put("data", "samples", value=11),
    "another kind of box": put("box", "kind", value="round"),
    "a box without its scale": lambda c: c["box"].pop("scale"),
    "a factor that is none": put("box", "scale", value={"*": float("nan")}),
    "patterns in a list": put("box", "include", value=["*"]),
    "an arithmetic": put("arithmetic", value="float16"),
    "a precision": put("precision", value=None),
    "a criterion": put("options", "criterion", value="hope"),
    "a domain": put("domain", value="better"),
    "a domain of another kind": put("domain", value=3),
    "options of another kind": put("options", value=[]),
    "the schema": put("schema", value="thetabox.certificate/2"),
}


@pytest.mark.parametrize("name", JSON)
def test_a_certificate_edited_by_hand(run, folder, name):
    edit_json(folder, JSON[name])
    refused(run("gate", folder, *HERE))


def cell(line: int, column: int, value: str):
    def change(rows):
        rows[line][column] = value

    return change


def swap(rows):
    rows[2], rows[3] = rows[3], rows[2]


def sign(rows):
    """A margin made positive, and its word with it."""
    row = next(row for row in rows[1:] if row[5] == "false")
    row[4], row[5] = "0.5", "true"


ROWS = {
    "a margin": lambda rows: rows[-1].__setitem__(4, "0.5"),
    "a margin and its word": sign,
    "the word alone": lambda rows: rows[-1].__setitem__(5, "true"),
    "another word": cell(1, 5, "yes"),
    "NaN": cell(1, 4, "nan"),
    "infinity": cell(1, 4, "inf"),
    "no number": cell(1, 4, ""),
    "a label": cell(1, 1, "9999"),
    "a label that is none": cell(1, 1, "-1"),
    "a prediction": lambda rows: [row.__setitem__(2, str((int(row[1]) + 1) % 10)) for row in rows[1:] if row[0] == "0"],
    "two rows the other way round": swap,
    "a row twice": lambda rows: rows.__setitem__(3, list(rows[2])),
    "a row less": lambda rows: rows.pop(),
    "a row more": lambda rows: rows.append(rows[-1]),
    "another ε": cell(2, 3, "0.5"),
    "a column more": lambda rows: rows[4].append("x"),
    "a column less": lambda rows: rows[4].pop(),
    "other columns": cell(0, 4, "bound"),
    "nothing": lambda rows: rows.clear(),
}


@pytest.mark.parametrize("name", ROWS)
def test_samples_edited_by_hand(run, folder, name):
    edit_rows(folder, ROWS[name])
    refused(run("gate", folder, *HERE))


def test_files_that_are_missing_or_damaged(run, folder):
    (folder / "samples.csv").write_bytes(b"\xff\xfe\x00")
    refused(run("gate", folder, *HERE), "samples.csv")
    (folder / "samples.csv").unlink()
    refused(run("gate", folder, *HERE), "samples.csv")
    (folder / "certificate.json").write_bytes(b"\xff\xfe")
    refused(run("gate", folder, *HERE), "certificate")
    (folder / "certificate.json").write_text("[" * 100_000)
    refused(run("gate", folder, *HERE), "certificate")
