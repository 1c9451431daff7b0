"""The gate's claim of yield: its own question, never mixed with that of a box, compared exactly."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree

import click
import numpy as np
import pytest
import torch

import thetabox as tb
from tests.cli.gated import OF_THE_RUN, copied, written
from tests.cli.test_bad_input import refused
from thetabox.cli.commands import gate, gate_yield

SMALL = ("--data", "digits", "--samples", 10)
NOISE = ("--noise-scale", "dense2*=0.5", "--noise-scale", "*=1", "--correlated", "layer=0.1", "--drift", "*=-0.01")
BOX = ("--exclude", "dense1.bias", "--scale", "*=0.5", "--method", "martingale")
OWN = (*NOISE, *BOX)
HERE = ("--sigma", "0.01", "--min-yield", 0.99, "--min-accuracy", 0.5)


@pytest.fixture(scope="module")
def made(mlp, tmp_path_factory) -> Path:
    """A folder with a proven yield of ten digits, and beside it its model."""
    given = (*SMALL, "--sigma", "0.01,0.9", *OWN, "--draws", 0)
    return written(tmp_path_factory.mktemp("gate"), mlp, "yield", *given)


@pytest.fixture
def folder(made, mlp, tmp_path) -> Path:
    """A copy to spoil."""
    return copied(made, tmp_path, "yield.json", mlp)


def edit(folder: Path, **entries: object) -> None:
    path = folder / "yield.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_it_passes_as_it_is_and_says_what_it_compared(run, made):
    count = round(float(tb.YieldCertificate.load(made).chips(0.99)[0]) * 10)
    assert count >= 5
    for target in (made, made / "yield.json"):
        result = run("gate", target, *HERE)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.output.startswith("pass  proven yield at σ = 0.01: at least 0.99 of all chips reach")
        assert f"{count}/10" in result.output
        failed = run("gate", target, "--sigma", "0.9", "--min-yield", 0.99, "--min-accuracy", 0.5)
        assert failed.exit_code == 1
        assert failed.output.startswith("FAIL  proven yield at σ = 0.9")
    assert run("gate", made, "--sigma", "0.01,0.9", *HERE[2:]).exit_code == 1


def test_counts_are_compared_exactly(run, made):
    count = round(float(tb.YieldCertificate.load(made).chips(0.99)[0]) * 10)
    gated = ("gate", made, *HERE[:4], "--min-accuracy")
    assert run(*gated, f"0.{count}").exit_code == 0
    assert run(*gated, f"0.{count}0000000000000000000001").exit_code == 1


def test_more_chips_reach_less(run, made):
    certificate = tb.YieldCertificate.load(made)
    for share in ("0.5", "0.9", "0.999", "0.999999"):
        reached = round(float(certificate.chips(float(share))[0]) * 10)
        gated = ("gate", made, "--sigma", 0.01, "--min-yield", share, "--min-accuracy")
        assert run(*gated, reached / 10).exit_code == 0
        assert run(*gated, reached / 10 + 0.05).exit_code == 1


def test_a_share_of_chips_is_no_smaller_than_it_is_written():
    """0.99 as a float is less than 0.99, and of one sample that fails on 1 % + 1e-17 of all chips that is enough."""
    delta = torch.tensor([[0.01 + 5e-18]], dtype=torch.float64)
    assert Decimal(float(delta[0, 0])) > Decimal("0.01")
    one = tb.YieldCertificate(torch.tensor([0.5]).double(), delta, 0.5, torch.zeros(1).long(), torch.zeros(1).long())
    for text, failed in (("0.99", True), ("0.98", False)):
        least = Decimal(text)
        assert Decimal(gate_yield._share(least)) >= least
        case = gate_yield._case(one, 0.5, least, gate_yield._share(least), Decimal(1))
        assert (case.failure is not None) == failed, text


def test_a_model(run, mlp, tmp_path):
    given = ("gate", mlp, *SMALL, *OWN, "--sigma", 0.01, "--min-yield", 0.9, "--junit", tmp_path / "gate.xml")
    assert run(*given, "--min-accuracy", 0.5).exit_code == 0
    failed = run(*given, "--min-accuracy", 1)
    root = ElementTree.parse(tmp_path / "gate.xml").getroot()
    assert root.attrib["failures"] == str(failed.exit_code)
    (case,) = root.iter("testcase")
    assert case.attrib["name"] == "at least 0.9 of all chips reach accuracy 1 at sigma 0.01"
    cut = run(*given, "--min-accuracy", 0, "--timeout", 0)
    assert cut.exit_code == 1
    assert cut.output.startswith("not finished")


def test_a_model_and_what_is_stored_of_it_answer_alike(run, mlp, made):
    for accuracy in (0.5, 0.8, 0.9, 1.0):
        asked = (*HERE[:4], "--min-accuracy", accuracy)
        one, other = run("gate", made, *asked), run("gate", mlp, *SMALL, *OWN, *asked)
        assert (one.exit_code, one.output) == (other.exit_code, other.output)


# --- which claim


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ((), ("--epsilon", "--sigma")),
        (("--sigma", 0.01), ("--min-yield",)),
        (("--sigma", 0.01, "--min-yield", 0.9), ("--min-accuracy",)),
        (("--sigma", 0.01, "--min-accuracy", 0.9), ("--min-yield",)),
        (("--min-yield", 0.9, "--min-accuracy", 0.9), ("--sigma",)),
        (("--epsilon", 0.01), ("--min-verified",)),
        (("--min-verified", 0.9), ("--epsilon",)),
        ((*HERE, "--epsilon", 1e-3), ("--sigma", "--epsilon", "one by one")),
        ((*HERE, "--min-verified", 0.5), ("--min-verified", "one by one")),
        (("--epsilon", 1e-3, "--min-verified", 0.5, "--min-yield", 0.5), ("--min-yield", "one by one")),
        ((*HERE[:2], "--min-yield", 1, "--min-accuracy", 0.5), ("--min-yield", "below 1")),
        ((*HERE[:2], "--min-yield", 0, "--min-accuracy", 0.5), ("--min-yield", "above 0")),
        ((*HERE[:2], "--min-yield", "0.99999999999999999999", "--min-accuracy", 0.5), ("--min-yield", "close to 1")),
        ((*HERE[:2], "--min-yield", "nan", "--min-accuracy", 0.5), ("--min-yield",)),
        ((*HERE[:4], "--min-accuracy", 1.5), ("--min-accuracy",)),
        (("--sigma", "-1", *HERE[2:]), ("--sigma",)),
    ],
    ids=str,
)
def test_one_whole_claim_is_needed(run, made, mlp, tmp_path, given, parts):
    for target in ((made,), (mlp, *SMALL)):
        refused(run("gate", *target, *given, "--junit", tmp_path / "gate.xml"), *parts)
        root = ElementTree.parse(tmp_path / "gate.xml").getroot()
        assert (root.attrib["tests"], root.attrib["errors"]) == ("1", "1")


def test_a_tiny_share_is_one(run, made):
    for share in ("1e-11", "1e-400", "1e-99999"):
        assert run("gate", made, *HERE[:2], "--min-yield", share, "--min-accuracy", 0).exit_code == 0


# --- a stored yield answers its own question

OTHER = {
    "--box-kind": "absolute",
    "--include": "dense*",
    "--exclude": "dense2.bias",
    "--scale": "*=100",
    "--fold": None,
    "--noise": "subgaussian",
    "--noise-scale": "*=0.1",
    "--correlated": "chip=0.1",
    "--drift": "*=0.01",
    "--drift-bound": "*=0.1",
    "--method": "auto",
    "--domain": "linear",
    "--option": "histories=4",
    "--effort": 3,
    "--budget": 1,
    "--criterion": "margin",
    "--arithmetic": "real",
    "--precision": "float64",
    "--epsilon": "1e-3",
    "--min-verified": 0.5,
    "--model": "mlp",
    "--set": "sizes=[64,10]",
    "--dynamics": "norse",
    "--data": "vowels",
    "--split": "train",
    "--samples": 9,
    "--data-dir": ".",
}
FREE = {"--sigma", "--min-yield", "--min-accuracy", *OF_THE_RUN}


def test_every_option_of_the_command_is_one_or_the_other():
    options = {p.opts[0] for p in gate.command.params if isinstance(p, click.Option)}
    assert options - FREE == set(OTHER)


@pytest.mark.parametrize("option", OTHER)
def test_another_question_is_refused(run, made, option):
    value = [] if OTHER[option] is None else [OTHER[option]]
    refused(run("gate", made, *HERE, option, *value), option)
    refused(run("gate", option, *value, made, "--sigma", 0.9, "--min-yield", 0.5, "--min-accuracy", 1), option)


def test_options_of_the_other_claim_are_refused_for_models_too(run, mlp):
    for option in ("--domain", "--option", "--effort", "--criterion", "--arithmetic", "--precision"):
        refused(run("gate", mlp, *SMALL, *HERE, option, OTHER[option]), option, "yield")
    box = ("--epsilon", "1e-3", "--min-verified", 0.5)
    for option in ("--noise", "--noise-scale", "--correlated", "--drift", "--drift-bound", "--method"):
        refused(run("gate", mlp, *SMALL, *box, option, OTHER[option]), option, "box")


@pytest.mark.parametrize(
    "given",
    [
        OWN,
        ("--noise", "gaussian"),
        ("--box-kind", "relative", "--include", "*"),
        SMALL,
        ("--samples", 10),
        ("--seed", 3, "--threads", 1, "--device", "cpu", "--timeout", 5),
    ],
    ids=str,
)
def test_the_same_question_passes(run, made, given):
    result = run("gate", made, *HERE, *given)
    assert (result.exit_code, result.stderr) == (0, ""), result.output


@pytest.mark.parametrize(
    "given",
    [
        ("--noise-scale", "*=1", "--noise-scale", "dense2*=0.5"),
        ("--noise-scale", "dense2*=0.5"),
        ("--correlated", "layer=0.2"),
        ("--correlated", "layer=0.1", "--correlated", "chip=0"),
        ("--drift", "*=0.01"),
        ("--scale", "*=0.25"),
        ("--data", "digits"),
        ("--data", "digits", "--samples", 11),
        ("--data", "digits", "--samples", 10, "--split", "train"),
        ("--samples", 10, "--split", "test"),
    ],
    ids=str,
)
def test_other_questions_that_look_alike(run, made, given):
    refused(run("gate", made, *HERE, *given), "--")


@pytest.mark.parametrize("sigma", ["0.005", "0.02", "0", "0.01,0.02", "0.0100000001"])
def test_another_sigma_is_another_question(run, made, sigma):
    """A smaller one too: not every proof holds for smaller errors."""
    refused(run("gate", made, "--sigma", sigma, *HERE[2:]), "says nothing of σ")


def test_what_is_not_finished_does_not_pass(run, folder, tmp_path):
    edit(folder, finished=False)
    result = run("gate", folder, *HERE[:4], "--min-accuracy", 0, "--junit", tmp_path / "gate.xml")
    assert result.exit_code == 1
    assert result.output.startswith("not finished")
    failure = ElementTree.parse(tmp_path / "gate.xml").getroot().find(".//failure")
    assert "not finished" in failure.attrib["message"]


def test_the_claims_do_not_answer_each_other(run, made, mlp, tmp_path):
    box = ("--epsilon", "1e-4", "--min-verified", 0)
    refused(run("gate", made, *box), "proven yield", "ε")
    refused(run("gate", made / "yield.json", *box), "not a thetabox.certificate/1")
    out = tmp_path / "box"
    given = ("--epsilon", "0,1e-4", "--domain", "interval", "--no-attack", "--no-radius", "--out", out)
    assert run("certify", mlp, *SMALL, *given).exit_code == 0
    assert run("gate", out, *box).exit_code == 0
    refused(run("gate", out, *HERE), "certificate of a box", "σ")
    refused(run("gate", out / "certificate.json", *HERE), "certificate of a box")


# --- what changed since


def test_a_model_that_changed(run, folder):
    assert run("gate", folder, *HERE).stderr == ""
    model = tb.load(folder.parent / "mlp.safetensors")
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    tb.save(model, folder.parent / "mlp.safetensors")
    refused(run("gate", folder, *HERE), "mlp.safetensors", "changed", "proven yield")
    (folder.parent / "mlp.safetensors").unlink()
    result = run("gate", folder, *HERE)
    assert result.exit_code == 0
    assert "mlp.safetensors is not here" in result.stderr


def test_data_that_changed(run, mlp, npz, tmp_path):
    data = npz()
    given = ("--data", data, "--samples", 8, "--method", "martingale", "--draws", 0, "--out", tmp_path / "out")
    assert run("yield", mlp, "--sigma", 0.01, *given).exit_code == 0
    gated = ("gate", tmp_path / "out", *HERE)
    assert run(*gated).exit_code == 0
    assert run(*gated, "--data", data, "--samples", 8).exit_code == 0
    with np.load(data) as arrays:
        x, y = arrays["x"], arrays["y"]
    x[3] += 0.25
    np.savez(data, x=x, y=y)
    refused(run(*gated), "data.npz", "changed")
    refused(run(*gated, "--data", data, "--samples", 8), "--data", "other samples")


@pytest.mark.parametrize(
    "entries",
    [{"delta": 0.5}, {"method": "auto", "clean_accuracy": 1.5}, {"schema": "thetabox.yield/2"}, {"curve": []}],
    ids=str,
)
def test_edits_are_noticed(run, folder, entries):
    edit(folder, **entries)
    refused(run("gate", folder, *HERE))


def test_nothing_there(run, tmp_path, mlp):
    refused(run("gate", tmp_path, *HERE), "no proven yield")
    refused(run("gate", mlp, *HERE), "--data")
