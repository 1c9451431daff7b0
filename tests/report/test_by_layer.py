"""Profiles of many entries: what is summed, what is the largest, and what stays as it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import thetabox as tb
from tests.report.conftest import EPSILON
from thetabox.report import write
from thetabox.report.by_layer import MOST, by_layer, heads, rows
from thetabox.report.html import single_page
from thetabox.report.results import UncertainUnits, failure_of
from thetabox.verify.domain import Profile

STEPS = 10
# As the linear domain calls them: two layers and an activation in a loop, then a layer.
LOOP = [
    f"{name}{f'_{t}' if t else ''}{end}"
    for t in range(STEPS)
    for name, end in (
        ("rec (addmm", ")"),
        ("in (mm", ")"),
        ("relu", ""),
        ("cell.act (mul", ")"),
    )
] + ["out"]


def failure(names: list[str], kind: str = "losses") -> UncertainUnits:
    share = np.arange(1.0, 1 + 2 * len(names)).reshape(2, -1)
    return UncertainUnits(kind, names, np.array([0.0, 0.1]), share / share.sum(1, keepdims=True))


def test_losses_of_a_loop_are_summed() -> None:
    whole = failure(LOOP)
    found = by_layer(whole)
    assert found.failure.names == ["rec", "in", "relu", "cell.act", "out"]
    assert found.entries == [STEPS] * 4 + [1]
    assert np.allclose(found.failure.share.sum(1), 1.0)
    for place, name in enumerate(("rec (", "in (", "relu", "cell.act (")):
        own = [i for i, n in enumerate(LOOP) if n.startswith(name)]
        assert np.allclose(found.failure.share[:, place], whole.share[:, own].sum(1))
    assert found.failure.sentences()[0].startswith("ε = 0.1: most is lost at cell.act (")


def test_of_shares_the_largest() -> None:
    """A sum of shares of different things is a share of nothing."""
    whole = failure(LOOP, "layers")
    found = by_layer(whole)
    assert np.array_equal(found.failure.share[:, 0], whole.share[:, 4 * (STEPS - 1)])


def test_a_short_loop_is_one() -> None:
    names = [f"cell (addmm{end})" for end in ("", "_1", "_2")]
    assert by_layer(failure([*names, "out"])).failure.names == ["cell", "out"]
    assert by_layer(failure([*names[:2], "out"])) is None


@pytest.mark.parametrize(
    "names",
    [
        ["conv1", "relu", "relu_1", "relu_2", "dense"],
        [f"dense_{i}" for i in range(3 * MOST)],
        [f"layers.{i}" for i in range(2 * MOST)],
        ["out"],
    ],
    ids=["few", "numbered layers", "one module for all", "one"],
)
def test_what_stays_as_it_is(names: list[str]) -> None:
    assert by_layer(failure(names)) is None


def test_time_steps_stay() -> None:
    assert by_layer(failure([str(t) for t in range(60)], "steps")) is None


def test_layers_inside_one_module_where_there_are_many() -> None:
    names = [f"stage{s}.{b}.conv{c}" for s in range(3) for b in range(5) for c in range(2)]
    found = by_layer(failure(["stem", *names, "head"]))
    assert found.failure.names == ["stem", "stage0", "stage1", "stage2", "head"]
    assert found.entries == [1, 10, 10, 10, 1]
    finer = by_layer(failure(["stem", *names[:20], "head"]))
    assert finer.failure.names == ["stem", *(f"stage{s}.{b}" for s in range(2) for b in range(5)), "head"]


def test_names_with_brackets_of_their_own() -> None:
    names = [f"a (b) (add_{i})" for i in range(1, 4)]
    assert by_layer(failure(names)).failure.names == ["a (b)"]


def test_rows_are_those_of_positive_epsilon() -> None:
    one = UncertainUnits("losses", ["a", "b"], np.array([0.0, 1e-3, 0.01]), np.array([[0, 0], [0.25, 0.75], [1, 0]]))
    assert heads(one) == ["ε = 0.001", "ε = 0.01"]
    assert rows(one) == [["a", "25.0 %", "100.0 %"], ["b", "75.0 %", "0.0 %"]]


def looped(make_certificate, kind: str = "losses"):
    share = torch.rand(len(EPSILON), len(LOOP), generator=torch.Generator().manual_seed(0))
    return make_certificate(profile=Profile(kind, LOOP, share / share.sum(1, keepdim=True), "margin", "Lost here."))


def test_the_page_has_a_line_a_layer_and_the_rest_folded_away(make_certificate) -> None:
    text = single_page(looped(make_certificate))
    place = text[text.index("Where verification fails first") :]
    shown, folded = place.split("<details><summary>All 41 entries</summary>")
    assert shown.count('<tr><th scope="row">') == 5
    assert "relu_7" not in shown
    assert "Lost here. Summed over all that a layer does, in every step: 5 layers, 41 entries." in shown
    assert folded.split("</details>")[0].count('<tr><th scope="row">') == 41
    assert shown.count("most is lost at") == 3


def test_the_page_says_where_an_activation_is_first_uncertain(make_certificate) -> None:
    text = single_page(looped(make_certificate, "layers"))
    assert "Of a layer that runs several times the largest share is shown." in text
    assert "the first uncertain margin at layer rec (addmm)" in text


def test_a_page_of_few_entries_has_no_table_of_them(certificate) -> None:
    assert by_layer(failure_of(certificate)) is None
    assert "entries</summary>" not in single_page(certificate)


class Loop(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.rec, self.out = torch.nn.Linear(3, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(x.shape[0], 8)
        for t in range(x.shape[1]):
            h = torch.relu(self.inner(x[:, t]) + self.rec(h))
        return self.out(h)


@pytest.mark.slow
def test_a_network_in_a_loop_and_its_folder(tmp_path) -> None:
    torch.manual_seed(1)
    model, x = Loop(), torch.rand(4, 8, 3)
    certificate = tb.certify(model, x, model(x).argmax(1), [0, 1e-3], domain="linear", profile=True)
    found = by_layer(failure_of(certificate))
    assert len(found.failure.names) < len(certificate.profile.names)
    assert {"inner", "rec", "out"} >= {name for name in found.failure.names if name != "relu"}
    write(tmp_path, certificate)
    assert "profile" not in json.loads((tmp_path / "certificate.json").read_text())
