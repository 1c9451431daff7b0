"""The sentence of a report is what is proven, and its list holds the samples of which least is."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

import thetabox as tb
from thetabox.report.html import single_page
from thetabox.report.results import curve_of
from thetabox.report.weakest import claim, weakest


def certificate(margins, epsilon, **facts) -> tb.Certificate:
    margin = torch.tensor(margins, dtype=torch.float64)
    label = torch.arange(margin.shape[1])
    return tb.Certificate(torch.tensor(epsilon, dtype=torch.float64), margin, label, label.clone(), **facts)


# ε out of order: sample 2 is wrong, 1 is proven at 1e-3, 0 at both, and of 3 nothing is known at 1e-2.
ONE = certificate([[1.0, -3.0, -5.0, -torch.inf], [3.0, 2.0, -2.0, 4.0], [2.0, 1.0, -3.0, 2.0]], [1e-2, 0.0, 1e-3])


def said(one) -> str:
    return claim(one, curve_of(one))


def test_the_sentence_counts_what_is_proven():
    assert said(ONE) == (
        "Proven for 3 of 4 samples at ε = 0.001 and 1 at ε = 0.01: whatever values all parameters take in their boxes "
        "at once, the label's class wins, evaluated in real numbers."
    )
    assert "float32 evaluation" in said(replace(ONE, arithmetic="float32"))


def test_the_counts_are_those_of_the_certificate(make_certificate):
    made = make_certificate()
    counts = [int(n) for n in re.findall(r"(\d+|none)(?: of \d+ samples)? at ε", said(made))]
    assert counts == made.verified.sum(1)[1:].tolist()


def test_no_sentence_of_what_is_no_proof():
    assert said(replace(ONE, sound=False)) == ""
    assert said(certificate([[1.0]], [0.0])) == ""


def test_many_epsilon_are_not_all_named():
    many = certificate([[1.0]] * 12, [i / 100 for i in range(12)])
    text = said(many)
    assert text.count("ε =") == 4
    assert "ε = 0.01," in text
    assert "ε = 0.11" in text


def test_least_comes_first():
    rows = weakest(ONE)
    assert [row["sample"] for row in rows] == ["2", "3", "1", "0"]
    assert [row["radius"] for row in rows] == ["none", "0.001", "0.001", "0.01"]
    assert [row["margin"] for row in rows] == ["-2 at ε = 0", "not known", "-3 at ε = 0.01", "1 at ε = 0.01"]
    assert "flipped" not in rows[0]


def test_certified_radii_count_where_they_are_known():
    rows = weakest(replace(ONE, radius=torch.tensor([0.02, 0.004, 0.0, 0.003], dtype=torch.float64)))
    assert [(row["sample"], row["radius"]) for row in rows] == [
        ("2", "none"),
        ("3", "0.003"),
        ("1", "0.004"),
        ("0", "0.02"),
    ]


def test_what_the_attack_flipped_stands_beside(make_certificate, attack):
    made = make_certificate()
    for row in weakest(made, attack):
        wrong = [
            float(e)
            for e, right in zip(attack.epsilon, attack.correct[:, int(row["sample"])], strict=True)
            if not right
        ]
        assert row["flipped"] == (f"{min(wrong):.4g}" if wrong else "not found")


@pytest.mark.parametrize("count", [1, 19, 21])
def test_the_list_ends(count):
    assert len(weakest(certificate([[1.0] * count], [0.0]))) == min(count, 20)


def test_both_stand_in_the_page_whose_title_is_no_path():
    page = single_page(replace(ONE, model_info={"source": "some/where/net.safetensors"}))
    assert "<h1>net.safetensors on 4 samples</h1>" in page
    assert "Proven for 3 of 4 samples" in page
    assert "Samples of which least is proven" in page
