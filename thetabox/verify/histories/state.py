"""One layer on its way through time: exact records of all neurons, and slots of those whose spikes are not certain."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from thetabox.verify.histories.cells import Cells, UnitConstant
from thetabox.verify.histories.equations import (
    Pair,
    adapted,
    adapted_threshold,
    product,
    second_look,
    several_spikes,
    silent_left,
    without_end,
)
from thetabox.verify.histories.errors import Errors
from thetabox.verify.histories.forks import forked
from thetabox.verify.histories.potential import Bounds
from thetabox.verify.histories.records import Exact, GivenSpikes
from thetabox.verify.histories.slots import Slots


class LayerState:
    """While a neuron's spikes are certain it is one exact record; from its first fork on an active (row, unit) pair.

    Args:
        cells: constants.
        histories: K, most alternatives a neuron.
        start: the records in front of each row's first step.
        rows: how many.
    """

    def __init__(self, cells: Cells, histories: int, start: Exact, rows: int) -> None:
        self.cells, self.exact, self.rows = cells, start, rows
        device = cells.alpha.device
        self.row = torch.zeros(0, dtype=torch.long, device=device)
        self.unit = torch.zeros(0, dtype=torch.long, device=device)
        # Where they stand in a row-major list of all: found in a third of the time that a pair of indices takes.
        self.places = self.row
        self.slots = Slots.none(cells, histories)
        self.active = torch.zeros(rows, cells.units, dtype=torch.bool, device=device)
        # Rows in which a cell may spike more often in a step than is counted: nothing is known of them.
        self.beyond = torch.zeros(rows, dtype=torch.bool, device=device)
        # Of rows that run, between :meth:`advance` and :meth:`fire`; and traces with this step's spikes, if asked for.
        self.now, self.levels = start, (cells.threshold.lower, cells.threshold.upper)
        self._exact_ahead: list[Tensor] | None = None
        self._slots_ahead: Tensor | None = None

    def counts(self) -> Pair:
        """Least and most spikes of every neuron."""
        least, most = self.exact.count.clone(), self.exact.count.clone()
        low, high = self.slots.quantity("count")
        least.put_(self.places, low.amin(1))
        most.put_(self.places, -high.amin(1))
        return least, most

    def width(self, trace: int | None) -> Tensor:
        """How far a trace, or the count, of each active pair is not known."""
        low, high = self.slots.quantity("count") if trace is None else self.slots.trace(trace)
        return -high.amin(1) - low.amin(1)

    def drop(self, given_up: Tensor) -> None:
        """Forget the active pairs of these rows."""
        going = ~given_up[self.row]
        if not bool(going.all()):
            self.row, self.unit, self.slots = self.row[going], self.unit[going], self.slots.take(going)
            self.places = self.places[going]
            self._slots_ahead = None

    def hull(self, index: int, ahead: bool) -> Pair:
        """Ends of a trace over all histories, up to the step before or with this step's spikes."""
        if ahead:
            low = high = self._ahead()[index]
        else:
            low = high = self.now.h[index]
        if len(self.row):
            low, high = low.clone(), high.clone()
            lower, upper = self.slots.trace(index)
            if ahead:
                assert self._slots_ahead is not None
                lower, upper = (self._slots_ahead[i * len(self.cells.traces) + index] for i in (0, 1))
            low.put_(self.places, lower.amin(1))
            high.put_(self.places, -upper.amin(1))
        return low, high

    def _ahead(self) -> list[Tensor]:
        if self._exact_ahead is None:
            self._exact_ahead = _advanced(self.cells, self.now)
        if self._slots_ahead is None and len(self.row):
            self._slots_ahead = self.slots.traces_ahead(self.cells)
        return self._exact_ahead

    def advance(self, running: int) -> None:
        """Traces, adaptation and reset sum of the first rows, whose pairs are all there are, up to this step."""
        old = self.exact if running == self.rows else self.exact.take(torch.arange(running, device=self.row.device))
        ahead = self._exact_ahead
        h = ahead if ahead is not None and len(old.z) == len(self.now.z) else _advanced(self.cells, old)
        self.now, self.levels = _before_spikes(self.cells, old, h, running)
        if len(self.row):
            self.slots.before_spikes(self.cells, self.row, self.unit, self._slots_ahead)
        self._exact_ahead = self._slots_ahead = None

    def fire(
        self, bounds: Bounds, errors: Errors, given: GivenSpikes | None, given_up: Tensor
    ) -> tuple[Tensor, Tensor]:
        """This step's spikes: the neurons that fork now, and the fewest spikes that each may have.

        Args:
            bounds: of potentials.
            errors: of this step.
            given: spikes that are given.
            given_up: rows of which no new fork is wanted.
        """
        cells, exact = self.cells, self.now
        bounds = _widened(bounds, errors)
        value = _value(cells, len(exact.z), errors)
        potential, least, most = self._spikes(bounds, given, value)
        forks = (most if most.dtype == torch.bool else most > least) & ~(given_up | self.beyond)[: len(least), None]
        rows, units = forks.nonzero(as_tuple=True)
        places = rows * cells.units + units
        most = torch.ones_like(rows, dtype=least.dtype) if most.dtype == torch.bool else most.take(places)
        spiked = None
        if value is not None:
            assert bounds.restart is not None
            exact = replace(exact, v=(potential[0], torch.minimum(potential[1], self.levels[1])))
            reset = bounds.restart[0] - value.upper, bounds.restart[1] - value.lower
            if cells.late:
                # Of a record that spikes now v is not read: the next one is the value.
                exact.reset = _either(exact.z > 0, reset, exact.reset)
            else:
                v = value.lower.expand_as(least), value.upper.expand_as(least)
                spiked = replace(exact, reset=reset, v=v)
        new = forked(self.slots, cells, exact, places, units, (least.take(places), most), spiked)
        silent = exact.silent if cells.silent_steps is None else silent_left(least, exact.silent, cells.silent_steps)
        z, pending = least, exact.pending
        if cells.twice:
            (z, _), (pending, _) = second_look((least, least), (pending, pending))
        after = replace(exact, z=z, silent=silent, count=exact.count + z, pending=pending)
        if spiked is not None:
            fired = least > 0
            after.reset = _either(fired, spiked.reset, exact.reset)
            after.v = _either(fired, spiked.v, exact.v)
        if len(self.row):
            at = None if value is None else value.at(self.row, self.unit)
            given_here = (
                None if given is None else GivenSpikes(given.least.take(self.places), given.most.take(self.places))
            )
            beyond = self.slots.after_spikes(cells, self.unit, bounds.at(self.places), at, given_here)
            if beyond is not None:
                self.beyond[self.row[beyond]] = True
        self.row, self.unit = torch.cat([self.row, rows]), torch.cat([self.unit, units])
        self.places = torch.cat([self.places, places])
        self.slots = self.slots.joined(new)
        self.active.put_(places, places.new_ones(1, dtype=torch.bool).expand_as(places))
        self.now = after
        self._keep(after)
        return forks, least

    def _spikes(
        self, bounds: Bounds, given: GivenSpikes | None, value: UnitConstant | None
    ) -> tuple[Pair, Tensor, Tensor]:
        """Potentials of exact records, where they are followed; fewest spikes; and most, or whether one more may be.

        Of cells whose potential is looked at twice these are numbers of thresholds that it is above.
        """
        cells, exact = self.cells, self.now
        level_low, level_high = self.levels
        (low, high), (reset_low, reset_high) = (bounds.low, bounds.high), exact.reset
        waiting = ~self.active[: len(low)]
        if value is not None:
            assert bounds.current is not None
            low = torch.maximum(low - reset_high, cells.alpha * exact.v[0] + bounds.current[0])
            high = torch.minimum(high - reset_low, cells.alpha * exact.v[1] + bounds.current[1])
            if cells.late:
                low, high = _either(exact.z > 0, (value.lower, value.upper), (low, high))
            reset_low = reset_high = torch.zeros_like(low[:1])
        if cells.levels > 1:
            endless = without_end(high - reset_low, level_low, cells.most)
            if endless is not None:
                self.beyond[: len(low)] |= (endless & waiting).any(1)
            least, most = several_spikes(
                low - reset_high, high - reset_low, self.levels, cells.levels, cells.rounding.roundoff
            )
            if given is not None:
                least = torch.maximum(least, torch.minimum(given.least.to(least.dtype), most))
                most = torch.minimum(most, torch.maximum(given.most.to(most.dtype), least))
            return (low, high), least * waiting, most * waiting
        can, must = ~(high <= reset_low + level_low), low > reset_high + level_high
        if not cells.never_silent:
            free = exact.silent == 0
            can, must = can & free, must & free
        if given is not None:
            can = can & (given.most > 0)
            must = must | (can & (given.least > 0))
        must = must & waiting
        return (low, high), must.to(low.dtype), can & waiting & ~must

    def _keep(self, after: Exact) -> None:
        """Rows that run are replaced, those that have not begun stay as they are."""
        running = len(after.z)
        if running == self.rows:
            self.exact = after
            return
        waiting = torch.arange(running, self.rows, device=self.row.device)
        self.exact = Exact.joined([after, self.exact.take(waiting)])


def _value(cells: Cells, rows: int, errors: Errors) -> UnitConstant | None:
    """What spikes set the potential to; one that is compared itself with what rounding may add, so ties are open."""
    if cells.value is None or not cells.late:
        return None if cells.value is None else cells.value.first(rows)
    assert errors.step is not None
    value = cells.value.first(rows)
    return UnitConstant(value.lower - errors.step, value.upper + errors.step)


def _either(mask: Tensor, one: Pair, other: Pair) -> Pair:
    return torch.where(mask, one[0], other[0]), torch.where(mask, one[1], other[1])


def _widened(bounds: Bounds, errors: Errors) -> Bounds:
    """With what rounding may add."""
    out = replace(bounds, low=bounds.low - errors.potential, high=bounds.high + errors.potential)
    if bounds.current is not None:
        assert errors.step is not None
        out.current = bounds.current[0] - errors.step, bounds.current[1] + errors.step
    return out


def _advanced(cells: Cells, exact: Exact) -> list[Tensor]:
    """Every trace with the spikes that are last."""
    h: list[Tensor] = []
    for trace, before in zip(cells.traces, exact.h, strict=True):
        h.append(trace.value * before + trace.gain * (exact.z if trace.parent is None else h[trace.parent]))
    return h


def _before_spikes(cells: Cells, old: Exact, h: list[Tensor], running: int) -> tuple[Exact, Pair]:
    """Adaptation and reset sum up to this step's spikes, and A."""
    z, threshold = old.z, cells.threshold.first(running)
    levels, b = (threshold.lower, threshold.upper), old.b
    if cells.adaptation is not None:
        rho, beta = cells.adaptation.rho.first(running), cells.adaptation.beta.first(running)
        if rho.exact and beta.exact and threshold.exact and old.b[0] is old.b[1]:
            low = rho.lower * old.b[0] + (1.0 - rho.lower) * z
            level = threshold.lower + beta.lower * low
            b, levels = (low, low), (level, level)
        else:
            b = adapted(old.b, (z, z), rho.lower, rho.upper)
            levels = adapted_threshold((beta.lower, beta.upper), levels, *b)
    return replace(old, h=h, b=b, reset=_reset(cells, old, levels, running)), levels


def _reset(cells: Cells, old: Exact, levels: Pair, running: int) -> Pair:
    """R up to this step's spikes."""
    if not cells.resets:
        return old.reset
    if cells.value is not None:
        return cells.alpha * old.reset[0], cells.alpha * old.reset[1]
    scale = cells.dt
    if cells.drop is not None:
        drop, scale = cells.drop.first(running), 1.0
        levels = drop.lower, drop.upper
    if levels[0] is levels[1] and old.reset[0] is old.reset[1]:
        low = cells.alpha * old.reset[0] + old.z * levels[0] * scale
        return low, low
    low, high = product((old.z, old.z), levels)
    return cells.alpha * old.reset[0] + low * scale, cells.alpha * old.reset[1] + high * scale
