"""Certified radii, as they are returned."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from thetabox.shown import Columns, Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Radii(Shown):
    """Radii with the reason where there is none; a sequence of its samples' records.

    Attributes:
        radius: ``[N]`` float64.
        status: ``certified``, ``misclassified`` or ``unproven`` for each sample.
        finished: no search was cut for want of time.
    """

    radius: Float[Tensor, " samples"]
    status: list[str]
    finished: bool = True

    def columns(self) -> Columns:
        return Columns.of({"radius": self.radius, "status": self.status})

    def __len__(self) -> int:
        return len(self.status)

    def headline(self) -> str:
        return f"certified radii of {len(self)} samples{'' if self.finished else ', not finished'}"

    def summary(self) -> tuple[list[str], list[list[str]]]:
        proven = self.radius[self.radius > 0]
        middle = f"{float(proven.median()):.4g}" if len(proven) else "none"
        counts = Counter(self.status)
        return [*counts, "median of the certified"], [[*map(str, counts.values()), middle]]

    def plot(self) -> Figure:
        """How many samples have which radius."""
        # Late: a report is made of certificates.
        from thetabox.report.figures import radius_figure
        from thetabox.report.results import RadiusSummary

        return radius_figure(RadiusSummary(self.radius.numpy(), bisected=True), self.radius.new_empty(0).numpy())
