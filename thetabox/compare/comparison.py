"""What a finished comparison found, and how it shows itself in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thetabox.compare import tables
from thetabox.compare.config import Config
from thetabox.compare.row import Row
from thetabox.report.results import number
from thetabox.shown import Headed, pandas

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Comparison(Headed):
    """All rows of a finished comparison."""

    config: Config
    rows: list[Row]

    def headline(self) -> str:
        seeds = f"{self.config.seeds} seed{'s' * (self.config.seeds > 1)}"
        return f"{len(self.rows)} methods on {self.config.task}, {seeds} each; percent, mean over the seeds"

    def summary(self) -> tuple[list[str], list[list[str]]]:
        drawn, proven = tables.mismatch_table(self.rows, self.config.level), tables.curve_table(self.rows, "certify")
        names = [*drawn.columns, *(f"proven at {name}" for name in proven.columns[1:])]
        return names, [[*one, *other[1:]] for one, other in zip(drawn.rows, proven.rows, strict=True)]

    def lines(self, stage: str) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Of each method its name, ε, and accuracy ``[seeds, E]`` as a stage found it."""
        methods = [(row.variant.label, row.results[stage]) for row in self.rows]
        return [
            (label, np.asarray(results[0]["epsilon"]), np.asarray([one["accuracy"] for one in results]))
            for label, results in methods
        ]

    def plot(self) -> Figure:
        """Verified accuracy over ε of each method; thin lines are single networks."""
        from thetabox.report.methods_figures import lines_figure  # here, for matplotlib takes a second

        figure: Figure = lines_figure(self.lines("certify"))
        return figure

    def to_pandas(self) -> pd.DataFrame:
        """One row a network: its clean accuracy, and accuracies under mismatch, under attack and proven.

        Raises:
            InputError: pandas is not installed.
        """
        rows = [self._record(row, seed) for row in self.rows for seed in range(self.config.seeds)]
        frame: pd.DataFrame = pandas().DataFrame(rows)
        return frame

    def _record(self, row: Row, seed: int) -> dict[str, Any]:
        drawn = row.results["mismatch"][seed]
        levels = zip(self.config.level, drawn["accuracy"], strict=True)
        record = {"method": row.variant.label, "seed": seed, "clean": drawn["clean_accuracy"]}
        record |= {f"mismatch {number(level)}": float(np.mean(draws)) for level, draws in levels}
        for stage, name in (("attack", "attacked"), ("certify", "verified")):
            curve = row.results[stage][seed]
            pairs = zip(curve["epsilon"], curve["accuracy"], strict=True)
            record |= {f"{name} {number(epsilon)}": accuracy for epsilon, accuracy in pairs}
        return record
