"""A stored proven yield reads back as it was, and every edit by hand is noticed."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thetabox as tb
from tests.verify.yields.networks import network
from thetabox.verify.yields.certify import certify_yield

Rows = list[list[str]]


def made(noise: tb.Noise | None = None, **more: Any) -> tb.YieldCertificate:
    """Three σ: all proven but a sample that is wrong, some proven, none."""
    model, x = network("two layers")
    y = model(x).argmax(1)
    y[3] = (y[3] + 1) % 3
    return certify_yield(model, x, y, [0.01, 0.1, 3.0], noise=noise, **more)


@pytest.fixture(scope="module")
def certificate() -> tb.YieldCertificate:
    found = made(tb.Noise(scale={"0.*": 0.5, "*": 1.0}, drift={"2.bias": -0.01}))
    assert 0 < int(found.proven[1].sum()) < int(found.proven[0].sum()) < 9
    assert not found.proven[2].any()
    return found


@pytest.fixture(scope="module")
def written(certificate: tb.YieldCertificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("yield") / "out"
    certificate.save(out)
    return out


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


def test_it_reads_back_to_the_last_digit(written: Path, certificate: tb.YieldCertificate) -> None:
    for path in (written, str(written), written / "yield.json"):
        found = tb.YieldCertificate.load(path)
        assert torch.equal(found.delta, certificate.delta)
        assert torch.equal(found.sigma, certificate.sigma)
        assert torch.equal(found.label, certificate.label)
        assert torch.equal(found.predicted, certificate.predicted)
        assert found.noise == certificate.noise
        assert list(found.noise.scale) == ["0.*", "*"]
        assert found.box == certificate.box
        assert found.to_json() == certificate.to_json()
        assert found.proven_by == certificate.proven_by
        assert any(found.proven_by[0])
        assert list(found.rows()) == list(certificate.rows())


def test_proofs_are_counted_at_every_sigma(certificate: tb.YieldCertificate) -> None:
    for point in certificate.to_json()["curve"]:
        assert sum(point["proven_by"].values()) == point["proven"]
        assert set(point["ledger"]) <= set(point["proven_by"])


def test_proofs_that_are_not_known_read_back(certificate: tb.YieldCertificate, tmp_path: Path) -> None:
    replace(certificate, proven_by=[]).save(tmp_path)
    found = tb.YieldCertificate.load(tmp_path)
    assert found.proven_by == []
    assert torch.equal(found.delta, certificate.delta)


def test_a_second_writing_is_the_same_files(written: Path, tmp_path: Path) -> None:
    tb.YieldCertificate.load(written).save(tmp_path)
    for name in ("yield.json", "samples.csv", "yield.png", "yield.pdf"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "noise",
    [tb.Noise("subgaussian"), tb.Noise(correlated={"chip": 0.3, "layer": 0.1}), tb.Noise(drift_bound={"*": 0.01})],
    ids=lambda noise: str(noise.describe()),
)
def test_every_noise_reads_back(tmp_path: Path, noise: tb.Noise) -> None:
    found = made(noise, box=tb.Box("range", exclude="2.bias", scale={"*": 0.25}), delta=1 / 3)
    found.save(tmp_path)
    assert tb.YieldCertificate.load(tmp_path).to_json() == found.to_json()
    assert found.proven.any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["max-pools", "scaled"])
def test_networks_of_every_kind_and_no_errors_at_all(tmp_path: Path, name: str) -> None:
    model, x = network(name)
    certify_yield(model, x, model(x).argmax(1), [0.0, 1e-3]).save(tmp_path)
    assert tb.YieldCertificate.load(tmp_path).proven[0].all()


def test_what_is_not_finished_says_so(tmp_path: Path) -> None:
    found = made(timeout=0.0)
    found.save(tmp_path)
    assert not tb.YieldCertificate.load(tmp_path).finished


# --- edits


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(tb.InputError) as error:
        tb.YieldCertificate.load(path)
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def put(*keys: Any, value: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def less_spent(content: Any) -> None:
    (groups,) = content["curve"][0]["ledger"].values()
    for entry in groups.values():
        entry["probability"] *= 0.5


def another_proof(content: Any) -> None:
    ledger = content["curve"][0]["ledger"]
    (name,) = ledger
    ledger["martingale" if name != "martingale" else "entropic"] = ledger.pop(name)


JSON: dict[str, Callable[[Any], Any]] = {
    "a count": put("curve", 1, "proven", value=9),
    "a count of another kind": put("curve", 1, "proven", value=True),
    "a share": put("curve", 1, "proven_share", value=0.99),
    "a mean": put("curve", 1, "mean_accuracy", value=0.99),
    "what chips reach": put("curve", 1, "chips", 0, "accuracy", value=0.99),
    "of which chips": put("curve", 1, "chips", 0, "share", value=0.95),
    "the claim": put("curve", 1, "claim", value="All chips are perfect."),
    "the claim of another σ": lambda c: c["curve"][1].update(claim=c["curve"][0]["claim"]),
    "a failure probability asked for": put("delta", value=1e-6),
    "a larger one": put("delta", value=0.999),
    "one that is none": put("delta", value=0.0),
    "one as text": put("delta", value="0.01"),
    "one above all": put("delta", value=1.0),
    "no samples": put("curve", 0, "total", value=0),
    "fewer samples at one σ": put("curve", 1, "total", value=9),
    "another σ": put("curve", 1, "sigma", value=0.2),
    "NaN for σ": put("curve", 1, "sigma", value=float("nan")),
    "σ as text": put("curve", 1, "sigma", value="0.1"),
    "σ below 0": put("curve", 0, "sigma", value=-0.01),
    "σ without end": put("curve", 2, "sigma", value=10**400),
    "σ twice": put("curve", 1, "sigma", value=0.01),
    "σ in another order": lambda c: c["curve"].reverse(),
    "no curve": put("curve", value=[]),
    "a point less": lambda c: c["curve"].pop(),
    "a point twice": lambda c: c["curve"].append(c["curve"][-1]),
    "a point that is none": put("curve", 0, value=3),
    "an entry of a point": put("curve", 0, "note", value="fine"),
    "an entry of the file": put("note", value="fine"),
    "clean accuracy": put("clean_accuracy", value=1.0),
    "no clean accuracy": lambda c: c.pop("clean_accuracy"),
    "finished as text": put("finished", value="false"),
    "finished, as is never written": put("finished", value=True),
    "samples of the data": put("data", "samples", value=11),
    "another kind of noise": put("noise", "kind", value="uniform"),
    "noise without its drift": lambda c: c["noise"].pop("drift"),
    "a factor that is none": put("noise", "scale", value={"*": float("nan")}),
    "a shared error that is unknown": put("noise", "correlated", value={"wafer": 0.1}),
    "another kind of box": put("box", "kind", value="round"),
    "a box without its scale": lambda c: c["box"].pop("scale"),
    "a method": put("method", value="hope"),
    "a method in a list": put("method", value=["auto"]),
    "an arithmetic": put("arithmetic", value="float32"),
    "options of another kind": put("options", value=[]),
    "no facts of the model": put("model", value={}),
    "a hash that is none": put("model", "sha256", value="abc"),
    "nothing in the box": put("model", "perturbed", value=0),
    "a hash of the data that is none": put("data", "sha256", value=None),
    "a path that is no text": put("data", "path", value=3),
    "no word of the comparison": lambda c: c.pop("checked"),
    "a comparison of no sample": put("checked", "samples", value=0),
    "time": put("seconds", value=3.5),
    "a ledger that spends less": less_spent,
    "no ledger": put("curve", 0, "ledger", value={}),
    "a ledger in a list": put("curve", 0, "ledger", value=[]),
    "a ledger of another proof": put("curve", 0, "ledger", value={"hope": {}}),
    "a ledger of nothing": put("curve", 0, "ledger", value={"martingale": {}}),
    "a ledger of another proof than its samples": another_proof,
    "counts of a proof": put("curve", 0, "proven_by", value={"martingale": 1}),
    "counts of no proof": put("curve", 0, "proven_by", value={}),
    "a damaged ledger": put("curve", 0, "ledger", value={"martingale": {"margins": 3}}),
    "a probability above 1": put(
        "curve", 0, "ledger", value={"martingale": {"margins": {"events": 2.0, "probability": 7.0}}}
    ),
    "a ledger where nothing is proven": lambda c: c["curve"][2].update(ledger=c["curve"][0]["ledger"]),
    "the schema": put("schema", value="thetabox.yield/2"),
}


@pytest.mark.parametrize("name", JSON)
def test_a_file_edited_by_hand(folder: Path, name: str) -> None:
    path = folder / "yield.json"
    content = json.loads(path.read_text())
    JSON[name](content)
    path.write_text(json.dumps(content))
    refused(folder)


def cell(line: int, column: int, value: str) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[line][column] = value

    return change


def swap(rows: Rows) -> None:
    rows[2], rows[3] = rows[3], rows[2]


def prove(rows: Rows) -> None:
    """An entry made small, and its word with it."""
    row = next(row for row in rows[1:] if row[5] == "false" and row[1] == row[2])
    row[4], row[5] = "1e-6", "true"


ROWS: dict[str, Callable[[Rows], Any]] = {
    "an entry": cell(-1, 4, "0.5"),
    "a little smaller": lambda rows: rows[1].__setitem__(4, repr(float(rows[1][4]) * 0.999)),
    "an entry and its word": prove,
    "the word alone": cell(-1, 5, "true"),
    "another word": cell(1, 5, "yes"),
    "NaN": cell(1, 4, "nan"),
    "below 0": cell(1, 4, "-0.1"),
    "above 1": cell(-1, 4, "1.5"),
    "no number": cell(1, 4, ""),
    "a label": cell(1, 1, "9999"),
    "labels that are none": lambda rows: [row.__setitem__(1, "-1") for row in rows[1:] if row[0] == "0"],
    "labels without end": lambda rows: [row.__setitem__(1, str(2**70)) for row in rows[1:] if row[0] == "0"],
    "a prediction": lambda rows: [row.__setitem__(2, str((int(row[1]) + 1) % 3)) for row in rows[1:] if row[0] == "0"],
    "right where it is wrong": lambda rows: [row.__setitem__(2, row[1]) for row in rows[1:] if row[0] == "3"],
    "two rows the other way round": swap,
    "a row less": lambda rows: rows.pop(),
    "a row more": lambda rows: rows.append(rows[-1]),
    "another σ": cell(2, 3, "0.5"),
    "a proof that is unknown": cell(1, 6, "hope"),
    "no proof": cell(1, 6, ""),
    "another proof": lambda rows: cell(1, 6, "entropic" if rows[1][6] != "entropic" else "martingale")(rows),
    "a proof of nothing": cell(-1, 6, "martingale"),
    "a column more": lambda rows: rows[4].append("x"),
    "a column less": lambda rows: rows[4].pop(),
    "other columns": cell(0, 4, "epsilon"),
    "nothing": lambda rows: rows.clear(),
}


@pytest.mark.parametrize("name", ROWS)
def test_samples_edited_by_hand(folder: Path, name: str) -> None:
    path = folder / "samples.csv"
    rows = list(csv.reader(io.StringIO(path.read_text())))
    before = [list(row) for row in rows]
    ROWS[name](rows)
    assert rows != before
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")
    refused(folder)


def test_what_is_proven_is_predicted(folder: Path, certificate: tb.YieldCertificate) -> None:
    """Another prediction, and the accuracy that goes with it."""
    rows = list(csv.reader(io.StringIO((folder / "samples.csv").read_text())))
    chosen = str(int(certificate.proven[1].nonzero()[0]))
    for row in rows[1:]:
        if row[0] == chosen:
            row[2] = str((int(row[1]) + 1) % 3)
    (folder / "samples.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    content = json.loads((folder / "yield.json").read_text())
    content["clean_accuracy"] = 0.8
    (folder / "yield.json").write_text(json.dumps(content))
    refused(folder, "not predicted")


def test_files_that_are_missing_or_damaged(folder: Path) -> None:
    refused(folder / "nowhere", "no proven yield")
    (folder / "samples.csv").write_bytes(b"\xff\xfe\x00")
    refused(folder, "samples.csv")
    (folder / "samples.csv").unlink()
    refused(folder, "samples.csv")
    for content in (b"\xff\xfe", b"[" * 100_000, b"[]", b"{}", b""):
        (folder / "yield.json").write_bytes(content)
        refused(folder, "yield.json")


@pytest.mark.slow
def test_a_certificate_of_a_box_is_none_of_yield(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3), torch.randn(5, 4)
    found = tb.certify(model, x, model(x).argmax(1), [0.0, 1e-3])
    found.save(tmp_path)
    refused(tmp_path, "no proven yield")
    refused(tmp_path / "certificate.json", "box", "no proven yield")
    made().save(tmp_path / "yield")
    with pytest.raises(tb.InputError, match=r"is not a thetabox\.certificate/1"):
        tb.Certificate.load(tmp_path / "yield" / "yield.json")
