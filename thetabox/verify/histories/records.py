"""What is known of neurons while their spikes are certain, and where that ends."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from thetabox.verify.histories.cells import Cells


@dataclass
class Exact:
    """Records of neurons whose spikes were certain so far, ``[rows, units]`` each; R and b have two ends if A has."""

    h: list[Tensor]
    reset: tuple[Tensor, Tensor]
    b: tuple[Tensor, Tensor]
    z: Tensor
    silent: Tensor
    count: Tensor

    @classmethod
    def silence(cls, rows: int, cells: Cells) -> Exact:
        """The state before the first step."""
        zero = cells.alpha.new_zeros(rows, cells.units)
        silent = cells.delay.expand(rows, -1)
        return cls([zero] * len(cells.decays), (zero, zero), (zero, zero), zero, silent, zero)

    def take(self, rows: Tensor) -> Exact:
        """Some rows."""

        def pair(ends: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            lower = ends[0][rows]
            return lower, lower if ends[0] is ends[1] else ends[1][rows]

        return Exact(
            [t[rows] for t in self.h], pair(self.reset), pair(self.b), self.z[rows], self.silent[rows], self.count[rows]
        )

    @classmethod
    def joined(cls, parts: list[Exact]) -> Exact:
        """Rows of several."""

        def pair(name: str) -> tuple[Tensor, Tensor]:
            lower = torch.cat([getattr(p, name)[0] for p in parts])
            same = all(getattr(p, name)[0] is getattr(p, name)[1] for p in parts)
            return lower, lower if same else torch.cat([getattr(p, name)[1] for p in parts])

        h = [torch.cat(columns) for columns in zip(*(p.h for p in parts), strict=True)]
        plain = (torch.cat([getattr(p, name) for p in parts]) for name in ("z", "silent", "count"))
        return cls(h, pair("reset"), pair("b"), *plain)


@dataclass
class Fork:
    """The first fork of a row.

    Attributes:
        time: its step, T where there is none.
        unit: of the units that fork then, the one whose spikes reach the others most.
        before: row → the state in front of that step, and the row's place in it.
        forced: spikes of that step that were forced already, ``[rows, units]``: 0, 1, or -1 for free ones.
    """

    time: Tensor
    unit: Tensor
    forced: Tensor
    before: dict[int, tuple[Exact, int]] = field(default_factory=dict)

    @classmethod
    def none(cls, rows: int, units: int, steps: int, device: torch.device) -> Fork:
        """No row has one yet."""
        return cls(
            torch.full((rows,), steps, device=device),
            torch.zeros(rows, dtype=torch.long, device=device),
            torch.full((rows, units), -1, device=device),
        )
