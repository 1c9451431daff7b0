"""Tables of a finished comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thetabox.compare.row import Row
from thetabox.measure import mann_whitney
from thetabox.report.results import duration, number


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """For a page of the documentation."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def draws(row: Row, stage: str = "mismatch") -> np.ndarray:
    """Accuracy of every draw of every seed, [levels or times, seeds · draws]."""
    return np.concatenate([np.asarray(result["accuracy"]) for result in row.results[stage]], axis=1)


def mismatch_table(rows: Sequence[Row], level: Sequence[float]) -> Table:
    """As Table 1 of the paper: mean ± std (min) in percent."""
    lines = [
        [
            row.variant.label,
            *_spread([result["clean_accuracy"] for result in row.results["mismatch"]]),
            *_drawn(draws(row)),
        ]
        for row in rows
    ]
    return Table("", ["method", "clean", *(f"mismatch {number(v)}" for v in level)], lines)


def pcm_table(rows: Sequence[Row], times: Sequence[float]) -> Table:
    """Accuracy over the age of the chips."""
    lines = [[row.variant.label, *_drawn(draws(row, "pcm"))] for row in rows]
    return Table("", ["method", *(f"after {duration(t)}" for t in times)], lines)


def p_table(rows: Sequence[Row], level: Sequence[float]) -> Table:
    """Two-sided Mann-Whitney U test of each method's draws against the best method's: p."""
    every = [draws(row) for row in rows]
    best = [int(np.argmax([accuracy[i].mean() for accuracy in every])) for i in range(len(level))]
    lines = []
    for place, row in enumerate(rows):
        cells = [row.variant.label]
        for i in range(len(level)):
            if level[i] == 0:  # nothing is random
                cells.append("–")
            elif place == best[i]:
                cells.append("best")
            else:
                cells.append(f"{mann_whitney(every[place][i], every[best[i]][i]):.2g}")
        lines.append(cells)
    columns = ["method", *(f"mismatch {number(v)}" for v in level)]
    return Table("p of a Mann-Whitney U test against the best method", columns, lines)


def curve_table(rows: Sequence[Row], stage: str) -> Table:
    """Accuracy over ε, mean over seeds, in percent."""
    epsilon = rows[0].results[stage][0]["epsilon"]
    lines = [
        [
            row.variant.label,
            *(f"{100 * v:.1f}" for v in np.mean([result["accuracy"] for result in row.results[stage]], 0)),
        ]
        for row in rows
    ]
    return Table("", ["method", *(f"ε = {number(e)}" for e in epsilon)], lines)


def yield_table(rows: Sequence[Row]) -> Table:
    """Share of the samples that most chips classify right, by proof, over σ: mean over seeds, in percent."""
    yields = [row.results["yield"] for row in rows]
    lines = [
        [
            row.variant.label,
            *_spread([result["clean_accuracy"] for result in results]),
            *(f"{100 * v:.1f}" for v in np.mean([result["proven_share"] for result in results], 0)),
        ]
        for row, results in zip(rows, yields, strict=True)
    ]
    return Table("", ["method", "clean", *(f"σ = {number(s)}" for s in yields[0][0]["sigma"])], lines)


def flatness(rows: Sequence[Row], stage: str) -> Table:
    """The flatness figure of each method's landscape."""
    lines = [[row.variant.label, *_spread([result["flatness"] for result in row.results[stage]], 1.0)] for row in rows]
    return Table("", ["method", "flatness"], lines)


def cost_table(rows: Sequence[Row]) -> Table:
    """Epochs, gradient steps and seconds of one training."""
    lines = []
    for row in rows:
        trained = row.results["train"]
        seconds = row.seconds["train"]
        steps = np.mean(
            [training["batches"] * training["epochs"] * training["gradients_per_step"] for training in trained]
        )
        best = ", ".join(str(training["best_epoch"]) for training in trained)
        lines.append(
            [
                row.variant.label,
                str(trained[0]["epochs"]),
                best,
                f"{steps:,.0f}".replace(",", " "),
                f"{np.mean(seconds):.0f}",
            ]
        )
    return Table("", ["method", "epochs", "best epoch of each seed", "gradient steps", "seconds"], lines)


def _drawn(accuracy: np.ndarray) -> list[str]:
    """Mean ± std (min) in percent, for each row of draws."""
    deviation = accuracy.std(1, ddof=1 if accuracy.shape[1] > 1 else 0)
    return [
        f"{100 * values.mean():.2f} ± {100 * std:.2f} ({100 * values.min():.2f})"
        for values, std in zip(accuracy, deviation, strict=True)
    ]


def _spread(values: Sequence[float], scale: float = 100.0) -> list[str]:
    mean, std = scale * float(np.mean(values)), scale * float(np.std(values, ddof=1 if len(values) > 1 else 0))
    return [f"{mean:.2f} ± {std:.2f}" if len(values) > 1 else f"{mean:.2f}"]
