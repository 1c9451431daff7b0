"""Effort, timeout, and the budget in seconds that there was before."""

from __future__ import annotations

import json

import pytest

import thetabox as tb

SMALL = ("--data", "digits", "--samples", 10)


def ok(result):
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("given", [("--budget", "0.5"), ("--option", "budget=0.5")])
def test_a_budget_is_read_as_effort_and_one_line_says_so(run, cnn, tmp_path, given):
    certify = ("certify", cnn, *SMALL, "--epsilon", "1e-4", "--no-attack", "--no-radius", "--out")
    result = ok(run(*certify, tmp_path / "old", *given))
    assert len(result.stderr.strip().splitlines()) == 1
    assert "read as effort 600" in result.stderr
    assert not ok(run(*certify, tmp_path / "new", "--effort", 600)).stderr.strip()
    for file in ("certificate.json", "samples.csv"):
        assert (tmp_path / "old" / file).read_bytes() == (tmp_path / "new" / file).read_bytes()


@pytest.mark.slow
def test_a_timeout_is_told_of_and_the_same_command_goes_on(run, cnn, tmp_path):
    out = tmp_path / "out"
    certify = ("certify", cnn, *SMALL, "--epsilon", "0,1e-4", "--attack-steps", 3, "--out", out)
    result = ok(run(*certify, "--timeout", 0))
    assert "not finished: 0 s were over before all of the proof" in result.output
    assert sorted(p.name for p in out.iterdir()) == [
        *("certificate.json", "report.html", "samples.csv", "verified_accuracy.pdf", "verified_accuracy.png")
    ]
    assert json.loads((out / "certificate.json").read_text())["finished"] is False
    assert not tb.Certificate.load(out).finished
    result = ok(run(*certify, "--timeout", 1000))
    assert "were over" not in result.output
    assert "finished" not in json.loads((out / "certificate.json").read_text())


def test_a_gate_that_was_cut_is_not_finished(run, cnn):
    gate = ("gate", cnn, *SMALL, "--epsilon", "1e-4", "--min-verified", 0.1)
    result = run(*gate, "--timeout", 0)
    assert result.exit_code == 1
    assert "not finished" in result.output + result.stderr
    ok(run(*gate, "--timeout", 1000))


def test_radii_that_were_cut_say_so(run, cnn, tmp_path):
    result = ok(run("radius", cnn, *SMALL, "--timeout", 0, "--out", tmp_path))
    assert "not finished" in result.output
    assert json.loads((tmp_path / "radius.json").read_text())["finished"] is False


@pytest.mark.parametrize("option", ["--effort", "--timeout"])
@pytest.mark.parametrize("value", ["-1", "nan", "some"])
@pytest.mark.parametrize("command", ["radius", "gate"])
def test_bad_values_are_one_line(run, cnn, tmp_path, option, value, command):
    more = ["--epsilon", 0.1, "--min-verified", 0.5] if command == "gate" else ["--out", tmp_path / "out"]
    result = run(command, cnn, *SMALL, f"{option}={value}", *more)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert option.strip("-") in result.stderr
    assert not (tmp_path / "out").exists()


def test_effort_and_budget_together_or_of_another_domain(run, cnn, tmp_path):
    for option, named in (
        (("--effort", 1, "--budget", 1), "give 'effort' alone"),
        (("--domain", "interval", "--effort", 1), "no option 'effort'"),
    ):
        result = run("radius", cnn, *SMALL, *option, "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert named in result.stderr
