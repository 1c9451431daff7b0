"""Rows on a stage's outputs as rows on what it reads, for several functions below the outputs at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float, Int
from torch import Tensor

from thetabox.verify.yields.sobolev.windows import LinearForms, Windows


class Forms:
    """Slopes of a stage's outputs.

    The functions below differ at few outputs: the first one's forms are added up, and of each further one only where
    it differs from the one before. A form is then a sum of at most eight times as many terms, of at most :data:`TERMS`
    times the size.

    Args:
        windows: geometry.
        above: slopes of the upper bound, ``[channels, places, inputs * patch]``.
        below: of each function below; each differs little from the one before.
    """

    def __init__(self, windows: Windows, above: Tensor, below: Sequence[Tensor]) -> None:
        self.windows = windows
        self.above = self._by_place(above)
        self.first = self._by_place(below[0])
        self.steps: list[tuple[Tensor, Tensor]] = []
        for last, side in pairwise(below):
            step = self._by_place(side - last)
            self.steps.append((step, step.any(-1)))

    def _by_place(self, slopes: Tensor) -> Float[Tensor, "places channels patch_inputs"]:
        """With the input channels last."""
        apart = slopes.unflatten(-1, (self.windows.inputs[0], -1))
        return apart.permute(1, 0, 3, 2).flatten(2).contiguous()

    def of(
        self, a: Tensor, rows: LinearForms, index: Int[Tensor, " positions"], alive: Tensor, sides: int
    ) -> list[LinearForms]:
        """Of the first so many functions below.

        Args:
            a: coefficients, ``[channels, rows, positions]``.
            rows: where they are.
            index: the places that these are.
            alive: outputs that are not always 0, ``[channels, places]``.
            sides: how many.
        """
        windows = self.windows
        origin, extent = windows.region(rows)
        inputs, (height, width), (down, right) = windows.inputs[0], windows.patch, windows.stride
        total = self.above.new_zeros(a.shape[1], *extent, inputs)
        by_position = a.permute(2, 0, 1).contiguous()
        totals = []
        for n in range(sides):
            total = total.clone() if n else total
            for position, o in enumerate(index.tolist()):
                if o == windows.count:
                    continue
                members = (self.steps[n - 1][1][o] if n else alive[:, o]).nonzero()[:, 0]
                if not len(members):
                    continue
                chosen = by_position[position].index_select(0, members)
                rising = chosen.clamp(min=0.0).T
                if n:
                    form = rising @ self.steps[n - 1][0][o].index_select(0, members)
                else:
                    form = rising @ self.first[o].index_select(0, members)
                    form.addmm_(chosen.clamp(max=0.0).T, self.above[o].index_select(0, members))
                y, x = (position // rows.extent[1]) * down, (position % rows.extent[1]) * right
                total[:, y : y + height, x : x + width] += form.view(-1, height, width, inputs)
            totals.append(total)
        return [LinearForms(t.flatten(1, 2).permute(2, 0, 1).contiguous()[None], origin, extent) for t in totals]


# Of a form's terms, how often their sizes count: once, and twice for every further function below.
TERMS = 8
