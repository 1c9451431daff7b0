"""The report of a proven yield: what it claims, in which words, and what it leaves on disk."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch

import thetabox as tb
from tests.report.test_browser import BROWSER, screenshot
from tests.report.test_write import names, read_page
from thetabox import report
from thetabox.errors import InputError
from thetabox.report import sampled_note, sampled_table, write_yield, write_yield_proof, yield_table
from thetabox.report.figures import to_png
from thetabox.report.yield_curve import STATISTICAL, at_least, complement, share_of, yield_curve
from thetabox.report.yield_figure import yield_figure

FILES = ["report.html", "samples.csv", "yield.json", "yield.pdf", "yield.png"]
SIGMA = [0.1, 0.02, 0.05]
SAMPLES = 40


def ledger(delta: float) -> dict[str, Any]:
    margins = {"events": 9.0, "probability": delta * 0.75}
    return {"martingale": {"ends of <dense1>": {"events": 1024.0, "probability": delta * 0.25}, "margins": margins}}


def certificate(**changes: Any) -> tb.YieldCertificate:
    """σ in no order; 30, 38 and 35 of 40 proven."""
    delta = torch.full((3, SAMPLES), 1.0, dtype=torch.float64)
    for row, count in zip(delta, (30, 38, 35), strict=True):
        row[:count] = 1e-5
        row[count - 1] = 8e-3
    label = torch.arange(SAMPLES) % 10
    predicted = label.clone()
    predicted[-1] += 1
    fields: dict[str, Any] = {
        "sigma": torch.tensor(SIGMA, dtype=torch.float64),
        "delta": delta,
        "asked": 0.01,
        "label": label,
        "predicted": predicted,
        "ledger": [ledger(8e-3)] * 3,
        "proven_by": [["martingale" if failure < 1.0 else "" for failure in row] for row in delta.tolist()],
        "model_info": {"source": "net.safetensors", "sha256": "ab" * 32, "parameters": 12345, "perturbed": 12000},
        "data_info": {"name": "digits", "sha256": "cd" * 32, "samples": SAMPLES},
        "checked": {"samples": SAMPLES},
        "seconds": 1.5,
    }
    return tb.YieldCertificate(**(fields | changes))


def draws(of: tb.YieldCertificate, **changes: Any) -> tb.SampledYield:
    """Chips that are right more often than is proven."""
    count, levels = 500, len(of.sigma)
    right = torch.linspace(0.99, 0.9, levels, dtype=torch.float64)
    correct = torch.full((levels, of.label.numel()), count)
    correct[:, -2:] = 0
    correct[:, 0] = 495  # 0.99 of them
    correct[:, 1] = 494
    fields: dict[str, Any] = {
        "sigma": of.sigma,
        "accuracy": right - 0.03,
        "probability": correct / (count * 1.02),
        "correct": correct,
        "accuracies": right[:, None].expand(-1, count),
        "clean_accuracy": of.clean_accuracy,
        "draws": count,
        "confidence": 0.95,
        "share": 0.99,
        "rank": 1,
        "seed": 0,
        "noise": of.noise,
        "box": of.box,
        "seconds": 2.5,
    }
    return tb.SampledYield(**(fields | changes))


def text_of(page: Path) -> str:
    """Words of a page, without tags."""
    whole = re.sub(r"<style>.*?</style>|<svg.*?</svg>", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", whole)).split())


def rows_of(page: Path) -> list[list[str]]:
    """Cells of the table of σ."""
    table = re.findall(r"<tbody>(.*?)</tbody>", page.read_text(encoding="utf-8"), re.DOTALL)[0]
    return [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)]


def test_writes_the_four_files(tmp_path: Path) -> None:
    found = certificate()
    found.save(tmp_path / "deep" / "out")
    out = tmp_path / "deep" / "out"
    assert names(out) == FILES
    assert json.loads((out / "yield.json").read_text()) == found.to_json()
    rows = list(csv.DictReader((out / "samples.csv").open(newline="")))
    assert list(rows[0]) == ["sample", "label", "predicted", "sigma", "delta", "proven", "proven_by"]
    assert [float(row["delta"]) for row in rows] == found.delta.flatten().tolist()
    assert [row["proven"] == "true" for row in rows] == found.proven.flatten().tolist()
    assert (out / "yield.png").read_bytes().startswith(b"\x89PNG")
    tb.YieldCertificate.load(out)


def test_draws_stand_beside_and_are_called_what_they_are(tmp_path: Path) -> None:
    found = certificate()
    page = write_yield(tmp_path, found, draws(found))
    assert names(tmp_path) == sorted([*FILES, "sampled.json"])
    sampled = json.loads((tmp_path / "sampled.json").read_text())
    assert (sampled["schema"], sampled["seconds"]) == ("thetabox.sampled_yield/1", None)
    assert sampled["data"] == found.data_info
    assert [level["sigma"] for level in sampled["levels"]] == SIGMA
    text = text_of(page)
    assert text.count(STATISTICAL) == 3
    assert STATISTICAL == "statistical: confidence, not proof"
    # In order of σ; proven: samples, mean, .9, .99, .999; then samples, mean and the bound of the draws.
    cells = rows_of(page)
    assert [row[0] for row in cells] == ["0.02", "0.05", "0.1"]
    assert [row[1] for row in cells] == ["38/40", "35/40", "30/40"]
    curve = yield_curve(found)
    for place, row in enumerate(cells):
        assert row[2] == at_least(curve.mean[place])
        assert row[3:6] == [at_least(curve.chips[share][place]) for share in (0.9, 0.99, 0.999)]
    assert [row[6:] for row in cells] == [
        ["37/40", "94.5 %", "91.5 %"],
        ["37/40", "90.0 %", "87.0 %"],
        ["37/40", "99.0 %", "96.0 %"],
    ]


def test_without_draws_nothing_is_called_sampled(tmp_path: Path) -> None:
    page = write_yield(tmp_path, certificate())
    text = text_of(page)
    assert "ampled" not in text
    assert "statistical" not in text
    assert all(len(row) == 6 for row in rows_of(page))


def test_the_page_says_what_is_claimed_and_what_is_assumed(tmp_path: Path) -> None:
    noise = tb.Noise(
        scale={"dense2.*": 0.5}, correlated={"chip": 0.25}, drift={"conv*": -0.05}, drift_bound={"*bias": 0.02}
    )
    found = certificate(noise=noise, box=tb.Box("absolute", exclude="norm*"))
    text = text_of(write_yield(tmp_path, found))
    for place in range(3):
        assert text.count(found.claim(place)) == 1
    for expected in (
        "claim of yield and not of a box",
        "independent of each other, but for the errors that they share: one of a chip, 0.25 times as large",
        "σ times 0.5 for dense2.*",
        "conv* is off by -5 % besides, known",
        "*bias is off by up to 2 % besides, unknown",
        "θ + σ τ n, τ = 1; every n is standard normal",
        "A parameter has one error",
        "for Gaussian errors (factors on σ dense2.*: 0.5; errors in common chip: 0.25; known drift conv*: -0.05; "
        "unknown drift, at most *bias: 0.02) of size σ τ, τ = 1, of every weight and bias but norm*, independent of "
        "each other but for those in common",
        "without rounding",
        "proven by martingale 103",
        "every weight and bias but norm*",
        "ab" * 32,
        "cd" * 32,
        "12 345",
    ):
        assert expected in text, expected
    words = text.lower()
    assert "verified" not in words
    assert "certificate" not in words


def test_subgaussian_errors_are_described(tmp_path: Path) -> None:
    text = text_of(write_yield(tmp_path, certificate(noise=tb.Noise("subgaussian"))))
    assert "variance proxy at most 1" in text
    assert "standard normal" not in text


def test_the_ledger_adds_up(tmp_path: Path) -> None:
    page = write_yield(tmp_path, certificate(ledger=[ledger(8e-3), ledger(4e-3), {}]))
    text = text_of(page)
    assert "σ = 0.02, proof martingale" in text
    assert "ends of <dense1> 1 024 0.001 margins 9 0.003 in all (δ asked for: 0.01) 0.004" in text
    assert "ends of <dense1> 1 024 0.002 margins 9 0.006 in all (δ asked for: 0.01) 0.008" in text
    assert "σ = 0.05 Nothing is proven here." in text


def test_page_loads_nothing_and_is_whole(tmp_path: Path) -> None:
    found = certificate()
    page = write_yield(tmp_path, found, draws(found))
    parsed = read_page(page)
    assert all(link.startswith(("#", "data:")) for link in parsed.links), parsed.links
    assert len(parsed.ids) == len(set(parsed.ids))
    assert not re.search(r"@import|url\((?!#)|<script", page.read_text(encoding="utf-8"))


def test_names_are_escaped(tmp_path: Path) -> None:
    nasty = '<script>alert("x")</script>'
    groups = {nasty: {nasty: {"events": 1.0, "probability": 1e-3}}}
    noise = tb.Noise(scale={nasty: 0.5}, drift={nasty: 0.1})
    info = {"source": nasty, "sha256": nasty, "parameters": 1, "perturbed": 1}
    found = certificate(noise=noise, ledger=[groups] * 3, model_info=info, data_info={"name": nasty}, method=nasty)
    write_yield(tmp_path, found, title=nasty)
    assert "<script" not in (tmp_path / "report.html").read_text()


def test_what_is_not_finished_is_said(tmp_path: Path) -> None:
    assert "Not finished" in text_of(write_yield(tmp_path / "a", certificate(finished=False)))
    assert "finished" not in text_of(write_yield(tmp_path / "b", certificate())).lower()


def test_other_draws_are_refused(tmp_path: Path) -> None:
    found = certificate()
    sampled = draws(found)
    for other, part in (
        (replace(sampled, sigma=found.sigma * 2), "σ"),
        (replace(sampled, probability=sampled.probability[:, 1:]), "samples"),
        (replace(sampled, noise=tb.Noise(scale={"*": 0.5})), "noise"),
        (replace(sampled, box=tb.Box("absolute")), "box"),
    ):
        with pytest.raises(InputError, match=part):
            write_yield(tmp_path / "out", found, other)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("disk_full_at_the_third_file")
def test_all_or_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*no space left on device"):
        write_yield(tmp_path / "out", certificate())
    assert not (tmp_path / "out").exists()


def test_a_folder_of_the_other_claim_is_left_alone(tmp_path: Path) -> None:
    model, x = torch.nn.Linear(4, 3), torch.randn(5, 4)
    tb.certify(model, x, [0] * 5, 0.0).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for write in (write_yield, write_yield_proof):
        with pytest.raises(InputError, match="another claim"):
            write(tmp_path, certificate())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_a_proven_yield_is_not_written_over_by_a_box(tmp_path: Path) -> None:
    model, x = torch.nn.Linear(4, 3), torch.randn(5, 4)
    write_yield(tmp_path, certificate())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    box = tb.certify(model, x, [0] * 5, 0.0)
    for write in (
        lambda: box.save(tmp_path),
        lambda: report.write_proof(tmp_path, box),
        lambda: report.write_comparison(tmp_path, [("a", box, None)], title="t"),
    ):
        with pytest.raises(InputError, match="another claim"):
            write()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_figure_draws_these_numbers() -> None:
    found = certificate()
    curve = yield_curve(found, draws(found))
    axes = yield_figure(curve).axes[0]
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(lines["samples, each right on 0.99 of chips (proven)"].get_ydata()) == [38 / 40, 35 / 40, 30 / 40]
    assert list(lines["99 % of chips reach (proven)"].get_ydata()) == curve.chips[0.99].tolist()
    assert lines["mean of 500 chips (sampled)"].get_linestyle() == "--"
    assert list(lines["mean of 500 chips (sampled)"].get_ydata()) == pytest.approx([0.945, 0.9, 0.99])
    assert list(lines["99 % of chips reach (sampled, 95 % confidence)"].get_xdata()) == [0.02, 0.05, 0.1]
    assert list(lines["clean"].get_ydata()) == [39 / 40] * 2
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.02", "0.05", "0.1"]


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize(
    "sigma", [[0.0], [0.5], [0.0, 0.3], [1e-6, 0.3], [0.0, 1e-6, 2.0], list(range(1, 14))], ids=str
)
def test_any_sweep_can_be_drawn(tmp_path: Path, sigma: list[float]) -> None:
    count = len(sigma)
    found = certificate(
        sigma=torch.tensor(sigma, dtype=torch.float64),
        delta=torch.ones(count, SAMPLES, dtype=torch.float64),
        ledger=[{}] * count,
        proven_by=[[""] * SAMPLES] * count,
    )
    assert to_png(yield_figure(yield_curve(found, draws(found)))).startswith(b"\x89PNG")
    read_page(write_yield(tmp_path, found))


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(1.0, "100.0 %"), (0.99999, "99.9 %"), (2 / 3, "66.6 %"), (0.57, "57.0 %"), (0.0, "0.0 %"), (29 / 100, "29.0 %")],
)
def test_a_proven_share_is_never_rounded_up(fraction: float, text: str) -> None:
    assert at_least(fraction) == text


def test_shares_are_as_they_were_asked_for() -> None:
    assert [share_of(s) for s in (0.9, 0.99, 0.999, 0.5, 1e-7)] == ["90 %", "99 %", "99.9 %", "50 %", "0.00001 %"]
    assert [complement(d) for d in (0.01, 1e-9, 0.5, 0.1)] == ["0.99", "0.999999999", "0.5", "0.9"]


def test_tables_of_the_terminal() -> None:
    found = certificate()
    sampled = draws(found)
    alone, both, drawn = yield_table(found), yield_table(found, sampled), sampled_table(sampled)
    assert [len(table.columns) for table in (alone, both, drawn)] == [5, 7, 3]
    assert list(alone.columns[0].cells) == ["0.02", "0.05", "0.1"]
    assert list(alone.columns[2].cells) == ["38", "35", "30"]
    assert list(both.columns[5].cells) == ["94.5 %", "90.0 %", "99.0 %"]
    assert list(drawn.columns[2].cells) == ["96.0 %", "91.5 %", "87.0 %"], "in the order that was asked for"
    assert sampled_note(sampled) == (
        "sampled: 500 chips a σ; what 99 % of chips reach has 95 % confidence: statistical, not proof"
    )


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")
def test_in_a_browser(tmp_path: Path) -> None:
    found = certificate()
    page = write_yield(tmp_path / "out", found, draws(found))
    dom, pixels = screenshot(page, tmp_path)
    assert dom.count("<svg") == 1
    for color in ([0.0, 0x72, 0xB2], [0xD5, 0x5E, 0.0]):
        drawn = (abs(pixels - [c / 255 for c in color]).max(-1) < 0.02).sum()
        assert drawn > 300, f"nothing is drawn in {color}"
