"""``thetabox diff``: exit 0 where nothing was lost, 1 where something was, 2 where the two cannot be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import thetabox as tb
from tests.cli.test_bad_input import refused

EPSILON = [0.0, 1e-3]
X = torch.linspace(-1, 1, 12).reshape(4, 3)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 4)


@pytest.fixture(scope="module")
def certificate() -> tb.Certificate:
    """Of four samples, whose margins the tests set."""
    return tb.certify(network(), X, network()(X).argmax(1), EPSILON, domain="interval")


def stored(folder: Path, certificate: tb.Certificate, margins: list[list[float]], **facts) -> Path:
    """The folder of a certificate with these margins."""
    replace(certificate, margin=torch.tensor(margins, dtype=torch.float64), **facts).save(folder)
    return folder


@pytest.fixture(scope="module")
def pair(certificate, tmp_path_factory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("diff")
    model = {**certificate.model_info, "sha256": "0" * 64}
    before = stored(place / "before", certificate, [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, -1.0, -1.0]])
    after = stored(place / "after", certificate, [[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0]], model_info=model)
    return before, after


def test_exit_status_and_tables(run, pair):
    before, after = pair
    same = run("diff", before, before / "certificate.json")
    assert same.exit_code == 0
    assert same.stdout.endswith("pass  lost at most 0/4 = 0.0000, none allowed\n")
    other = run("diff", before, after)
    assert other.exit_code == 1
    for text in ("FAIL  lost at most 1/4 = 0.2500, none allowed", "another network", "lost sample"):
        assert text in other.stdout


@pytest.mark.parametrize(("share", "status"), [("0.25", 0), ("0.2499999999999999999999", 1), ("1", 0), ("0", 1)])
def test_the_share_that_may_be_lost_is_taken_as_it_is_written(run, pair, share, status):
    assert run("diff", *pair, "--max-lost", share).exit_code == status


def test_json_is_one_document(run, pair):
    found = run("diff", *pair, "--json")
    document = json.loads(found.stdout)
    assert found.exit_code == 1
    assert (document["schema"], document["pass"]) == ("thetabox.diff/1", False)
    assert document["curve"][1] == {"epsilon": 1e-3, "before": 2, "after": 2, "lost": 1, "gained": 1}
    (lost,) = document["lost"]
    assert {**lost, "label": 0} == {"sample": 1, "label": 0, "epsilon": 1e-3, "before": 1.0, "after": -1.0}


def test_a_long_list_ends(run, tmp_path):
    x = torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
    whole = tb.certify(network(), x, network()(x).argmax(1), [0.0], domain="interval")
    one, two = (stored(tmp_path / name, whole, [[m] * 30]) for name, m in (("one", 1.0), ("two", -1.0)))
    assert "and 10 more: --json lists them all" in run("diff", one, two).stdout


def test_yields_are_read_as_what_they_are(run, pair, tmp_path):
    whole = tb.certify_yield(network(), X, network()(X).argmax(1), [0.01, 0.3], delta=0.01)
    whole.save(tmp_path / "one")
    replace(whole, delta=torch.ones_like(whole.delta), ledger=[{} for _ in whole.ledger]).save(tmp_path / "two")
    count = int(whole.proven[0].sum())
    assert count
    found = run("diff", tmp_path / "one", tmp_path / "two" / "yield.json")
    assert found.exit_code == 1
    assert f"lost at most {count}/4" in found.stdout
    assert "failure probability before" in found.stdout
    refused(run("diff", tmp_path / "one", pair[0]), "never compared")


def test_bad_input_is_one_line(run, pair, certificate, tmp_path):
    other = stored(tmp_path / "other", certificate, [[1.0] * 4] * 2, box=tb.Box(kind="absolute"))
    refused(run("diff", pair[0], other), "different questions: box kind 'relative' and 'absolute'")
    refused(run("diff", pair[0], tmp_path / "none"), "no certificate at")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "certificate.json").write_text("[" * 100_000)
    refused(run("diff", pair[0], tmp_path / "broken"), "")
    refused(run("diff", pair[0]), "AFTER")
    refused(run("diff", *pair, "--max-lost", "nan"), "number from 0 to 1")
