"""Two claims side by side: what is lost is what was proven and is not, and only of claims that can be compared."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import thetabox as tb


def certificate(margins: list[list[float]], epsilon: list[float], **facts) -> tb.Certificate:
    margin = torch.tensor(margins, dtype=torch.float64)
    label = torch.arange(margin.shape[1]) % 3
    known = {"model_info": {"sha256": "a"}, "data_info": {"sha256": "d"}, **facts}
    return tb.Certificate(torch.tensor(epsilon, dtype=torch.float64), margin, label, label.clone(), **known)


def a_yield(delta: list[list[float]], sigma: list[float], **facts) -> tb.YieldCertificate:
    failures = torch.tensor(delta, dtype=torch.float64)
    label = torch.zeros(failures.shape[1], dtype=torch.long)
    known = {"data_info": {"sha256": "d"}, "asked": 0.01, **facts}
    sigmas = torch.tensor(sigma, dtype=torch.float64)
    return tb.YieldCertificate(sigmas, failures, label=label, predicted=label, **known)


ONE = certificate([[1.0, 2.0, 0.0], [0.5, -1.0, -float("inf")]], [0.0, 1e-3])


def test_a_sample_is_lost_where_it_was_proven_and_is_not():
    other = certificate([[1.0, -2.0, 3.0], [0.0, 1.0, 1.0]], [0.0, 1e-3], model_info={"sha256": "b"})
    found = tb.diff(ONE, other)
    # A margin of 0 is a tie, and proves nothing.
    assert found.lost.tolist() == [[False, True, False], [True, False, False]]
    assert found.gained.tolist() == [[False, False, True], [False, True, True]]
    assert list(found.samples()) == [
        {"sample": 1, "label": 1, "epsilon": 0.0, "before": 2.0, "after": -2.0},
        {"sample": 0, "label": 0, "epsilon": 1e-3, "before": 0.5, "after": 0.0},
    ]
    assert found.notes == ["another network"]


def test_nothing_is_lost_against_itself():
    found = tb.diff(ONE, ONE)
    assert not found.lost.any()
    assert not found.gained.any()
    assert list(found.samples()) == []
    assert found.notes == ["the same network"]


@given(st.data())
def test_levels_are_paired_by_value_whatever_their_order(data):
    levels = data.draw(st.lists(st.sampled_from([0.0, 1e-4, 1e-3, 1e-2, 0.1]), min_size=1, unique=True))
    others = data.draw(st.lists(st.sampled_from([0.0, 1e-4, 1e-3, 1e-2, 0.1]), min_size=1, unique=True))
    margin = st.sampled_from([-1.0, 0.0, 1.0])
    known, now = (
        {level: data.draw(st.lists(margin, min_size=4, max_size=4)) for level in own} for own in (levels, others)
    )
    pair = [certificate([one[level] for level in own], own) for one, own in ((known, levels), (now, others))]
    common = sorted({*levels} & {*others})
    if not common:
        with pytest.raises(tb.InputError, match="no ε in common"):
            tb.diff(*pair)
        return
    found = tb.diff(*pair)
    assert found.levels.tolist() == common
    for i, level in enumerate(common):
        expected = [a > 0 and b <= 0 for a, b in zip(known[level], now[level], strict=True)]
        assert found.lost[i].tolist() == expected
    curve = found.to_json()["curve"]
    for row, back in zip(curve, tb.diff(*pair[::-1]).to_json()["curve"], strict=True):
        assert row["before"] - row["lost"] + row["gained"] == row["after"]
        assert (row["lost"], row["gained"]) == (back["gained"], back["lost"])


def test_yields_are_compared_by_what_was_asked():
    one = a_yield([[0.01, 0.02, 1.0]], [0.1])
    two = a_yield([[0.011, 0.01, 1.0]], [0.1])
    found = tb.diff(one, two)
    assert found.lost.tolist() == [[True, False, False]]
    assert found.gained.tolist() == [[False, True, False]]
    assert next(found.samples())["sigma"] == 0.1


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(ONE, box=tb.Box(kind="absolute")), "box kind"),
        (replace(ONE, box=tb.Box(scale={"*": 2.0})), "box scale"),
        (replace(ONE, criterion="disjoint"), "criterion"),
        (replace(ONE, arithmetic="float32"), "arithmetic"),
        (replace(ONE, data_info={"sha256": "e"}), "other samples"),
        (replace(ONE, label=ONE.label.flip(0)), "other samples"),
        (certificate([[1.0]], [0.0]), "other samples"),
        (replace(ONE, sound=False), "proves nothing"),
        (a_yield([[0.1] * 3], [0.1]), "never compared"),
    ],
)
def test_claims_of_different_questions_are_refused_in_one_line(other, message):
    for pair in ((ONE, other), (other, ONE)):
        with pytest.raises(tb.InputError, match=message) as caught:
            tb.diff(*pair)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (a_yield([[0.01]], [0.1], noise=tb.Noise("subgaussian")), "noise kind"),
        (a_yield([[0.01]], [0.1], asked=0.02), "failure probability 0.01 and 0.02"),
        (a_yield([[0.01]], [0.2]), "no σ in common"),
    ],
)
def test_yields_of_other_noise_are_refused(other, message):
    with pytest.raises(tb.InputError, match=message):
        tb.diff(a_yield([[0.01]], [0.1]), other)


def test_how_it_was_proven_may_differ_and_is_said():
    other = replace(ONE, domain="auto", finished=False, epsilon=torch.tensor([0.0, 2e-3], dtype=torch.float64))
    notes = tb.diff(ONE, other).notes
    assert "domain: 'interval' and 'auto'" in notes
    assert any("second was cut" in note for note in notes)
    assert "in one of the two alone: ε = 0.001, ε = 0.002" in notes


def test_what_nothing_is_known_of_is_null_in_json():
    two = replace(ONE, margin=torch.full_like(ONE.margin, -float("inf")))
    text = json.dumps(tb.diff(ONE, two).to_json(), allow_nan=False)
    assert json.loads(text)["lost"][0]["after"] is None
