"""A stored certificate answers its own question: every option that asks another is refused, every edit is noticed."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree

import click
import numpy as np
import pytest
import torch

import thetabox as tb
from tests.cli.conftest import ROOT
from tests.cli.gated import OF_THE_RUN, copied, written
from tests.cli.test_bad_input import refused
from thetabox.cli.commands import gate, gate_box

SMALL = ("--data", "digits", "--samples", 10)
HERE = ("--epsilon", "1e-4", "--min-verified", 0.1)
OWN = ("--scale", "dense*=0.5", "--exclude", "conv1.bias", "--box-kind", "relative", "--domain", "interval")


@pytest.fixture(scope="module")
def made(cnn, tmp_path_factory) -> Path:
    """A folder with a certificate of ten digits, and beside it its model."""
    given = (*SMALL, "--epsilon", "0,1e-4,0.9", *OWN, "--no-attack", "--no-radius")
    return written(tmp_path_factory.mktemp("gate"), cnn, "certify", *given)


@pytest.fixture
def folder(made, cnn, tmp_path) -> Path:
    """A copy to spoil."""
    return copied(made, tmp_path, "certificate.json", cnn)


@pytest.mark.slow
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
    "--dynamics": "norse",
    "--data": "vowels",
    "--split": "train",
    "--samples": 9,
    "--data-dir": ".",
    "--sigma": 0.1,
    "--min-yield": 0.9,
    "--min-accuracy": 0.9,
    "--noise": "gaussian",
    "--noise-scale": "*=1",
    "--correlated": "chip=0.5",
    "--drift": "*=0",
    "--drift-bound": "*=0",
    "--method": "auto",
}
FREE = {"--epsilon", "--min-verified", *OF_THE_RUN}


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


@pytest.mark.slow
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


@pytest.mark.slow
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
    result = run(*gated)
    assert result.exit_code == 0
    assert "data.npz is not here" in result.stderr


def spoil(path: Path, to: Path | None = None) -> None:
    with np.load(path) as arrays:
        held = dict(arrays)
    held["x"][3] += 0.25
    with (to or path).open("wb") as file:
        np.savez(file, **held)


@pytest.fixture
def place(run, cnn, npz, tmp_path, monkeypatch) -> Path:
    """A folder with a model and data in folders of their own, and a certificate that names them from there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(npz("data/hold.npz"), "data/hold")
    shutil.copy(cnn, tmp_path / "net")
    quick = ("--epsilon", "1e-4", "--domain", "interval", "--no-attack", "--no-radius")
    for name in ("hold", "hold.npz"):
        assert run("certify", "net", "--data", f"data/{name}", *quick, "--out", f"of {name}").exit_code == 0
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hold", "hold.npz"])
def test_data_are_found_by_the_path_that_was_given(run, place, monkeypatch, name):
    said = json.loads(Path(f"of {name}", "certificate.json").read_text())["data"]
    assert said["name"] == name
    assert said["path"] == f"data/{name}"
    spoil(Path("data", name), Path(name))  # of the same name, and no concern of the certificate's
    result = run("gate", f"of {name}", *HERE)
    assert (result.exit_code, result.stderr) == (0, "")
    shutil.copy(Path("data", name), Path("elsewhere", name))
    spoil(Path("data", name))
    refused(run("gate", f"of {name}", *HERE), f"data/{name}", "changed")
    monkeypatch.chdir(place / "elsewhere")  # where a file as it was excuses nothing
    refused(run("gate", place / f"of {name}", *HERE), f"data/{name}", "changed")
    Path("..", "data", name).unlink()
    assert run("gate", place / f"of {name}", *HERE).stderr == ""
    spoil(Path(name))
    refused(run("gate", place / f"of {name}", *HERE), name, "changed")


@pytest.mark.slow
def test_a_model_without_a_suffix(run, place):
    assert run("gate", "of hold", *HERE).exit_code == 0
    shutil.copy("net", "of hold/net")
    model = tb.load("net")
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    tb.save(model, "net")
    refused(run("gate", "of hold", *HERE), "net", "changed")
    Path("net").unlink()
    assert run("gate", "of hold", *HERE).stderr == ""  # found in the certificate's folder
    Path("of hold", "net").unlink()
    assert "net is not here" in run("gate", "of hold", *HERE).stderr


def test_a_class_is_no_file(run, cnn, tmp_path, monkeypatch):
    data = tb.data.load("digits").subset(10)
    found = tb.certify(tb.load(cnn), data.x, data.y, [1e-4], domain="interval", data_info={"mine": [1]})
    found.save(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    Path(found.model_info["source"]).write_text("a file that happens to be called so")
    result = run("gate", "out", *HERE)
    assert (result.exit_code, result.stderr) == (0, "")
    assert tb.Certificate.load("out").data_info["mine"] == [1]


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


@pytest.mark.parametrize("share", ["1e-11", "1e-400", "1e-99999", "0.00000000000000000001"])
def test_a_share_is_as_it_is_written(run, made, share):
    result = run("gate", made, "--epsilon", 0.9, "--min-verified", share)
    assert result.exit_code == 1, result.output
    assert "0/10" in result.output
    assert run("gate", made, "--epsilon", 0.9, "--min-verified", 0).exit_code == 0


@pytest.mark.parametrize(("share", "status"), [("0.9", 0), ("0.90", 0), ("9e-1", 0), ("0.90000000000000000001", 1)])
def test_a_share_of_ten_samples(share, status):
    margin = torch.ones(1, 10, dtype=torch.float64)
    margin[0, 0] = -1
    nine = tb.Certificate(torch.tensor([0.1]).double(), margin, torch.zeros(10).long(), torch.zeros(10).long())
    assert (gate_box._case(nine, 0.1, Decimal(share)).failure is not None) == status


# --- who reads the answer


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("away", ["stdout", "stderr", "both", "closed"])
@pytest.mark.parametrize(("epsilon", "status"), [pytest.param("1e-4", 0, marks=pytest.mark.long), ("0.9", 1)])
def test_nobody_needs_to_read_the_answer(folder, away, epsilon, status):
    (folder.parent / "cnn.safetensors").unlink()  # so that there is something to be said on standard error, too
    command = f"{sys.executable} -m thetabox gate '{folder}' --epsilon {epsilon} --min-verified 0.1"
    line = {
        "stdout": f"({command}; echo $? > status) 2> errors | true",
        "stderr": f"({command} 2>&1 > answers; echo $? > status) | true",
        "both": f"({command} 2>&1; echo $? > status) | true",
        "closed": f"{command} >&- 2>&-; echo $? > status",
    }[away]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(["sh", "-c", line], cwd=folder.parent, env=environment, timeout=300, check=False)
    assert (folder.parent / "status").read_text().split() == [str(status)]
    if away == "stdout":
        assert "Traceback" not in (folder.parent / "errors").read_text()


@pytest.mark.slow
def test_a_terminal_that_knows_no_greek(made):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "thetabox", "gate", made, *HERE]
    found = subprocess.run([str(c) for c in command], env=environment, capture_output=True, timeout=300, check=False)
    assert (found.returncode, found.stderr) == (0, b"")
    assert found.stdout.startswith(b"pass")


@pytest.mark.parametrize(
    "given",
    [
        ("none", *HERE),
        ("MADE", "--epsilon", "7", "--min-verified", 0.1),
        ("MADE", *HERE, "--scale", "*=100"),
        ("MADE", "--epsilon", "1e-4", "--min-verified", "nan"),
        ("MADE", *HERE, "--nonsense"),
        ("--nonsense", "MADE", *HERE),
        ("MADE", *HERE, "--epsilon", "1e-4"),
        ("MADE", "--epsilon", "1e-4"),
    ],
    ids=str,
)
def test_no_earlier_answer_stands_where_there_is_none(run, made, tmp_path, given):
    file = tmp_path / "gate.xml"
    assert run("gate", made, *HERE, "--junit", file).exit_code == 0
    assert ElementTree.parse(file).getroot().attrib["errors"] == "0"
    result = run("gate", *(made if one == "MADE" else one for one in given), "--junit", file)
    refused(result)
    root = ElementTree.parse(file).getroot()
    assert (root.attrib["tests"], root.attrib["errors"]) == ("1", "1")
    assert root.find(".//error").attrib["message"] in result.stderr


def test_an_interrupted_gate_leaves_no_answer(run, made, tmp_path, monkeypatch):
    """Nor does one that was killed, which has no time to say so."""
    file = tmp_path / "gate.xml"
    assert run("gate", made, *HERE, "--junit", file).exit_code == 0

    def interrupt(*args: object) -> None:
        assert "the gate did not end" in file.read_text(encoding="utf-8")
        raise KeyboardInterrupt

    monkeypatch.setattr(gate_box, "_stored", interrupt)
    assert run("gate", made, *HERE, "--junit", file).exit_code == 130
    assert ElementTree.parse(file).getroot().attrib["errors"] == "1"


@pytest.mark.thin(3)
@pytest.mark.parametrize("box", [("--include", ""), ("--scale", "*=0"), ("--exclude", "*")], ids=str)
@pytest.mark.parametrize("command", ["certify", "radius", "attack", "mismatch", "gate"])
def test_a_box_in_which_nothing_moves(run, cnn, tmp_path, box, command):
    epsilon = {"radius": (), "mismatch": ()}.get(command, ("--epsilon", "0,1e-3"))
    out = ("--min-verified", 0.1) if command == "gate" else ("--out", tmp_path / "out")
    refused(run(command, cnn, *SMALL, *epsilon, *box, *out), "no parameter is in the box")
    assert not (tmp_path / "out").exists()


@pytest.mark.thin(3)
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


def staged(**changes):
    """As ``auto`` writes it, but for some of its options; those that are ``None`` are missing."""

    def change(content):
        counts = [point["verified"] for point in content["curve"]]
        options = {"effort": 300.0, "proven_by": {"interval": counts, "linear": [0] * len(counts)}, **changes}
        content["domain"] = "auto"
        content["options"] |= {key: value for key, value in options.items() if value is not None}

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
    "no facts of the model": put("model", value={}),
    "no facts of the data": put("data", value={}),
    "a source that is no text": put("model", "source", value=["cnn.safetensors"]),
    "a hash that is none": put("model", "sha256", value="abc"),
    "a hash of the data that is none": put("data", "sha256", value=None),
    "names in a list": put("data", "name", value=["digits"]),
    "a path that is no text": put("data", "path", value=3),
    "parameters as text": put("model", "parameters", value="many"),
    "time without end": put("seconds", value=10**400),
    "ε without end": put("curve", 2, "epsilon", value=10**400),
    "accuracy without end": put("clean_accuracy", value=10**400),
    "a factor without end": put("box", "scale", value={"*": 10**400}),
    "a precision in a list": put("precision", value=["float64"]),
    "a precision in a dictionary": put("precision", value={}),
    "an arithmetic in a list": put("arithmetic", value=["real"]),
    "a criterion in a list": put("options", "criterion", value=["margin"]),
    "a criterion in a dictionary": put("options", "criterion", value={}),
    "a domain in a list": put("domain", value=["interval"]),
    "nothing in the box": put("model", "perturbed", value=0),
    "less in the box": put("model", "perturbed", value=1),
    "a box that nothing moves in": put("box", "scale", value={"*": 0.0}),
    "a pattern that matches nothing": put("box", "include", value="nothing"),
    "no word of the comparison": lambda c: c.pop("checked"),
    "a comparison of no sample": put("checked", "samples", value=0),
    "another domain": put("domain", value="auto"),
    "an effort that is none": staged(effort="much"),
    "no effort": staged(effort=None),
    "stages that proved nothing": staged(proven_by={"interval": [0, 0, 0]}),
    "a stage at one ε": staged(proven_by={"interval": [10]}),
    "stages in a list": staged(proven_by=[10, 10, 10]),
    "the schema": put("schema", value="thetabox.certificate/2"),
}


def test_a_certificate_of_stages(run, folder):
    edit_json(folder, staged())
    assert run("gate", folder, *HERE).exit_code == 0


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
    "a label without end": lambda rows: [row.__setitem__(1, str(2**70)) for row in rows[1:] if row[0] == "0"],
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


def test_what_is_verified_is_predicted(run, folder):
    """Another prediction, and the accuracy that goes with it."""
    rows = list(csv.reader(io.StringIO((folder / "samples.csv").read_text())))[1:]
    chosen = next(row[0] for row in rows if row[5] == "true")
    right = {row[0] for row in rows if row[1] == row[2]} - {chosen}

    def change(table):
        for row in table[1:]:
            if row[0] == chosen:
                row[2] = str((int(row[1]) + 1) % 10)

    edit_rows(folder, change)
    edit_json(folder, put("clean_accuracy", value=len(right) / len({row[0] for row in rows})))
    refused(run("gate", folder, *HERE), "not predicted")


def test_files_that_are_missing_or_damaged(run, folder):
    (folder / "samples.csv").write_bytes(b"\xff\xfe\x00")
    refused(run("gate", folder, *HERE), "samples.csv")
    (folder / "samples.csv").unlink()
    refused(run("gate", folder, *HERE), "samples.csv")
    (folder / "certificate.json").write_bytes(b"\xff\xfe")
    refused(run("gate", folder, *HERE), "certificate")
    (folder / "certificate.json").write_text("[" * 100_000)
    refused(run("gate", folder, *HERE), "certificate")
