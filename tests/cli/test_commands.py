from __future__ import annotations

import csv
import json
import re
import signal
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import thetabox as tb
from thetabox.cli.group import COMMANDS

SMALL = ("--data", "digits", "--samples", 10)
# Of a certificate that is finished.
WRITTEN = ["certificate.json", "report.html", "samples.csv", "verified_accuracy.pdf", "verified_accuracy.png"]


def ok(result):
    assert result.exit_code == 0, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_help_of_every_command(run):
    text = ok(run("--help")).output
    assert all(name in text for name in COMMANDS)
    for name, line in COMMANDS.items():
        text = " ".join(ok(run(name, "--help")).output.split())
        assert "Usage: thetabox " in text
        assert text.count(line) == 1
    assert re.fullmatch(r"thetabox \d+\.\d+\.\d+\n", ok(run("--version")).output)


def test_version_is_one(run):
    assert tb.__version__ == ok(run("--version")).output.split()[1]


def test_tasks_and_methods(run):
    text = ok(run("tasks")).output
    assert all(name in text for name in tb.data.TASKS)
    assert "licence" in ok(run("tasks", "vowels")).output
    text = ok(run("methods")).output
    assert all(name in text for name in tb.train.METHODS)
    assert "beta_rob" in text


@pytest.mark.slow
def test_certify_writes_the_folder(run, cnn, tmp_path):
    out = tmp_path / "out"
    result = ok(run("certify", cnn, *SMALL, "--epsilon", "0,1e-4,1e-2", "--attack-steps", 3, "--out", out))
    assert names(out) == WRITTEN
    found = json.loads((out / "certificate.json").read_text())
    assert list(found) == [
        *("schema", "tool", "model", "data", "box", "domain", "options", "sound", "arithmetic", "precision"),
        *("clean_accuracy", "curve", "checked", "seconds"),
    ]
    assert found["model"]["source"] == str(cnn)
    assert found["model"]["sha256"] == tb.models.sha256(cnn)
    assert found["data"] == tb.data.load("digits").subset(10).info
    assert [point["epsilon"] for point in found["curve"]] == [0, 1e-4, 1e-2]
    rows = list(csv.DictReader((out / "samples.csv").open(newline="")))
    assert len(rows) == 30
    assert sum(row["verified"] == "true" for row in rows[:10]) == found["curve"][0]["verified"]
    # The command says what the library says.
    test = tb.data.load("digits").subset(10)
    certificate = tb.certify(tb.load(cnn), test.x, test.y, [0, 1e-4, 1e-2])
    assert [float(row["margin"]) for row in rows] == certificate.margin.flatten().tolist()
    assert certificate.verified[1].any()
    page = (out / "report.html").read_text()
    assert "attacked" in page
    assert "share of the loss" in page
    assert "report.html" in result.output
    # What was stored reads back.
    stored = tb.Certificate.load(out)
    assert torch.equal(stored.margin, certificate.margin)


@pytest.mark.slow
def test_certify_a_spiking_network(run, lsnn, tmp_path):
    given = ("--data", "vowels", "--samples", 4, "--epsilon", "0,1e-3", "--no-attack", "--no-radius")
    ok(run("certify", lsnn, *given, "--include", "*,threshold", "--box-kind", "absolute", "--out", tmp_path / "out"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "uncertain spikes" in page
    box = json.loads((tmp_path / "out" / "certificate.json").read_text())["box"]
    assert (box["kind"], box["include"]) == ("absolute", "*,threshold")


def test_float32_is_said_in_the_report(run, cnn, tmp_path):
    given = ("--epsilon", "0,1e-3", "--no-attack", "--no-radius", "--out", tmp_path)
    ok(run("certify", cnn, *SMALL, *given, "--arithmetic", "float32", "--precision", "float32"))
    assert "does not cover TF32" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_the_same_samples_for_every_command(run, cnn, tmp_path):
    ok(run("certify", cnn, *SMALL, "--epsilon", "0", "--no-attack", "--no-radius", "--out", tmp_path / "a"))
    ok(run("radius", cnn, *SMALL, "--out", tmp_path / "b"))
    ok(run("attack", cnn, *SMALL, "--epsilon", "0", "--seed", 5, "--out", tmp_path / "c"))
    ok(run("mismatch", cnn, *SMALL, "--draws", 2, "--out", tmp_path / "d"))
    hashes = {
        json.loads((tmp_path / folder / f"{name}.json").read_text())["data"]["sha256"]
        for folder, name in zip("abcd", ("certificate", "radius", "attack", "mismatch"), strict=True)
    }
    assert len(hashes) == 1


def test_radius(run, cnn, tmp_path):
    ok(run("radius", cnn, *SMALL, "--out", tmp_path))
    rows = list(csv.DictReader((tmp_path / "radius.csv").open(newline="")))
    radii = [float(row["radius"]) for row in rows]
    test = tb.data.load("digits").subset(10)
    for radius, row in zip(radii, rows, strict=True):
        assert (radius > 0) == (row["status"] == "certified")
    largest = max(radii)
    n = radii.index(largest)
    assert tb.certify(tb.load(cnn), test.x[n : n + 1], test.y[n : n + 1], largest).verified.all()


def test_attack_and_mismatch_print_without_a_folder(run, cnn, tmp_path):
    assert "attacked accuracy" in ok(run("attack", cnn, *SMALL, "--epsilon", "1e-3", "--steps", 2)).output
    text = ok(run("mismatch", cnn, *SMALL, "--level", "0.1", "--draws", 3)).output
    assert "worst draw" in text
    assert list(tmp_path.iterdir()) == []


def test_gate_on_a_model(run, cnn, tmp_path):
    gate = ("gate", cnn, *SMALL, "--epsilon", "1e-4")
    assert "pass" in ok(run(*gate, "--min-verified", 0.1)).output
    failed = run(*gate, "--min-verified", 1.0, "--junit", tmp_path / "deep" / "gate.xml")
    if failed.exit_code != 0:  # unless all ten are verified
        assert failed.exit_code == 1
        assert "FAIL" in failed.output
    suite = ElementTree.parse(tmp_path / "deep" / "gate.xml").getroot().find("testsuite")
    assert suite.attrib["tests"] == "1"
    assert suite.attrib["failures"] == str(failed.exit_code)
    assert run("gate", cnn, *SMALL, "--epsilon", "0.9", "--min-verified", 0.01).exit_code == 1
    assert run("gate", cnn, *SMALL, "--epsilon", "0.9", "--min-verified", 0).exit_code == 0


def test_gate_on_a_stored_certificate(run, cnn, tmp_path):
    ok(run("certify", cnn, *SMALL, "--epsilon", "0,1e-4,0.9", "--no-attack", "--no-radius", "--out", tmp_path))
    for target in (tmp_path, tmp_path / "certificate.json"):
        assert run("gate", target, "--epsilon", "1e-4", "--min-verified", 0.1).exit_code == 0
        assert run("gate", target, "--epsilon", "0.9", "--min-verified", 0.1).exit_code == 1
    # A smaller ε is covered by a larger one that was proven, a larger one is not.
    between = run("gate", tmp_path, "--epsilon", "5e-5", "--min-verified", 0.1)
    assert "proven at ε = 0.0001" in ok(between).output
    beyond = run("gate", tmp_path, "--epsilon", "1.0", "--min-verified", 0)
    assert beyond.exit_code == 2
    assert "up to ε = 0.9" in beyond.stderr
    # The samples must be those that the certificate speaks of.
    assert run("gate", tmp_path, *SMALL, "--epsilon", "1e-4", "--min-verified", 0.1).exit_code == 0
    other = run("gate", tmp_path, "--data", "digits", "--samples", 9, "--epsilon", "1e-4", "--min-verified", 0.1)
    assert other.exit_code == 2
    # A certificate that was tampered with is bad input, not a pass.
    path = tmp_path / "certificate.json"
    content = json.loads(path.read_text())
    content["curve"][2]["verified"] = 10
    path.write_text(json.dumps(content))
    assert run("gate", tmp_path, "--epsilon", "0.9", "--min-verified", 0.9).exit_code == 2


def test_gate_refuses_what_is_not_sound(run, cnn, tmp_path):
    ok(run("certify", cnn, *SMALL, "--epsilon", "0", "--no-attack", "--no-radius", "--out", tmp_path))
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sound": False}))
    result = run("gate", tmp_path, "--epsilon", "0", "--min-verified", 0)
    assert result.exit_code == 2
    assert "not sound" in result.stderr
    # The domain's own word counts, whatever the file says of it.
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sound": True, "domain": "lirpa"}))
    result = run("gate", tmp_path, "--epsilon", "0", "--min-verified", 0)
    assert result.exit_code == 2
    assert "not sound" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--effort", "--budget"])
@pytest.mark.parametrize("limit", ["0", "inf"])
def test_effort_of_auto_is_written_down(run, cnn, tmp_path, option, limit):
    given = (*SMALL, option, limit, "--out", tmp_path)
    ok(run("certify", cnn, "--epsilon", "1e-4", "--no-attack", "--no-radius", *given))
    options = json.loads((tmp_path / "certificate.json").read_text())["options"]
    assert options["effort"] == (0 if limit == "0" else None)
    assert next(iter(options["proven_by"])) == "interval"
    certificate = tb.Certificate.load(tmp_path)
    assert sum(counts[0] for counts in certificate.options["proven_by"].values()) == certificate.verified.sum()
    ok(run("radius", cnn, *given))
    assert json.loads((tmp_path / "radius.json").read_text())["options"]["effort"] == options["effort"]


@pytest.mark.parametrize("network", ["cnn", "lsnn"])
def test_inspect(run, network, request):
    path = request.getfixturevalue(network)
    text = ok(run("inspect", path)).output
    assert "every operator has a rule" in text
    for name, _ in tb.load(path).named_parameters():
        assert name in text
    assert "aten." in text


def test_train_and_resume(run, tmp_path):
    path = tmp_path / "new" / "m.safetensors"
    given = ("train", "--task", "digits", "--epochs", 1, "--method", "forward-noise", "--set", "noise=0.1")
    result = ok(run(*given, "--out", path))
    assert "validation accuracy" in result.output
    info = tb.models.checkpoint_info(path)
    assert info["info"]["task"] == "digits"
    assert info["info"]["method"] == "forward-noise"
    again = tmp_path / "again.safetensors"
    ok(run(*given, "--out", again, "--resume"))
    first, second = (tb.load(p).state_dict() for p in (path, again))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_train_from_a_checkpoint(run, tmp_path):
    """A rate of almost nothing leaves the network that it starts from, not a fresh one."""
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    ok(run("train", "--task", "digits", "--epochs", 1, "--seed", 3, "--out", first))
    ok(run("train", "--task", "digits", "--from", first, "--epochs", 1, "--lr", 1e-9, "--out", second))
    before, after = (tb.load(p).state_dict() for p in (first, second))
    assert all(torch.allclose(before[k], after[k], atol=1e-5) for k in before)
    assert tb.models.checkpoint_info(second)["info"]["from"] == tb.models.sha256(first)


def test_train_on_data_of_ones_own(run, npz, tmp_path):
    path = tmp_path / "m.safetensors"
    ok(run("train", "--task", npz(), "--epochs", 1, "--model", "convnet", "--model-set", "hidden=[8]", "--out", path))
    assert tb.load(path).config["hidden"] in ([8], (8,))


@pytest.mark.long
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupt_keeps_finished_chunks(start, tmp_path, sent):
    """Ctrl-C or SIGTERM in the middle of the proof: status 130, one line; the same command then goes on and agrees."""
    wide = tmp_path / "wide.safetensors"
    torch.manual_seed(0)
    tb.save(tb.models.LSNN(12, 700, 9), wide)
    given = ["certify", wide, "--data", "vowels", "--epsilon", "0,1e-4,1e-3,1e-2", "--no-attack", "--no-radius"]
    given += ["--domain", "interval"]
    out = tmp_path / "out"
    process = start(*given, "--out", out)
    deadline = time.monotonic() + 240
    while not list(out.glob("partial/*/*.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no chunk was finished"
        time.sleep(0.01)
    process.send_signal(sent)
    _, complaint = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the proof was done before the signal came")
    assert process.returncode == 130, complaint
    assert len(complaint.strip().splitlines()) == 1
    if "partial" not in complaint:
        pytest.skip("the signal came after the last chunk")
    assert names(out) == ["partial"]
    kept = list(out.glob("partial/*/*.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert before
    process = start(*given, "--out", out)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert names(out) == WRITTEN
    process = start(*given, "--out", tmp_path / "whole")
    process.communicate(timeout=300)
    assert (out / "samples.csv").read_bytes() == (tmp_path / "whole" / "samples.csv").read_bytes()


@pytest.mark.long
def test_demo_in_short(start, tmp_path):
    process = start("demo", "--epochs", 1, "--samples", 4, "--epsilon", "0,1e-3", "--out", tmp_path / "demo")
    output, complaint = process.communicate(timeout=500)
    assert process.returncode == 0, complaint
    assert "digits: verified (attacked)" in output
    assert "vowels: verified (attacked)" in output
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("<h2>") == 4
    for folder in ("cnn-standard", "lsnn-weight-attack-noise"):
        assert tb.Certificate.load(tmp_path / "demo" / folder).label.shape == (4,)


def test_demo_into_a_file_is_refused(run, tmp_path):
    (tmp_path / "demo").write_text("mine")
    result = run("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 2
    assert (tmp_path / "demo").read_text() == "mine"


def test_pcm(run, cnn, tmp_path):
    given = ("pcm", cnn, *SMALL, "--times", "25s,1d,1y", "--draws", 2)
    text = ok(run(*given, "--out", tmp_path / "a")).output
    assert names(tmp_path / "a") == ["pcm.csv", "pcm.json", "pcm.pdf", "pcm.png"]
    assert all(word in text for word in ("2 chips", "25 s", "1 d", "1 y", "worst chip"))
    # The command says what the library says.
    test = tb.data.load("digits").subset(10)
    expected = tb.measure.pcm(tb.load(cnn), test.x, test.y, [25, 86400, 31536000], 2)
    found = json.loads((tmp_path / "a" / "pcm.json").read_text())
    assert found["schema"] == "thetabox.pcm/1"
    assert found["data"] == test.info
    assert found["model"]["sha256"] == tb.models.sha256(cnn)
    assert found["accuracy"] == expected.accuracy.tolist()
    rows = list(csv.DictReader((tmp_path / "a" / "pcm.csv").open(newline="")))
    assert [float(row["accuracy"]) for row in rows] == expected.accuracy.flatten().tolist()
    assert (tmp_path / "a" / "pcm.png").read_bytes().startswith(b"\x89PNG")
    ideal = ("--adc-bits", 0, "--dac-bits", 0, "--tile", 9, "--no-compensation", "--exclude", "dense*", "--seed", 3)
    ok(run(*given, *ideal, "--out", tmp_path / "b"))
    found = json.loads((tmp_path / "b" / "pcm.json").read_text())
    assert found["stored"] == ["conv1.weight", "conv2.weight"]
    assert found["converted"] == []
    assert (found["tile"], found["compensation"], found["seed"]) == (9, False, 3)


def test_pcm_of_a_spiking_network(run, lsnn, tmp_path):
    given = ("--data", "vowels", "--samples", 4, "--draws", 1, "--times", "0,10min")
    text = ok(run("pcm", lsnn, *given)).output
    assert "3 matrices stored" in text
    assert "10 min" in text
    assert "no converters" not in text
    assert list(tmp_path.iterdir()) == []


def test_landscape(run, cnn, tmp_path):
    given = ("landscape", cnn, *SMALL, "--zeta", 0.3, "--reach", 1.5, "--points", 7, "--directions", 2)
    text = ok(run(*given, "--out", tmp_path)).output
    assert names(tmp_path) == ["landscape.csv", "landscape.json", "landscape.pdf", "landscape.png"]
    assert "2 directions" in text
    # The command says what the library says.
    test = tb.data.load("digits").subset(10)
    alpha = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    expected = tb.measure.landscape(tb.load(cnn), test.x, test.y, alpha=alpha, directions=2, zeta=0.3)
    found = json.loads((tmp_path / "landscape.json").read_text())
    assert found["schema"] == "thetabox.landscape/1"
    assert found["data"] == test.info
    assert torch.allclose(torch.tensor(found["loss"]), expected.loss.float())
    assert found["flatness"] == pytest.approx(expected.flatness)
    rows = list(csv.DictReader((tmp_path / "landscape.csv").open(newline="")))
    assert [float(row["loss"]) for row in rows] == pytest.approx(expected.loss.flatten().tolist())
    assert [float(row["alpha"]) for row in rows[:7]] == pytest.approx(alpha)
    assert rows[3]["alpha"] == "0.0"
    assert (tmp_path / "landscape.png").read_bytes().startswith(b"\x89PNG")
