"""Figures of what was measured or found, and not proven."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from thetabox.report.figures import (
    ATTACKED,
    BASELINE,
    CLEAN,
    STYLE,
    VERIFIED,
    accuracy_axis,
    add_legend,
    epsilon_axis,
    new_figure,
)
from thetabox.report.results import duration


def attack_figure(epsilon: np.ndarray, accuracy: np.ndarray, clean: float, title: str = "") -> Figure:
    """What an attack leaves of the accuracy over ε: no more can be proven.

    Args:
        epsilon: [E].
        accuracy: [E], of the samples for which no weights were found that change the prediction.
        clean: accuracy of the network itself.
        title: above the figure.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(7.2, 3.9)
        order = np.argsort(epsilon, kind="stable")
        epsilon, accuracy = np.asarray(epsilon, dtype=float)[order], np.asarray(accuracy)[order]
        epsilon_axis(axes, epsilon)
        axes.plot(epsilon, accuracy, "v-", color=ATTACKED, label="attacked (upper bound)", clip_on=False)
        axes.axhline(clean, color=CLEAN, linestyle=":", linewidth=1, label="clean")
        accuracy_axis(axes)
        axes.set_title(title, loc="left", fontsize=11)
        add_legend(axes, clean)
    return figure


def ageing_figure(times: np.ndarray, accuracy: np.ndarray, clean: float, title: str = "") -> Figure:
    """Accuracy of every chip over the time since it was programmed: mean, one standard deviation, worst, each chip.

    Args:
        times: [T], seconds.
        accuracy: [T, S], of chip s at time t.
        clean: accuracy of the network itself.
        title: above the figure.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(7.2, 3.9)
        order = np.argsort(times, kind="stable")
        times, accuracy = np.asarray(times, dtype=float)[order], np.asarray(accuracy)[order]
        mean = accuracy.mean(1)
        spread = accuracy.std(1, ddof=1 if accuracy.shape[1] > 1 else 0)
        for chip in accuracy.T:
            axes.plot(times, chip, color=BASELINE, alpha=0.25, linewidth=0.8)
        axes.fill_between(
            times, mean - spread, np.minimum(mean + spread, 1), color=VERIFIED, alpha=0.2, linewidth=0, label="± std"
        )
        axes.plot(times, mean, "o-", color=VERIFIED, label="mean", clip_on=False)
        axes.plot(times, accuracy.min(1), "v--", color=ATTACKED, linewidth=1, label="worst chip", clip_on=False)
        axes.axhline(clean, color=CLEAN, linestyle=":", linewidth=1, label="clean")
        axes.set_xscale("symlog" if times[0] < 1 else "log")
        if times[0] < 1:
            axes.set_xlim(left=times[0])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(times, [duration(t) for t in times])
        axes.set_xlabel("time since programming")
        accuracy_axis(axes)
        axes.set_title(title or f"{accuracy.shape[1]} chips", loc="left", fontsize=11)
        axes.legend(loc="lower left" if accuracy.min() > 0.5 else "upper right" if accuracy.max() < 0.5 else "best")
    return figure


def landscape_figure(alpha: np.ndarray, loss: np.ndarray, title: str = "") -> Figure:
    """Loss along random directions of weight error: each direction, and their mean.

    Args:
        alpha: [A], how far along the direction.
        loss: [D, A], cross entropy of direction d at α.
        title: above the figure.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(7.2, 3.9)
        order = np.argsort(alpha, kind="stable")
        alpha, loss = np.asarray(alpha)[order], np.asarray(loss)[:, order]
        for index, row in enumerate(loss):
            label = None if index else f"{len(loss)} direction{'s' * (len(loss) > 1)}"
            axes.plot(alpha, row, color=BASELINE, alpha=0.6, linewidth=0.9, label=label)
        axes.plot(alpha, loss.mean(0), color=VERIFIED, linewidth=2, label="mean")
        axes.set_xlim(alpha[0], alpha[-1])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("α (weights θ + α ζ |θ| ξ)")
        axes.set_ylabel("cross entropy")
        axes.set_title(title, loc="left", fontsize=11)
        axes.legend(loc="best")
    return figure
