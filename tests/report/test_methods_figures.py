"""Figures of a comparison of training methods."""

from __future__ import annotations

import numpy as np

from thetabox.report.methods_figures import violin_figure


def test_every_method_has_its_place_whatever_its_draws() -> None:
    """One whose draws are all alike has no violin, and would stand on the edge."""
    varied, alike = np.linspace(0.8, 0.9, 5)[None], np.full((1, 5), 0.9)
    (axes,) = violin_figure({"standard": varied, "samson": alike}, [0.0]).axes
    low, high = axes.get_xlim()
    assert low <= -0.4
    assert high >= 1.4
