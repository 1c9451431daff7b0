"""Draw the pictures of docs/concepts.md, from networks and numbers: ``python docs/pictures.py``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import nn

import thetabox as tb

FIGURES = Path(__file__).parent / "figures"
PROVEN, ATTACKED, NEUTRAL = "#1f6feb", "#d1495b", "#8a8f98"


def draw(name: str, size: tuple[float, float], on: Callable[[Axes], None]) -> None:
    """One picture into docs/figures, readable on light and on dark pages."""
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    figure.set_facecolor("white")
    axes.spines[["top", "right"]].set_visible(False)
    on(axes)
    figure.savefig(FIGURES / f"concept_{name}.png", dpi=150)
    plt.close(figure)


def box(axes: Axes) -> None:
    """A margin of two parameters, θ₁ θ₂ x₁ + θ₂ x₂ - c, and three boxes around one choice of them."""
    own, x, bias = np.array([1.0, 0.6]), np.array([0.9, 1.4]), 1.1
    one, two = np.meshgrid(np.linspace(0.2, 1.8, 400), np.linspace(0.0, 1.2, 400))
    margin = one * two * x[0] + two * x[1] - bias
    axes.contourf(one, two, margin, levels=[-10, 0, 10], colors=["#f6d5d9", "#dbe9fd"])
    axes.contour(one, two, margin, levels=[0], colors=[ATTACKED], linewidths=1.5)
    for epsilon, colour, what in (
        (0.08, PROVEN, "verified"),
        (0.14, NEUTRAL, "robust, perhaps not proven"),
        (0.35, ATTACKED, "not robust"),
    ):
        low, label = own * (1 - epsilon), f"ε = {epsilon:g}: {what}"
        size = 2 * epsilon * own
        axes.add_patch(Rectangle(tuple(low), *size, fill=False, edgecolor=colour, linewidth=2, label=label))
    axes.plot(*own, "o", color="black", label="θ as trained")
    axes.text(0.25, 0.08, "another class wins", color=ATTACKED)
    axes.text(0.25, 1.12, "the right class wins", color=PROVEN)
    axes.legend(frameon=False, loc="upper right")
    axes.set(xlabel="θ₁", ylabel="θ₂", xlim=(0.2, 1.8), ylim=(0.0, 1.2))


def margin(axes: Axes) -> None:
    """Lower bounds of a margin by two domains, and the least margin that an attack found."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))
    x = torch.randn(1, 6)
    y = model(x).argmax(1)
    sweep = np.linspace(0.0, 0.12, 25).tolist()
    for domain, style in (("interval", "--"), ("linear", "-")):
        bound = tb.certify(model, x, y, sweep, domain=domain).margin[:, 0]
        axes.plot(sweep, bound, style, color=PROVEN, label=f"proven, {domain}")
    found = [float(tb.attack(model, x, y, e, steps=40, restarts=4).margin[0, 0]) for e in sweep]
    # What was found in a box is in every larger one.
    axes.plot(sweep, np.minimum.accumulate(found), color=ATTACKED, label="least found by the attack")
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set(xlabel="ε", ylabel="margin", xlim=(0.0, sweep[-1]))
    axes.legend(frameon=False)


def chance(axes: Axes) -> None:
    """What n terms may be off by, at worst and at random."""
    terms = np.arange(1, 1025)
    epsilon = 0.1
    axes.plot(terms, epsilon * terms, color=ATTACKED, label="worst case: n ε")
    axes.plot(terms, 2.326 * epsilon * np.sqrt(terms), color=PROVEN, label="99 % of chips: 2.33 √n ε")
    axes.set(xlabel="terms of a sum, n", ylabel=f"off by, for ε = σ = {epsilon:g}", xscale="log", yscale="log")
    axes.legend(frameon=False)


if __name__ == "__main__":
    draw("box", (6.4, 4.2), box)
    draw("margin", (6.4, 3.8), margin)
    draw("yield", (6.4, 3.6), chance)
