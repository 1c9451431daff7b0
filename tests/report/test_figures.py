"""Figures of the measurements: the numbers that they draw."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zlib

import numpy as np
import pytest

from thetabox.report.figures import picture_files, to_pdf, to_png
from thetabox.report.measured_figures import ageing_figure, landscape_figure
from thetabox.report.results import duration


def test_ageing() -> None:
    times, accuracy = np.array([86400.0, 25.0]), np.array([[0.5, 0.7], [0.9, 1.0]])
    figure = ageing_figure(times, accuracy, 0.95)
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["mean"].get_xydata().tolist() == [[25.0, 0.95], [86400.0, 0.6]]
    assert lines["worst chip"].get_ydata().tolist() == [0.9, 0.5]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["25 s", "1 d"]
    assert to_png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("times", [[0.0, 60.0], [60.0]])
def test_ageing_of_one_chip_and_from_the_start(times: list[float]) -> None:
    assert to_png(ageing_figure(np.array(times), np.full((len(times), 1), 0.5), 1.0)).startswith(b"\x89PNG")


def test_landscape() -> None:
    figure = landscape_figure(np.array([1.0, -1.0, 0.0]), np.array([[3.0, 1.0, 0.5], [5.0, 3.0, 0.5]]), "two")
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["mean"].get_xydata().tolist() == [[-1.0, 2.0], [0.0, 0.5], [1.0, 4.0]]
    assert len(figure.axes[0].lines) == 3
    assert to_png(figure).startswith(b"\x89PNG")


def test_durations() -> None:
    shown = [duration(t) for t in (0, 25, 90, 3600, 86400, 2592000, 31536000)]
    assert shown == ["0 s", "25 s", "1.5 min", "1 h", "1 d", "30 d", "1 y"]


# --- for a paper

DRAWN = """
import hashlib, numpy as np
from thetabox.report.figures import picture_files
from thetabox.report.measured_figures import landscape_figure
files = picture_files("a", landscape_figure(np.linspace(-1, 1, 5), np.ones((2, 5)), "ζ = 0.1"))
print({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
"""


def drawn() -> dict[str, bytes]:
    return picture_files("a", landscape_figure(np.linspace(-1, 1, 5), np.ones((2, 5)), "ζ = 0.1"))


def test_a_figure_is_a_png_and_a_pdf() -> None:
    files = drawn()
    assert list(files) == ["a.png", "a.pdf"]
    assert files["a.png"].startswith(b"\x89PNG")
    assert files["a.pdf"].startswith(b"%PDF-")
    # As without the other.
    assert files["a.png"] == to_png(landscape_figure(np.linspace(-1, 1, 5), np.ones((2, 5)), "ζ = 0.1"))


def test_a_pdf_holds_lines_and_letters_and_no_picture_nor_date() -> None:
    pdf = drawn()["a.pdf"]
    assert b"/CIDFontType2" in pdf  # TrueType
    assert b"/Type3" not in pdf
    assert b"/Subtype /Image" not in pdf
    assert not re.search(rb"Date|Matplotlib", pdf)
    content = zlib.decompress(re.search(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL)[1])
    assert content.count(b" l\n") > 10


@pytest.mark.slow
def test_a_figure_is_the_same_bytes_in_every_process() -> None:
    own = {name: hashlib.sha256(content).hexdigest() for name, content in drawn().items()}
    for seed, epoch in (("1", "0"), ("2", "1700000000")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "SOURCE_DATE_EPOCH": epoch}
        done = subprocess.run(
            [sys.executable, "-c", DRAWN], capture_output=True, text=True, env=environment, check=True
        )
        assert done.stdout.strip() == str(own)


def test_a_pdf_leaves_what_the_caller_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    monkeypatch.setitem(mpl.rcParams, "pdf.fonttype", 3)
    assert b"/Type3" not in to_pdf(landscape_figure(np.array([0.0, 1.0]), np.ones((1, 2))))
    assert mpl.rcParams["pdf.fonttype"] == 3
