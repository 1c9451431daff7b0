from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import thetabox as tb
from thetabox.errors import InputError
from thetabox.report import write, write_comparison, write_files

FILES = ["certificate.json", "report.html", "samples.csv", "verified_accuracy.pdf", "verified_accuracy.png"]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


class Balanced(HTMLParser):
    """Every tag that is opened is closed, in order."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "path", "use", "line", "rect", "circle"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data")]
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        assert self.open, f"{tag} closed, nothing open"
        assert self.open.pop() == tag


def read_page(path: Path) -> Balanced:
    page = Balanced()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_writes_the_four_files(tmp_path, certificate, attack):
    page = write(tmp_path / "a" / "out", certificate, attack)
    assert names(page.parent) == FILES
    assert json.loads((page.parent / "certificate.json").read_text())["schema"] == "thetabox.certificate/1"
    rows = list(csv.DictReader((page.parent / "samples.csv").open(newline="")))
    assert list(rows[0]) == ["sample", "label", "predicted", "epsilon", "margin", "verified"]
    assert len(rows) == 4 * 40
    assert {r["verified"] for r in rows} == {"true", "false"}
    assert [float(r["margin"]) for r in rows] == certificate.margin.flatten().tolist()
    assert (page.parent / "verified_accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_page_loads_nothing_and_says_everything(tmp_path, certificate, attack):
    page = write(tmp_path, certificate, attack)
    parsed = read_page(page)
    assert all(link.startswith(("#", "data:")) for link in parsed.links), parsed.links
    assert len(parsed.ids) == len(set(parsed.ids))
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)|<script", text)
    for expected in ("90.0 %", "attacked", "paper's criterion", "uncertain spikes", "ab" * 32, "cd" * 32, "θ ± ε|θ|"):
        assert expected in text, expected
    assert "binary32" not in text.split("arithmetic covered")[0]


@pytest.mark.slow
def test_the_sandwich_tells_which_stage_proved_what(tmp_path, make_certificate, attack):
    counts = make_certificate().verified.sum(1)
    first = torch.tensor([30, 20, 1, 0])
    by = {
        "interval": first.tolist(),
        "linear intermediate=interval": (counts - first).tolist(),
        "linear intermediate=backward": [0, 0, 0, 0],
    }
    options = {"effort": 300.0, "proven_by": by, "left_out": {"linear intermediate=backward": "too large"}}
    certificate = make_certificate(domain="auto", options=options)
    text = write(tmp_path, certificate, attack).read_text(encoding="utf-8")
    rows = re.findall(r'<tr>(<td class="n">.*?)</tr>', text, re.DOTALL)[:8]
    cells, added = ([re.findall(r">([^<]*)</td>", row) for row in part] for part in (rows[:4], rows[4:]))
    assert [int(row[2]) for row in cells] == counts.tolist()
    assert [[int(c) for c in row[1:]] for row in added] == [list(t) for t in zip(*by.values(), strict=True)]
    gap = (attack.accuracy - certificate.verified_accuracy).clamp(min=0)
    assert [row[4] for row in cells] == [f"{100 * g:.1f} %" for g in gap.tolist()]
    assert "proven by linear intermediate=interval" in text
    assert "proven by linear intermediate=backward" not in text, "a stage that proved nothing needs no colour"
    assert "auto (effort = 300, linear intermediate=backward gave up: too large)" in text
    assert f"{100 * gap.max():.1f} %</b>" in text
    alone = write(tmp_path, make_certificate(options={"proven_by": {"interval": [1, 1, 1, 1]}})).read_text()
    assert "roven by" not in alone


def test_names_are_escaped(tmp_path, make_certificate):
    nasty = '<script>alert("x")</script>'
    certificate = make_certificate(
        model_info={"source": nasty, "sha256": nasty, "parameters": 1, "perturbed": 1}, data_info={"name": nasty}
    )
    write(tmp_path, certificate, title=nasty)
    assert "<script" not in (tmp_path / "report.html").read_text()


def test_float32_and_unsound_are_warned_of(tmp_path, make_certificate):
    write(tmp_path, make_certificate(arithmetic="float32", sound=False, domain="lirpa"))
    text = (tmp_path / "report.html").read_text()
    assert "does not cover TF32" in text
    assert "no proof" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"radius": None},
        {"baseline": None, "profile": None},
        {"radius": torch.zeros(40, dtype=torch.float64)},
        {"radius": torch.full((40,), 0.5, dtype=torch.float64)},
    ],
    ids=["grid only", "no extras", "no radius anywhere", "one radius"],
)
def test_parts_may_be_missing(tmp_path, make_certificate, changes):
    write(tmp_path, make_certificate(**changes))
    read_page(tmp_path / "report.html")


@pytest.mark.slow
@pytest.mark.parametrize("values", [[0.0], [0.5], [0.0, 1.5], [1e-12, 1e3]])
def test_any_sweep_can_be_drawn(tmp_path, make_certificate, values):
    epsilon = torch.tensor(values, dtype=torch.float64)
    certificate = make_certificate(
        epsilon=epsilon,
        margin=torch.zeros(len(values), 40, dtype=torch.float64),
        verified=torch.zeros(len(values), 40, dtype=torch.bool),
        verified_accuracy=torch.zeros(len(values), dtype=torch.float64),
        baseline=None,
        profile=None,
    )
    write(tmp_path, certificate)
    assert names(tmp_path) == FILES


def test_attack_at_other_epsilon_is_refused(tmp_path, certificate, attack):
    attack.epsilon = attack.epsilon * 2
    with pytest.raises(InputError, match="other ε"):
        write(tmp_path / "out", certificate, attack)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_comparison_holds_every_network(tmp_path, make_certificate, attack):
    entries = [
        ("CNN, standard", make_certificate(), attack),
        ("CNN, robust", make_certificate(seed=1), None),
        ("LSNN", make_certificate(data_info={"name": "vowels"}), None),
    ]
    page = write_comparison(tmp_path, entries, title="Three networks")
    parsed = read_page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    text = page.read_text()
    assert all(f"<h2>{name}</h2>" in text for name, _, _ in entries)
    assert names(tmp_path / "cnn-standard") == ["certificate.json", "samples.csv"]


def test_output_folder_that_is_a_file(tmp_path, certificate):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        write(tmp_path / "out", certificate)
    with pytest.raises(InputError, match=r"cannot make|is a file"):
        write(tmp_path / "out" / "deeper", certificate)
    assert (tmp_path / "out").read_text() == "mine"


def test_output_folder_that_cannot_be_made(certificate):
    with pytest.raises(InputError, match="cannot make output folder"):
        write("/proc/thetabox/out", certificate)


@pytest.mark.slow
def test_a_file_in_the_way_leaves_the_old_report(tmp_path, certificate, make_certificate):
    write(tmp_path, certificate)
    before = (tmp_path / "certificate.json").read_bytes()
    (tmp_path / "samples.csv").unlink()
    (tmp_path / "samples.csv").mkdir()
    with pytest.raises(InputError, match=r"samples\.csv"):
        write(tmp_path, make_certificate(seed=3))
    assert (tmp_path / "certificate.json").read_bytes() == before
    assert names(tmp_path) == FILES


@pytest.mark.usefixtures("disk_full_at_the_third_file")
def test_full_disk_leaves_nothing(tmp_path, certificate):
    with pytest.raises(InputError, match=r"cannot write .*no space left on device"):
        write(tmp_path / "out", certificate)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_file_size_limit_of_the_system_leaves_nothing(tmp_path):
    """The real thing: the kernel refuses to write past the limit, as it would on a full disk."""
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from thetabox.errors import InputError\n"
        "from thetabox.report import output_folder, write_files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n"
        "    with output_folder(sys.argv[1]) as folder:\n"
        "        write_files(folder, {'small': b'x' * 100, 'large': b'x' * 100_000})\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    # -B: what Python would compile under the limit, it would leave cut off for every process after it.
    command = [sys.executable, "-B", "-c", script, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_write_files_replaces_and_keeps_permissions(tmp_path):
    write_files(tmp_path, {"a": "old"})
    write_files(tmp_path, {"a": "new", "b": b"\x00"})
    assert (tmp_path / "a").read_text() == "new"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert names(tmp_path) == ["a", "b"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_data_without_a_name(tmp_path: Path) -> None:
    """Arrays in memory have none: the page says how many samples they are."""
    model, x = torch.nn.Linear(4, 3), torch.randn(5, 4)
    tb.certify(model, x, [0] * 5, 0.0).save(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Linear on 5 samples" in page
    assert "arrays in memory, 5 samples" in page
