"""Figures of a comparison of training methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from thetabox.report.figures import CLEAN, SERIES, STYLE, accuracy_axis, epsilon_axis, series_colors
from thetabox.report.results import number

Lines = Sequence[tuple[str, np.ndarray, np.ndarray]]
"""(name, ε [E], accuracy [seeds, E]) of every method."""


def violin_figure(accuracy: Mapping[str, np.ndarray], level: Sequence[float]) -> Figure:
    """Accuracy of every draw of the weights, a panel a level of mismatch, a violin a method.

    Args:
        accuracy: method → [levels, draws].
        level: of mismatch.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(min(2.6 * len(level), 14) + 0.4, 3.6 + 0.03 * max(map(len, accuracy)) * 4))
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(level), sharey=True, squeeze=False)[0]
        at = np.arange(len(accuracy))
        for i, (axes, value) in enumerate(zip(panels, level, strict=True)):
            for x, draws, color in zip(at, accuracy.values(), series_colors(len(accuracy)), strict=True):
                _violin(axes, float(x), draws[i], color)
            axes.set_xlim(-0.5, len(at) - 0.5)  # also of methods of which all draws are alike
            axes.set_title(f"mismatch {number(value)}", fontsize=10)
            axes.set_xticks(at, list(accuracy), rotation=90, fontsize=8)
            axes.grid(axis="x", visible=False)
            accuracy_axis(axes, label=i == 0)
    return figure


def _violin(axes: Axes, x: float, draws: np.ndarray, color: str) -> None:
    if np.ptp(draws) > 0:
        body = axes.violinplot(draws, [x], widths=0.8, showextrema=False)["bodies"][0]  # type: ignore[index]  # stubs say object, it is a list
        body.set_facecolor(color)
        body.set_alpha(0.6)
    axes.plot([x], [draws.mean()], "o", color=CLEAN, markersize=3)


def lines_figure(lines: Lines) -> Figure:
    """Accuracy over ε: the mean over seeds, and each seed as a faint line."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.2))
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        epsilon_axis(axes, np.concatenate([epsilon for _, epsilon, _ in lines]))
        for i, (name, epsilon, accuracy) in enumerate(lines):
            style = _style(i)
            axes.plot(epsilon, accuracy.T, color=style["color"], alpha=0.3, linewidth=0.8)
            axes.plot(epsilon, accuracy.mean(0), markersize=4, label=name, **style)
        accuracy_axis(axes)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def landscapes_figure(losses: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Cross entropy along random directions through the weights: method → (α [A], mean loss [A])."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.0))
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for i, (name, (alpha, loss)) in enumerate(losses.items()):
            axes.plot(alpha, loss, label=name, markevery=10, markersize=4, **_style(i))
        axes.set_xlabel("α, steps along θ + α ζ |θ| ξ")
        axes.set_ylabel("cross entropy (nats)")
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _style(place: int) -> dict[str, Any]:
    """Where colours come again, marker and line tell the series apart."""
    again = place // len(SERIES)
    return {
        "color": SERIES[place % len(SERIES)],
        "marker": "os^D"[again % 4],
        "linestyle": ("-", "--", ":", "-.")[again % 4],
    }
