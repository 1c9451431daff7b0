"""The figure of a proven yield."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from thetabox.report.figures import (
    ATTACKED,
    CLEAN,
    SERIES,
    STYLE,
    VERIFIED,
    Picture,
    accuracy_axis,
    epsilon_axis,
)
from thetabox.report.results import number
from thetabox.report.yield_curve import SHARE, YieldCurve, complement, share_of

PROVEN, SHARES_OF_SAMPLES = VERIFIED, SERIES[5]
# From here on, the largest σ in units of the smallest positive one, small σ are told apart on a logarithmic axis only.
WIDE = 20.0
# Values of σ that fit below the axis, each with its label.
LABELS = 9


def yield_figure(curve: YieldCurve, title: str = "") -> Figure:
    """What is proven of all chips (solid), and what draws say (dashed), over σ."""
    with mpl.rc_context(STYLE):
        figure = Picture(figsize=(7.2, 3.9))
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        sigma_axis(axes, curve.sigma)
        axes.axhline(curve.clean, color=CLEAN, linestyle=":", linewidth=1, label="clean")
        draws = curve.draws
        if draws is not None:
            axes.plot(
                *(curve.sigma, draws.mean, "v--"),
                color=ATTACKED,
                linewidth=1,
                label=f"mean of {draws.count} chips (sampled)",
                clip_on=False,
            )
            axes.plot(
                *(curve.sigma, draws.reached, "x--"),
                color=SERIES[3],
                linewidth=1,
                label=f"{share_of(draws.share)} of chips reach (sampled, {share_of(draws.confidence)} confidence)",
                clip_on=False,
            )
        axes.plot(
            *(curve.sigma, curve.count / curve.samples, "s-"),
            color=SHARES_OF_SAMPLES,
            label=f"samples, each right on {complement(curve.delta)} of chips (proven)",
            clip_on=False,
        )
        axes.plot(
            *(curve.sigma, curve.chips[SHARE], "o-"),
            color=PROVEN,
            label=f"{share_of(SHARE)} of chips reach (proven)",
            clip_on=False,
        )
        accuracy_axis(axes, label=False)
        axes.set_ylabel("accuracy, share of samples")
        axes.set_title(title or f"{curve.samples} samples", loc="left", fontsize=11)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2, fontsize=8)
    return figure


def sigma_axis(axes: Axes, sigma: np.ndarray) -> None:
    """σ from 0 on, or, where they are far apart, on a logarithmic axis with a place for 0."""
    positive = sigma[sigma > 0]
    if len(positive) and positive.max() > WIDE * positive.min():
        epsilon_axis(axes, sigma)
    else:
        axes.set_xlim(0.0, float(sigma.max()) * 1.05 if len(positive) else 1.0)
        if len(sigma) <= LABELS:
            axes.set_xticks(sigma, [number(s) for s in sigma])
            axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("σ (size of each parameter's own random error)")
