"""Up to K alternatives of a neuron whose spikes are no longer certain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.histories.cells import Cells
from thetabox.verify.histories.equations import adapted, adapted_threshold, product, silent_left
from thetabox.verify.histories.merge import merged
from thetabox.verify.histories.records import Exact

# Between histories of different last spikes the key leaves this much room: they are merged last.
FAR = 1e6
# Quantities of a history beside its output traces.
OTHERS = 5

Pair = tuple[Tensor, Tensor]


@dataclass
class Slots:
    """Histories of some neurons: K slots each, of which those that are not there are infinite.

    Every quantity has two ends, ``[neurons, K]`` each: the lower, and the upper negated, so that a hull is one minimum.
    They are views, to be written to in place.

    Attributes:
        values: lower ends of all quantities, then the negated upper ones.
        traces: output traces h of a neuron.
    """

    values: Float[Tensor, "ends neurons histories"]
    traces: int

    @classmethod
    def none(cls, cells: Cells, histories: int) -> Slots:
        """Of no neuron."""
        traces = len(cells.decays)
        return cls(cells.alpha.new_zeros(2 * (traces + OTHERS), 0, histories), traces)

    def __len__(self) -> int:
        return self.values.shape[1]

    @property
    def histories(self) -> int:
        """K."""
        return self.values.shape[2]

    def trace(self, place: int) -> Pair:
        """Output trace h of one decay."""
        return self._quantity(place)

    def _quantity(self, place: int) -> Pair:
        return self.values[place], self.values[len(self.values) // 2 + place]

    @property
    def reset(self) -> Pair:
        """Reset sum R."""
        return self._quantity(self.traces)

    @property
    def adaptation(self) -> Pair:
        """Adaptation b."""
        return self._quantity(self.traces + 1)

    @property
    def spike(self) -> Pair:
        """Last spike z."""
        return self._quantity(self.traces + 2)

    @property
    def level(self) -> Pair:
        """A of this step, from :meth:`before_spikes` to :meth:`after_spikes`; it takes the place of the last spike."""
        return self.spike

    @property
    def silent(self) -> Pair:
        """Silent steps left."""
        return self._quantity(self.traces + 3)

    @property
    def count(self) -> Pair:
        """Spikes so far."""
        return self._quantity(self.traces + 4)

    def take(self, neurons: Tensor) -> Slots:
        """Some neurons, by a mask."""
        return Slots(self.values[:, neurons], self.traces)

    def joined(self, other: Slots) -> Slots:
        """These neurons and those of another."""
        return Slots(torch.cat([self.values, other.values], 1), self.traces) if len(other) else self

    def forked(self, exact: Exact, rows: Tensor, units: Tensor, silent_steps: Tensor) -> Slots:
        """Neurons that fork now: one history without and one with a spike."""
        if not len(rows):
            return Slots(self.values[:, :0], self.traces)
        low = [*(t[rows, units] for t in exact.h), exact.reset[0][rows, units], exact.b[0][rows, units]]
        high = [*(t[rows, units] for t in exact.h), exact.reset[1][rows, units], exact.b[1][rows, units]]
        count = exact.count[rows, units]
        children = []
        for spike in (0.0, 1.0):
            z = torch.full_like(count, spike)
            tail = [z, z * silent_steps[units], count + spike]
            children.append(torch.stack([*low, *tail, *(-t for t in (*high, *tail))]))
        out = self.values.new_full((len(self.values), len(rows), self.histories), math.inf)
        if self.histories == 1:
            out[:, :, 0] = torch.minimum(*children)
        else:
            out[:, :, 0], out[:, :, 1] = children
        return Slots(out, self.traces)

    def before_spikes(self, cells: Cells, row: Tensor, unit: Tensor) -> None:
        """Traces, adaptation and reset sum up to this step's spikes, and A, written over."""
        z_low, z_high = self.spike[0], -self.spike[1]
        for place, d in enumerate(cells.decays):
            low, high = self.trace(place)
            low.mul_(d.value).add_(z_low, alpha=1.0 - d.value)
            high.mul_(d.value).add_(z_high, alpha=d.value - 1.0)
        b_low, b_high = adapted(_ends(self.adaptation), (z_low, z_high), *cells.rho.at(row, unit))
        levels = adapted_threshold(cells.beta.at(row, unit), cells.threshold.at(row, unit), b_low, b_high)
        drop_low, drop_high = product((z_low, z_high), levels)
        alpha = cells.alpha[0, unit][:, None]
        self.reset[0].mul_(alpha).add_(drop_low, alpha=cells.dt)
        self.reset[1].mul_(alpha).sub_(drop_high, alpha=cells.dt)
        _write(self.adaptation, b_low, b_high)
        _write(self.level, *levels)

    def after_spikes(self, cells: Cells, unit: Tensor, low: Tensor, high: Tensor, given: Tensor | None) -> None:
        """Children of every history, at most K of them, written over.

        Args:
            cells: constants.
            unit: of each neuron.
            low, high: its potential q.
            given: its spike, if that is forced: 0, 1, or -1 for a free one.
        """
        silent, (reset, reset_above), (level, level_above) = self.silent, self.reset, self.level
        there = torch.isfinite(silent[0])
        can = there & (silent[0] == 0) & ~(high[:, None] <= reset + level)
        # Upper ends stand negated: q above R + A.
        must = there & (silent[1] == 0) & (low[:, None] + (reset_above + level_above) > 0)
        if given is not None:
            chosen = given[:, None]
            can, must = can & (chosen != 0), must | (can & (chosen == 1))
        stays = there & ~must
        branching = (can & stays).any(1).nonzero().squeeze(1)
        # The others have one child a history: nothing to choose.
        few = self._branched(cells, unit, branching, can, stays) if len(branching) else None
        self._spike(cells, unit, can.to(self.values.dtype))
        if few is not None:
            self.values.index_copy_(1, branching, few)

    def _branched(self, cells: Cells, unit: Tensor, branching: Tensor, can: Tensor, stays: Tensor) -> Tensor:
        """At most K histories of neurons of which one has two children."""
        can, stays = can[branching], stays[branching]
        children = Slots(torch.cat([self.values.index_select(1, branching)] * 2, 2), self.traces)
        spikes = torch.zeros_like(children.values[0])
        spikes[:, self.histories :] = 1.0
        children._spike(cells, unit[branching], spikes)
        trace = _twice_middle(children.trace(0)) / (1.0 - cells.decays[0].value)
        reset = _twice_middle(children.reset) / cells.hardest_reset
        last = children.spike[0] + children.silent[0]
        key = FAR * last + trace + reset
        return merged(children.values, torch.cat([stays, can], 1), key, self.histories)

    def _spike(self, cells: Cells, unit: Tensor, spikes: Tensor) -> None:
        """What this step's spikes change, written over."""
        _write(self.spike, spikes, spikes)
        if not cells.never_silent:
            silent_steps, (low, high) = cells.silent_steps[unit][:, None], _ends(self.silent)
            _write(self.silent, silent_left(spikes, low, silent_steps), silent_left(spikes, high, silent_steps))
        self.count[0].add_(spikes)
        self.count[1].sub_(spikes)


def _ends(pair: Pair) -> Pair:
    return pair[0], -pair[1]


def _twice_middle(pair: Pair) -> Tensor:
    """The sum of both ends, which orders histories as their middle does: the upper one is held negative."""
    return pair[0] - pair[1]


def _write(pair: Pair, low: Tensor, high: Tensor) -> None:
    pair[0].copy_(low)
    torch.neg(high, out=pair[1])
