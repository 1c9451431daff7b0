"""Up to K alternatives of a neuron whose spikes are no longer certain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.histories.cells import Cells
from thetabox.verify.histories.equations import (
    Pair,
    adapted,
    adapted_threshold,
    few_spikes,
    product,
    second_look,
    several_spikes,
    silent_left,
    without_end,
)
from thetabox.verify.histories.merge import merged
from thetabox.verify.histories.potential import Bounds
from thetabox.verify.histories.quantities import Quantities
from thetabox.verify.histories.records import GivenSpikes

# Between histories of different last spikes the key leaves this much room: they are merged last.
FAR = 1e6
# Of what potentials are measured by.
SMALLEST = 1e-30


@dataclass
class Slots:
    """Histories of some neurons: K slots each, of which those that are not there are infinite.

    Every quantity has two ends, ``[neurons, K]`` each: the lower, and the upper negated, so that a hull is one minimum.
    They are views, to be written to in place.

    Attributes:
        values: lower ends of all quantities, then the negated upper ones.
        quantities: of the quantities.
    """

    values: Float[Tensor, "ends neurons histories"]
    quantities: Quantities

    @classmethod
    def none(cls, cells: Cells, histories: int) -> Slots:
        """Of no neuron."""
        quantities = Quantities.of(cells)
        return cls(cells.alpha.new_zeros(2 * quantities.count, 0, histories), quantities)

    def __len__(self) -> int:
        return self.values.shape[1]

    @property
    def histories(self) -> int:
        """K."""
        return self.values.shape[2]

    def trace(self, index: int) -> Pair:
        """One of the output traces."""
        return self.values[index], self.values[self.quantities.count + index]

    def quantity(self, name: str) -> Pair:
        """Reset sum R, adaptation b, last spike z, silent steps left, spikes so far, or the potential.

        A of this step takes the place of the last spike from :meth:`before_spikes` to :meth:`after_spikes`.
        """
        return self.trace(self.quantities.index[name])

    def take(self, neurons: Tensor) -> Slots:
        """Some neurons, by a mask."""
        return Slots(self.values[:, neurons], self.quantities)

    def joined(self, other: Slots) -> Slots:
        """These neurons and those of another."""
        return Slots(torch.cat([self.values, other.values], 1), self.quantities) if len(other) else self

    def before_spikes(self, cells: Cells, row: Tensor, unit: Tensor, traces: Tensor | None) -> None:
        """Traces, adaptation and reset sum up to this step's spikes, and A, written over.

        Args:
            cells: constants.
            row, unit: of each neuron.
            traces: what :meth:`traces_ahead` returned for these neurons, if it was called.
        """
        spike = self.quantity("spike")
        if traces is None:
            self._advance_traces(cells, self.values)
        else:
            count, half = self.quantities.traces, self.quantities.count
            self.values[:count], self.values[half : half + count] = traces[:count], traces[count:]
        threshold = cells.threshold.at(row, unit)
        levels, z = threshold, _ends(spike)
        if cells.adaptation is not None:
            held = self.quantity("adaptation")
            b_low, b_high = adapted(_ends(held), z, *cells.adaptation.rho.at(row, unit))
            levels = adapted_threshold(cells.adaptation.beta.at(row, unit), threshold, b_low, b_high)
            _write(held, b_low, b_high)
        if cells.resets:
            reset, alpha = self.quantity("reset"), cells.alpha.take(unit)[:, None]
            for end in reset:
                _decay(end, alpha, cells.instant)
            if cells.value is None:
                drop_low, drop_high = product(z, levels if cells.drop is None else cells.drop.at(row, unit))
                scale = cells.dt if cells.drop is None else 1.0
                reset[0].add_(drop_low, alpha=scale)
                reset[1].sub_(drop_high, alpha=scale)
        _write(spike, *(t.expand_as(spike[0]) for t in levels))

    def _advance_traces(self, cells: Cells, values: Tensor) -> None:
        """Every trace of ``values`` a step further, written over."""
        half = len(values) // 2
        spike = self.quantity("spike")
        for index, trace in enumerate(cells.traces):
            for end in (0, 1):
                parent = spike[end] if trace.parent is None else values[end * half + trace.parent]
                end_values = values[end * half + index]
                if trace.value == 0.0:  # which would make no number of what is not there
                    end_values.copy_(torch.where(end_values == math.inf, math.inf, parent * trace.gain))
                else:
                    end_values.mul_(trace.value).add_(parent, alpha=trace.gain)

    def traces_ahead(self, cells: Cells) -> Tensor:
        """Traces up to this step's spikes: lower ends, then the negated upper ones."""
        count, half = self.quantities.traces, self.quantities.count
        out = torch.cat([self.values[:count], self.values[half : half + count]])
        self._advance_traces(cells, out)
        return out

    def after_spikes(
        self, cells: Cells, unit: Tensor, bounds: Bounds, value: Pair | None, given: GivenSpikes | None
    ) -> Tensor | None:
        """Children of every history, at most K of them, written over; which neurons may spike beyond all counting.

        Args:
            cells: constants.
            unit: of each neuron.
            bounds: of its potential; ``current`` and ``restart`` with all their errors.
            value: what spikes set it to, as columns.
            given: its spikes, if those are given.
        """
        there = torch.isfinite(self.quantity("count")[0])
        level, level_above = self.quantity("spike")
        if value is None:
            reset, reset_above = self.quantity("reset") if cells.resets else (0.0, 0.0)
            low, high = bounds.low[:, None], bounds.high[:, None]
            # Upper ends stand negated: q above R + A.
            can, must = ~(high <= reset + level), low + (reset_above + level_above) > 0
            if cells.levels > 1:
                potential = low + reset_above, high - reset
        else:
            self._follow(cells, unit, bounds, there)
            if cells.late and bounds.restart is not None:
                self._set_late(bounds.restart, value, there)
            v_low, v_above = self.quantity("potential")
            can, must = ~(-v_above <= level), v_low + level_above > 0
            potential = v_low, -v_above
        numbers: list[Pair] | None
        beyond = None
        if cells.levels > 1:
            endless = without_end(potential[1], level, cells.most)
            beyond = None if endless is None else (endless & there).any(1)
            spikes = several_spikes(*potential, (level, -level_above), cells.levels, cells.rounding.roundoff)
            if given is not None:
                least = torch.minimum(given.least[:, None].to(spikes[1].dtype), spikes[1])
                most = given.most[:, None].to(spikes[1].dtype).maximum(spikes[0])
                spikes = spikes[0].maximum(least), spikes[1].minimum(most)
            numbers = few_spikes(*spikes, single=False)
            children = [there & (low <= high) for low, high in numbers]
        else:
            can, must = can & there, must & there
            if not cells.never_silent:
                silent = self.quantity("silent")
                can, must = can & (silent[0] == 0), must & (silent[1] == 0)
            if given is not None:
                can = can & (given.most[:, None] > 0)
                must = must | (can & (given.least[:, None] > 0))
            one = can.to(level.dtype)
            spikes, numbers, children = (one, one), None, [there & ~must, can]
        # What lies between the fewest and the most is there only where both are.
        branching = (children[0] & children[1]).any(1).nonzero().squeeze(1)
        # The others have one child a history: nothing to choose.
        few = self._branched(cells, unit, branching, children, numbers, bounds, value) if len(branching) else None
        self._spike(cells, unit, spikes, bounds.restart, value)
        if few is not None:
            self.values.index_copy_(1, branching, few)
        return beyond

    def _follow(self, cells: Cells, unit: Tensor, bounds: Bounds, there: Tensor) -> None:
        """The potential in front of the threshold: what follows from the last step's, and q − R, whichever is less."""
        v_low, v_above = self.quantity("potential")
        reset_low, reset_above = self.quantity("reset")
        current, alpha = bounds.current, cells.alpha.take(unit)[:, None]
        assert current is not None
        for end in (v_low, v_above):
            _decay(end, alpha, cells.instant)
        torch.maximum(v_low.add_(current[0][:, None]), bounds.low[:, None] + reset_above, out=v_low)
        torch.maximum(v_above.sub_(current[1][:, None]), reset_low - bounds.high[:, None], out=v_above)
        missing = ~there
        v_low.masked_fill_(missing, math.inf)
        v_above.masked_fill_(missing, math.inf)

    def _branched(
        self,
        cells: Cells,
        unit: Tensor,
        branching: Tensor,
        children: list[Tensor],
        numbers: list[Pair] | None,
        bounds: Bounds,
        value: Pair | None,
    ) -> Tensor:
        """At most K histories of neurons of which one has several children: which there are, and their spikes.

        ``numbers`` is ``None`` for none and one.
        """
        values = self.values.index_select(1, branching)
        whole = Slots(torch.cat([values] * len(children), 2), self.quantities)
        there = torch.cat([child.index_select(0, branching) for child in children], 1)
        if numbers is None:
            low = high = torch.zeros_like(whole.values[0])
            high[:, self.histories :] = 1.0
        else:
            low, high = (torch.cat([pair[end].index_select(0, branching) for pair in numbers], 1) for end in (0, 1))
        restart = None if bounds.restart is None else _some(bounds.restart, branching)
        whole._spike(
            cells, unit.take(branching), (low, high), restart, None if value is None else _some(value, branching)
        )
        return merged(whole.values, there, whole.key(cells), self.histories)

    def key(self, cells: Cells) -> Tensor:
        """Where each history lies on a line: by its last spike before all else, then by what it leaves behind."""
        key = self.quantity("spike")[0]
        if not cells.never_silent:
            key = key + self.quantity("silent")[0]
        if cells.twice:
            key = key + 2.0 * self.quantity("pending")[0]
        key = FAR * key
        if cells.value is not None:
            # What came before a spike is forgotten: the potential alone tells what is to come.
            return key + _twice_middle(self.quantity("potential")) / max(cells.threshold.size(), SMALLEST)
        if cells.key is not None:
            key = key + _twice_middle(self.trace(cells.key)) / cells.traces[cells.key].gain
        if cells.resets:
            key = key + _twice_middle(self.quantity("reset")) / cells.hardest_reset
        return key

    def _spike(self, cells: Cells, unit: Tensor, spikes: Pair, restart: Pair | None, value: Pair | None) -> None:
        """What this step's spikes change, written over; cells without reset sums ignore what is for those."""
        low, high = spikes
        if cells.keeps_pending:
            pending = self.quantity("pending")
            left = spikes
            if cells.twice:
                (low, high), left = second_look(spikes, _ends(pending))
            _write(pending, *left)
        if value is not None and restart is not None:
            # Late, v of a spike is not read: the next one is the value.
            self._set((low > 0) & (not cells.late), restart, value)
        _write(self.quantity("spike"), low, high)
        if cells.silent_steps is not None:
            steps, silent = cells.silent_steps.take(unit)[:, None], self.quantity("silent")
            left = _ends(silent)
            _write(silent, silent_left(low, left[0], steps), silent_left(high, left[1], steps))
        count = self.quantity("count")
        count[0].add_(low)
        count[1].sub_(high)

    def _set(self, spiked: Tensor, restart: Pair, value: Pair) -> None:
        """R and v behind spikes that set the potential to a value; a potential that is below A where there was none."""
        reset, v, level_above = self.quantity("reset"), self.quantity("potential"), self.quantity("spike")[1]
        begins = restart[0][:, None] - value[1], -(restart[1][:, None] - value[0])
        sides = (value[0], v[0]), (-value[1], torch.maximum(v[1], level_above))
        for end in (0, 1):
            reset[end].copy_(torch.where(spiked, begins[end], reset[end]))
            v[end].copy_(torch.where(spiked, *sides[end]))

    def _set_late(self, restart: Pair, value: Pair, there: Tensor) -> None:
        """R and v in the step behind a spike; of a history that may have had one both are left open."""
        reset, v, spiked = self.quantity("reset"), self.quantity("potential"), self.quantity("pending")
        certain, never = there & (spiked[0] > 0), ~there | (spiked[1] == 0)
        begins = restart[0][:, None] - value[1], -(restart[1][:, None] - value[0])
        for held, there_set in ((reset, begins), (v, (value[0], -value[1]))):
            for end in (0, 1):
                open_ends = torch.where(certain, there_set[end], torch.minimum(held[end], there_set[end]))
                held[end].copy_(torch.where(never, held[end], open_ends))


def _ends(pair: Pair) -> Pair:
    return pair[0], -pair[1]


def _some(pair: Pair, neurons: Tensor) -> Pair:
    return pair[0].index_select(0, neurons), pair[1].index_select(0, neurons)


def _decay(t: Tensor, alpha: Tensor, instant: bool) -> None:
    """A step's decay, written over; what is not there stays infinite."""
    if instant:
        missing = t == math.inf
        t.mul_(alpha).masked_fill_(missing, math.inf)
    else:
        t.mul_(alpha)


def _twice_middle(pair: Pair) -> Tensor:
    """The sum of both ends, which orders histories as their middle does: the upper one is held negative."""
    return pair[0] - pair[1]


def _write(pair: Pair, low: Tensor, high: Tensor) -> None:
    pair[0].copy_(low)
    torch.neg(high, out=pair[1])
