"""Figures of the measurements: the numbers that they draw."""

from __future__ import annotations

import numpy as np
import pytest

from thetabox.report import ageing_figure, landscape_figure, to_png
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
