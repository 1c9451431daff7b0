"""What is known of neurons while their spikes are certain, and where that ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from jaxtyping import Int
from torch import Tensor

from thetabox.verify.histories.cells import Cells
from thetabox.verify.histories.equations import Pair


@dataclass
class Exact:
    """Records of neurons whose spikes were certain so far, ``[rows, units]`` each, of one layer.

    Attributes:
        h: traces of the train up to the step before.
        reset: R, two ends if A or what a spike takes has.
        b: adaptation.
        v: potential behind the step, of cells that spikes set to a value; else nothing is known here.
        flow, held: of the largest of several currents, what the step has added to potentials, and what of all steps is
            left in them; both ends, and ``None`` where there are no such currents.
        z: spikes of the step.
        silent: silent steps left.
        count: spikes so far.
        pending: whether the next comparison takes another threshold, of cells whose potential is looked at twice.
    """

    h: list[Tensor]
    reset: Pair
    b: Pair
    v: Pair
    flow: Pair | None
    held: Pair | None
    z: Tensor
    silent: Tensor
    count: Tensor
    pending: Tensor

    @classmethod
    def silence(cls, rows: int, cells: Cells) -> Exact:
        """The state before the first step."""
        zero = cells.alpha.new_zeros(rows, cells.units)
        silent = zero if cells.delay is None else cells.delay.expand(rows, -1)
        low, high = (t.expand(rows, -1) for t in cells.start)
        nothing, traces = (zero, zero) if cells.largest else None, [zero] * len(cells.traces)
        return cls(traces, (zero, zero), (zero, zero), (low, high), nothing, nothing, zero, silent, zero, zero)

    def take(self, rows: Tensor) -> Exact:
        """Some rows."""

        def pair(ends: Pair) -> Pair:
            lower = ends[0][rows]
            return lower, lower if ends[0] is ends[1] else ends[1][rows]

        def some(ends: Pair | None) -> Pair | None:
            return None if ends is None else pair(ends)

        return Exact(
            [t[rows] for t in self.h],
            pair(self.reset),
            pair(self.b),
            pair(self.v),
            some(self.flow),
            some(self.held),
            self.z[rows],
            self.silent[rows],
            self.count[rows],
            self.pending[rows],
        )

    @classmethod
    def joined(cls, parts: Sequence[Exact]) -> Exact:
        """Rows of several."""

        def pair(name: str) -> Pair:
            lower = torch.cat([getattr(p, name)[0] for p in parts])
            same = all(getattr(p, name)[0] is getattr(p, name)[1] for p in parts)
            return lower, lower if same else torch.cat([getattr(p, name)[1] for p in parts])

        h = [torch.cat(columns) for columns in zip(*(p.h for p in parts), strict=True)]
        flow, held = (None if parts[0].held is None else pair(name) for name in ("flow", "held"))
        plain = (torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)[-4:])
        return cls(h, pair("reset"), pair("b"), pair("v"), flow, held, *plain)


State = list[Exact]
"""Of every layer of a network."""


def taken(state: State, rows: Tensor) -> State:
    """Some rows of a state."""
    return [layer.take(rows) for layer in state]


def all_joined(states: Sequence[State]) -> State:
    """Rows of several states."""
    return [Exact.joined(parts) for parts in zip(*states, strict=True)]


@dataclass(frozen=True)
class GivenSpikes:
    """Spikes of one step that are given: at least and at most so many, ``[rows, units]`` of all layers."""

    least: Int[Tensor, "rows units"]
    most: Int[Tensor, "rows units"]

    @classmethod
    def free(cls, rows: int, units: int, device: torch.device) -> GivenSpikes:
        """Nothing is."""
        zero = torch.zeros(rows, units, dtype=torch.long, device=device)
        return cls(zero, torch.full_like(zero, torch.iinfo(zero.dtype).max))

    def take(self, rows: Tensor | slice) -> GivenSpikes:
        """Some rows."""
        return GivenSpikes(self.least[rows], self.most[rows])

    def units(self, units: slice) -> GivenSpikes:
        """Of some units."""
        return GivenSpikes(self.least[:, units], self.most[:, units])

    def where(self, rows: Tensor) -> GivenSpikes:
        """Of some rows, by a mask; free in the others."""
        count, units = self.least.shape
        free = GivenSpikes.free(count, units, self.least.device)
        mask = rows[:, None]
        return GivenSpikes(torch.where(mask, self.least, free.least), torch.where(mask, self.most, free.most))

    def with_row(self, row: int, unit: int, cut: int, *, above: bool) -> GivenSpikes:
        """One row of them, in which a unit has at most ``cut`` spikes, or more."""
        least, most = self.least[row].clone(), self.most[row].clone()
        if above:
            least[unit] = cut + 1
        else:
            most[unit] = cut
        return GivenSpikes(least, most)

    @classmethod
    def stacked(cls, rows: Sequence[GivenSpikes]) -> GivenSpikes:
        """Single rows as several."""
        return cls(torch.stack([g.least for g in rows]), torch.stack([g.most for g in rows]))


@dataclass
class Fork:
    """The first fork of a row.

    Attributes:
        time: its step, T where there is none.
        unit: of the units of the first layer that forks then, the one whose spikes reach the others most.
        cut: the fewest spikes that it may have there.
        given: spikes of that step that were given already.
        before: row → the state in front of that step, and the row's place in it.
    """

    time: Tensor
    unit: Tensor
    cut: Tensor
    given: GivenSpikes
    before: dict[int, tuple[State, int]] = field(default_factory=dict)

    @classmethod
    def none(cls, rows: int, units: int, steps: int, device: torch.device) -> Fork:
        """No row has one yet."""
        zero = torch.zeros(rows, dtype=torch.long, device=device)
        return cls(torch.full_like(zero, steps), zero.clone(), zero.clone(), GivenSpikes.free(rows, units, device))
