from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from rich.console import Console

from thetabox.errors import InputError
from thetabox.report import Case, comparison_tables, csv_text, curve_table, json_text, write_junit
from thetabox.report.figures import failure_figure
from thetabox.report.html import single_page
from thetabox.report.results import curve_of, failure_of, number, percent, radii_of
from thetabox.verify.domain import Profile


def text_of(*tables):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - closed with the test
    for table in tables:
        console.print(table)
    return console.export_text()


def test_curve_is_sorted_by_epsilon(make_certificate):
    certificate = make_certificate()
    shuffled = make_certificate(
        epsilon=certificate.epsilon.flip(0),
        verified_accuracy=certificate.verified_accuracy.flip(0),
        baseline=certificate.baseline.flip(0),
    )
    assert np.array_equal(curve_of(shuffled).epsilon, curve_of(certificate).epsilon)
    assert np.array_equal(curve_of(shuffled).verified, curve_of(certificate).verified)


def test_grid_radii_are_the_largest_verified_epsilon(make_certificate):
    certificate = make_certificate(radius=None)
    radii = radii_of(certificate)
    assert not radii.bisected
    for n in range(40):
        proven = certificate.epsilon[certificate.verified[:, n]]
        assert radii.values[n] == (float(proven.max()) if len(proven) else 0.0)


def test_failure_sentences_name_the_first_uncertain_step(certificate):
    lines = failure_of(certificate).sentences()
    assert lines[-1] == "ε = 0.01: the first uncertain spikes at time step 1, half of them uncertain from time step 30."
    assert len(lines) == 3


def test_failure_sentences_of_layers(make_certificate):
    certificate = make_certificate()
    share = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.25], [0.6, 1.0]])
    certificate.profile = Profile("layers", ["conv1", "conv2"], share)
    assert failure_of(certificate).sentences() == [
        "ε = 0.0001: no uncertain ReLUs at all.",
        "ε = 0.001: the first uncertain ReLUs at layer conv2, at most 25.0 % uncertain (at layer conv2); "
        "most is lost at layer conv2, from 0.0 % to 25.0 %.",
        "ε = 0.01: the first uncertain ReLUs at layer conv1, half of them uncertain from layer conv1; "
        "most is lost at layer conv1, from 0.0 % to 60.0 %.",
    ]


def test_tables(certificate, attack, make_certificate):
    text = text_of(curve_table(certificate, attack))
    assert "90.0 %" in text
    assert "attacked" in text
    entries = [("a", certificate, attack), ("b", make_certificate(data_info={"name": "other"}), None)]
    text = text_of(*comparison_tables(entries))
    assert "0.900 (1.000)" in text
    assert "other: verified (attacked)" in text


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (1e-5, "1e-05"), (5e-4, "0.0005"), (1.5, "1.5")])
def test_number(value, text):
    assert number(value) == text


def test_percent():
    assert percent(0.975) == "97.5 %"
    assert percent(float("nan")) == "–"


def test_csv_and_json():
    assert csv_text(("a", "b"), [(1, True), {"a": float("-inf"), "b": False}]) == "a,b\n1,true\n-inf,false\n"
    assert list(__import__("json").loads(json_text({"z": 1, "a": 2}))) == ["z", "a"]
    with pytest.raises(ValueError, match="JSON"):
        json_text({"a": float("nan")})


def test_junit(tmp_path):
    write_junit(tmp_path / "new" / "gate.xml", "gate", [Case("good", None, "9/10"), Case("bad", "1 < 2 & more")], 0.5)
    root = ElementTree.parse(tmp_path / "new" / "gate.xml").getroot()
    suite = root.find("testsuite")
    assert suite.attrib | {"tests": "2", "failures": "1"} == suite.attrib
    assert [case.attrib["name"] for case in suite] == ["good", "bad"]
    assert suite[0].find("failure") is None
    assert suite[1].find("failure").attrib["message"] == "1 < 2 & more"


def test_junit_of_what_could_not_be_checked(tmp_path):
    write_junit(tmp_path / "gate.xml", "gate", [Case("good"), Case("none", error="no such file")])
    root = ElementTree.parse(tmp_path / "gate.xml").getroot()
    assert (root.attrib["tests"], root.attrib["failures"], root.attrib["errors"]) == ("2", "0", "1")
    assert root.find(".//error").attrib["message"] == "no such file"


def test_junit_into_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write_junit(tmp_path, "gate", [])


def test_a_domain_may_count_something_else(make_certificate):
    certificate = make_certificate()
    caption = "Neurons with more than one history."
    certificate.profile = replace(certificate.profile, unit="neurons", caption=caption)
    assert "the first uncertain neurons at time step" in failure_of(certificate).sentences()[-1]
    assert "Neurons with more than one history." in single_page(certificate)


def test_what_the_proof_loses_by_layer(make_certificate):
    share = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.7, 0.1], [0.0, 0.1, 0.9], [0.0, 0.0, 1.0]])
    names = ["a layer with a long name", "another one like it", "the last one of all of them"]
    certificate = make_certificate(profile=Profile("losses", names, share, "margin", "Where it is lost."))
    failure = failure_of(certificate)
    assert failure.sentences() == [
        "ε = 0.0001: most is lost at another one like it (70.0 %), then at a layer with a long name (20.0 %).",
        "ε = 0.001: most is lost at the last one of all of them (90.0 %), then at another one like it (10.0 %).",
        "ε = 0.01: most is lost at the last one of all of them (100.0 %).",
    ]
    axes = failure_figure(failure).axes[0]
    assert axes.get_ylabel() == "share of the loss"
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {35}
    assert "Where it is lost." in single_page(certificate)
