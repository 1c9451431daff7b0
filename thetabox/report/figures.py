"""Figures of a report: PNG and PDF for the folder, inline SVG for the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from thetabox.report.results import AccuracyCurve, RadiusSummary, UncertainUnits, number

# Told apart with any colour vision, and in print (Okabe and Ito).
VERIFIED, ATTACKED, BASELINE, CLEAN = "#0072b2", "#d55e00", "#8a8a8a", "#444444"
# Letters of a bar chart's labels, each as long as the longest, that fit beside one another.
WIDEST_LABELS = 64
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
}


def accuracy_figure(curve: AccuracyCurve, title: str = "") -> Figure:
    """Verified accuracy (proven from below) and attacked accuracy (found from above) over ε."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(7.2, 3.9)
        epsilon_axis(axes, curve.epsilon)
        if curve.attacked is not None:
            upper = np.maximum(curve.attacked, curve.verified)
            axes.fill_between(curve.epsilon, curve.verified, upper, color="#f3ead9", linewidth=0, label="not known")
            axes.plot(
                curve.epsilon, curve.attacked, "v-", color=ATTACKED, label="attacked (upper bound)", clip_on=False
            )
        _stages(axes, curve)
        axes.plot(curve.epsilon, curve.verified, "o-", color=VERIFIED, label="verified (proven)", clip_on=False)
        if curve.baseline is not None:
            axes.plot(
                curve.epsilon,
                curve.baseline,
                "x--",
                color=BASELINE,
                label="verified, criterion of the paper",
                clip_on=False,
            )
        axes.axhline(curve.clean, color=CLEAN, linestyle=":", linewidth=1, label="clean")
        accuracy_axis(axes)
        axes.set_title(title or f"{curve.samples} samples", loc="left", fontsize=11)
        add_legend(axes, curve.clean)
    return figure


def add_legend(axes: Axes, clean: float) -> None:
    """In the lower left, which curves over ε leave free where the network is good; else where fewest lines are."""
    axes.legend(loc="lower left" if clean > 0.5 else "best")


def _stages(axes: Axes, curve: AccuracyCurve) -> None:
    """What each stage of the proof added, one on top of the other, from dark to light."""
    below = np.zeros(len(curve.epsilon))
    shades = np.linspace(0.55, 0.1, max(len(curve.stages), 1))
    for (name, count), shade in zip(curve.stages.items(), shades, strict=False):
        above = below + count / curve.samples
        if count.any():
            axes.fill_between(
                curve.epsilon, below, above, color=VERIFIED, alpha=shade, linewidth=0, label=f"proven by {name}"
            )
        below = above


def comparison_figure(groups: Sequence[tuple[str, Sequence[tuple[str, AccuracyCurve]]]]) -> Figure:
    """One panel a data set; solid lines are proven, dashed ones are what an attack left standing.

    Args:
        groups: (name of the data set, its (model name, curve) pairs).
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4 * len(groups), 3.9))
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(groups), squeeze=False)[0]
        for axes, (title, curves) in zip(panels, groups, strict=True):
            epsilon_axis(axes, np.concatenate([c.epsilon for _, c in curves]))
            for (name, curve), color in zip(curves, series_colors(len(curves)), strict=True):
                axes.plot(curve.epsilon, curve.verified, "o-", color=color, label=f"{name}: verified", clip_on=False)
                if curve.attacked is not None:
                    axes.plot(
                        curve.epsilon,
                        curve.attacked,
                        "v--",
                        color=color,
                        markersize=4,
                        linewidth=1,
                        label=f"{name}: attacked",
                        clip_on=False,
                    )
            accuracy_axis(axes)
            axes.set_title(title, loc="left", fontsize=11)
            axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
    return figure


def radius_figure(radii: RadiusSummary, epsilon: np.ndarray) -> Figure:
    """Histogram of certified radii on a logarithmic axis, or of the largest verified ε of the sweep."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(7.2, 2.9)
        none = int((radii.values <= 0).sum())
        if radii.bisected:
            _radius_bars(axes, radii.proven)
            axes.set_xlabel("certified radius ε")
        else:
            sweep = [e for e in epsilon if e > 0]
            counts = [int((radii.values == e).sum()) for e in sweep]
            bars = axes.bar([number(e) for e in sweep], counts, color=VERIFIED, width=0.7)
            axes.bar_label(bars, fontsize=8)
            axes.set_xlabel("largest verified ε of the sweep")
        axes.set_ylabel("samples")
        count = len(radii.proven)
        title = f"{count} sample{'s' * (count != 1)} with a radius, {none} without"
        axes.set_title(title, loc="left", fontsize=11)
        axes.grid(axis="x", visible=False)
    return figure


def failure_figure(failure: UncertainUnits) -> Figure:
    """Uncertain spikes over time, uncertain ReLUs by layer or shares of the loss, one series for each positive ε."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(7.2, 3.2)
        rows = [(e, s) for e, s in zip(failure.epsilon, failure.share, strict=True) if e > 0]
        shades = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, max(len(rows), 1)))
        if failure.kind == "steps":
            steps = np.arange(len(failure.names))
            for (epsilon, share), color in zip(rows, shades, strict=True):
                axes.plot(steps, share, color=color, label=f"ε = {number(epsilon)}")
            axes.set_xlabel("time step")
        else:
            width = 0.8 / max(len(rows), 1)
            at = np.arange(len(failure.names))
            for i, ((epsilon, share), color) in enumerate(zip(rows, shades, strict=True)):
                axes.bar(
                    at + (i - (len(rows) - 1) / 2) * width, share, width, color=color, label=f"ε = {number(epsilon)}"
                )
            slanted = len(failure.names) * max(map(len, failure.names)) > WIDEST_LABELS
            axes.set_xticks(at, failure.names, rotation=35 if slanted else 0, ha="right" if slanted else "center")
            axes.set_xlabel("layer")
            axes.grid(axis="x", visible=False)
        most = max((float(share.max()) for _, share in rows), default=0.0)
        axes.set_ylim(0, min(1.0, max(1.1 * most, 0.05)))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylabel("share of the loss" if failure.kind == "losses" else f"uncertain {failure.unit}")
        if rows:
            axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def to_png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as a PNG file."""
    return _saved(figure, lambda buffer: figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}))


def to_pdf(figure: Figure) -> bytes:
    """The figure as a PDF file of one page: lines and letters, with no date, the same bytes whenever it is drawn.

    Letters are TrueType (type 42), as journals ask for.
    """
    nothing = {"Creator": None, "Producer": None, "CreationDate": None}
    with mpl.rc_context({**STYLE, "pdf.fonttype": 42}):
        return _saved(figure, lambda buffer: figure.savefig(buffer, format="pdf", metadata=nothing))


def picture_files(name: str, figure: Figure) -> dict[str, bytes]:
    """What a folder holds of a figure: ``name.png`` to be looked at, ``name.pdf`` for a paper."""
    png = to_png(figure)
    figure.set_layout_engine("none")  # what the PNG file arranged stays: it takes a third of the time
    return {f"{name}.png": png, f"{name}.pdf": to_pdf(figure)}


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element to stand in a page; ``name`` keeps its ids apart from other figures'."""
    nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
    with mpl.rc_context({**STYLE, "svg.hashsalt": name, "svg.id": None}):
        text = _saved(figure, lambda buffer: figure.savefig(buffer, format="svg", metadata=nothing)).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    return re.sub(r'<svg[^>]*viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1)


class Picture(Figure):
    """A figure that a notebook shows, whether it uses pyplot or not."""

    def _repr_png_(self) -> bytes:
        return to_png(self, dpi=110)


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches, which belongs to no window, and its axes."""
    figure = Picture(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _saved(figure: Figure, save: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def series_colors(count: int) -> list[str]:
    """A colour for each of several series; from the eighth on they come again."""
    return [SERIES[i % len(SERIES)] for i in range(count)]


def epsilon_axis(axes: Axes, epsilon: np.ndarray) -> None:
    """A logarithmic axis with a place for 0."""
    positive = np.asarray(epsilon)[np.asarray(epsilon) > 0]
    axes.set_xlabel("ε (every parameter anywhere in its box)")
    if not len(positive):
        axes.set_xlim(-0.5, 0.5)
        axes.set_xticks([0])
        return
    # Linear up to the smallest ε, so that 0 has a place; that stretch is drawn one decade wide or less.
    axes.set_xscale("symlog", linthresh=float(positive.min()), linscale=0.6)
    low = 0.0 if (np.asarray(epsilon) == 0).any() else float(positive.min()) * 0.9
    axes.set_xlim(low, float(positive.max()) * 1.08)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(LogLocator(subs=range(2, 10)))
    ticks = sorted({0.0, *(10.0**k for k in range(int(np.floor(np.log10(positive.min()))), 4))})
    axes.set_xticks([t for t in ticks if (t == 0 and low == 0) or positive.min() * 0.99 <= t <= positive.max() * 1.05])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def accuracy_axis(axes: Axes, *, label: bool = True) -> None:
    """Percent, from 0 to 100."""
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if label:
        axes.set_ylabel("accuracy")


def _radius_bars(axes: Axes, proven: np.ndarray) -> None:
    if not len(proven):
        axes.text(0.5, 0.5, "no sample has a certified radius", ha="center", transform=axes.transAxes)
        axes.set_xticks([])
        return
    low, high = float(proven.min()), float(proven.max())
    if high <= low * 1.01:
        low, high = low / 1.5, high * 1.5
    bins = np.geomspace(low, high * (1 + 1e-9), min(30, max(8, len(proven) // 8)))
    axes.hist(proven, bins=list(bins), color=VERIFIED)
    axes.set_xscale("log")
    median = float(np.median(proven))
    axes.axvline(median, color=CLEAN, linestyle=":", label=f"median of these {number(median)}")
    axes.legend()
