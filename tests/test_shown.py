"""Results as a notebook shows them: every number is that of the result, and of the CSV file."""

from __future__ import annotations

import builtins
import csv
import pickle
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

import thetabox as tb

EPSILON = [0.0, 1e-3, 0.5]


@pytest.fixture(scope="module")
def given() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, 4), torch.rand(5, 3)
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 4  # one that is wrong
    return model, x, y


@pytest.fixture(scope="module")
def results(given) -> dict[str, object]:
    return {
        "certificate": tb.certify(*given, EPSILON, domain="interval"),
        "yield": tb.certify_yield(*given, [0.01, 0.3]),
        "radii": tb.certified_radius(*given, domain="interval", details=True),
        "attack": tb.attack(*given, EPSILON),
        "sampled": tb.sampled_yield(*given, [0.01, 0.3], draws=21, share=0.8),
        "operators": tb.inspect(given[0], given[1]),
    }


class Cells(HTMLParser):
    """Texts of a page's table cells, and whether its tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] == "td":
            self.cells.append(data)


@pytest.mark.parametrize("name", ["certificate", "yield", "radii", "attack", "sampled", "operators"])
def test_what_is_shown(results, name):
    result = results[name]
    names, rows = result.summary()
    assert all(len(row) == len(names) for row in rows)
    assert len(repr(result)) < 1000  # without the tensors
    page = Cells(result._repr_html_())
    assert page.cells == [cell for row in rows for cell in row]
    assert page.open == []
    assert all(cell in repr(result) for cell in page.cells)


def test_counts_are_those_of_the_certificate(results):
    found = results["certificate"]
    assert [row[1:] for row in found.summary()[1]] == [[str(int(n)), "5"] for n in found.verified.sum(1)]
    assert repr(found).startswith("Certificate: 5 samples, clean accuracy 0.800; ")


def test_what_draws_say_is_no_proof(results):
    found = results["sampled"]
    first, *rows = repr(found).splitlines()
    how = "21 chips a σ, Gaussian errors; statistical, 0.99 confidence, no proof"
    assert first == f"SampledYield: 5 samples, clean accuracy 0.800; {how}"
    worst = found.accuracies.amin(1).tolist()
    assert rows == [
        f"  σ {sigma}; accuracy of 0.8 of chips {float(reached):.4f}; mean {float(mean):.4f}; worst {least:.4f}"
        for sigma, reached, mean, least in zip((0.01, 0.3), found.accuracy, found.mean, worst, strict=True)
    ]


def test_operators_are_a_list_that_tells_what_has_no_rule(results):
    (one,) = results["operators"]
    assert results["operators"] == [one]
    assert repr(results["operators"]).splitlines()[0] == "Operators: 1 operator of 1 kind, every one has a rule"
    unknown = replace(one, operator="aten.sort.default", rule=False)
    lines = repr(type(results["operators"])([one, one, unknown])).splitlines()
    assert lines == [
        "Operators: 3 operators of 2 kinds, 1 without a rule",
        "  operator aten.sort.default; times 1; rule NO",
        "  operator aten.linear.default; times 2; rule yes",
    ]
    assert pickle.loads(pickle.dumps(results["operators"])) == [one]
    assert "0 operators" in repr(type(results["operators"])())


@pytest.mark.parametrize("name", ["certificate", "yield", "attack"])
def test_a_record_is_one_sample_at_every_level(results, name):
    result = results[name]
    level, bound, holds = {
        "certificate": ("epsilon", "margin", "verified"),
        "yield": ("sigma", "delta", "proven"),
        "attack": ("epsilon", "margin", "correct"),
    }[name]
    assert len(result) == len([*result]) == 5
    for n, record in enumerate(result):
        assert record["sample"] == n
        assert record["label"] == int(result.label[n])
        assert record[level] == getattr(result, level).tolist()
        assert record[bound] == getattr(result, bound)[:, n].tolist()
        assert record[holds] == getattr(result, holds)[:, n].tolist()
    assert result[-1] == result[4]
    for at in (5, -6):
        with pytest.raises(IndexError, match="there are 5 samples"):
            result[at]


def test_records_of_radii_have_one_number(results, given):
    radii = results["radii"]
    assert [r["radius"] for r in radii] == radii.radius.tolist()
    assert radii[0] == {"sample": 0, "radius": 0.0, "status": "misclassified"}
    whole = tb.certify(*given, EPSILON, domain="interval")
    whole.radius = radii.radius
    assert whole[1]["radius"] == float(radii.radius[1])


@pytest.mark.parametrize("name", ["certificate", "yield"])
def test_a_frame_is_the_csv_file(results, name, tmp_path):
    pytest.importorskip("pandas", reason="pandas is not installed")
    results[name].save(tmp_path)
    with (tmp_path / "samples.csv").open() as file:
        rows = list(csv.reader(file))
    frame = results[name].to_pandas()
    assert [*frame.columns] == rows[0]
    kept = [[str(v).lower() if isinstance(v, bool) else str(v) for v in row] for row in frame.values.tolist()]
    assert kept == rows[1:]


def test_frames_of_radii_and_attacks(results):
    pytest.importorskip("pandas", reason="pandas is not installed")
    assert results["radii"].to_pandas()["radius"].tolist() == results["radii"].radius.tolist()
    frame = results["attack"].to_pandas()
    assert frame["correct"].tolist() == results["attack"].correct.flatten().tolist()


def test_without_pandas_it_is_one_line(results, monkeypatch):
    real = builtins.__import__

    def absent(name, *rest):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(tb.InputError, match=r"pip install 'thetabox\[notebook\]'"):
        results["radii"].to_pandas()


@pytest.mark.parametrize("name", ["certificate", "yield", "radii", "attack"])
def test_a_figure_is_a_picture(results, name):
    assert results[name].plot()._repr_png_().startswith(b"\x89PNG")


def test_text_of_others_is_escaped(results):
    found = results["certificate"]
    found.data_info = {**found.data_info, "name": "<script>"}
    assert "<script>" not in found._repr_html_()
