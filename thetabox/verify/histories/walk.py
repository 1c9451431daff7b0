r"""Through time with at most K histories a neuron.

While a neuron's spikes are certain it is one exact record. From its first fork (a step at which it may and need not
spike) it is one of the active (row, unit) pairs, each with K slots of alternatives: intervals of output trace h, reset
sum R, adaptation b, last spike z, silent steps left w and spike count c. Neurons are independent: what others see of a
neuron is the hull of its h.

A history can spike unless it is certainly silent or :math:`\overline q \le \underline R + \underline A`; it must if it
is certainly free and :math:`\underline q > \overline R + \overline A`, where q bounds :math:`g W_{in} + h W_{rec}`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thetabox.verify.histories.cells import Cells, Errors
from thetabox.verify.histories.equations import adapted, adapted_threshold, product, silent_left
from thetabox.verify.histories.records import Exact, Fork
from thetabox.verify.histories.slots import Slots


@dataclass
class Drive:
    """What inputs do to potentials, the same for every ε and every row of a sample: ``[samples, T, units]`` each.

    Attributes:
        centre: W_in g.
        spread: its radius at ε = 1.
        size: its radius for rounding alone.
    """

    centre: Tensor
    spread: Tensor
    size: Tensor


@dataclass(frozen=True)
class PruneRule:
    """When a row is given up: a saving, its answer is then that nothing is known.

    Half the width of the counts so far, weighed by the readout, stands for what the margin against a class has lost
    (counts rarely come together again); a row that lost more than its margin has no proof to expect.

    Attributes:
        weight: |W_y − W_k| a spike, ``[rows, units, classes]`` by row.
        margin: what may be lost, ``[rows, classes]``.
    """

    weight: Tensor
    margin: Tensor


# Steps between two looks at whether a row is worth going on with.
PRUNE_EVERY = 4


@dataclass
class Walked:
    """Where a walk ended.

    Attributes:
        least, most: spike count of every neuron, ``[rows, units]``.
        fork: the first of each row, if it was asked for.
        open_share: neurons with more than one history at each step, share of all, ``[rows, T]``.
        given_up: rows whose counts say nothing.
    """

    least: Float[Tensor, "rows units"]
    most: Float[Tensor, "rows units"]
    fork: Fork | None
    open_share: Float[Tensor, "rows time"]
    given_up: Bool[Tensor, " rows"]


def walk(
    cells: Cells,
    drive: Drive,
    errors: list[Errors],
    sample: Int[Tensor, " rows"],
    *,
    histories: int,
    since: Int[Tensor, " rows"] | None = None,
    start: Exact | None = None,
    forced: Int[Tensor, "rows units"] | None = None,
    prune: PruneRule | None = None,
    before_step: Callable[[], None] | None = None,
) -> Walked:
    """All time steps of some rows.

    Args:
        cells: constants, with ε of these rows in its context.
        drive: of the samples.
        errors: of every step.
        sample: which sample each row is of.
        histories: K, most alternatives a neuron.
        since: first step of each row, ascending; 0 by default.
        start: state in front of that step.
        forced: spikes of the first step of each row that are given: 0, 1, or -1 for those that are not.
        prune: when rows are given up; the first fork of each is then remembered, to split it there.
        before_step: called before every step; may raise.
    """
    rows, steps = len(sample), drive.centre.shape[1]
    device = sample.device
    if since is None or start is None:
        since, start = torch.zeros(rows, dtype=torch.long, device=device), Exact.silence(rows, cells)
    state = Walk(cells, histories, start, rows)
    fork = Fork.none(rows, cells.units, steps, device) if prune is not None else None
    shares = cells.alpha.new_zeros(rows, steps)
    for time in range(int(since.min()), steps):
        if before_step is not None:
            before_step()
        running = int((since <= time).sum())
        given = None
        if forced is not None:
            given = torch.where((since[:running] == time)[:, None], forced[:running], -1)
        state.step(drive, time, sample[:running], errors[time], given, fork)
        shares[:, time] = state.open_share()
        if prune is not None and time % PRUNE_EVERY == PRUNE_EVERY - 1:
            state.give_up(prune)
    least, most = state.counts()
    return Walked(least, most, fork, shares, state.given_up)


class Walk:
    """Exact records of all neurons, and slots of the active pairs."""

    def __init__(self, cells: Cells, histories: int, start: Exact, rows: int) -> None:
        self.cells, self.exact, self.rows = cells, start, rows
        device, dtype = cells.alpha.device, cells.alpha.dtype
        self.row = torch.zeros(0, dtype=torch.long, device=device)
        self.unit = torch.zeros(0, dtype=torch.long, device=device)
        self.slots = Slots.none(cells, histories)
        self.active = torch.zeros(rows, cells.units, dtype=torch.bool, device=device)
        self.given_up = torch.zeros(rows, dtype=torch.bool, device=device)
        self.influence = (
            torch.zeros(cells.units, dtype=dtype, device=device)
            if cells.weight_rec is None
            else cells.weight_rec.magnitude.sum(1)
        )

    def open_share(self) -> Tensor:
        return self.active.to(self.cells.alpha.dtype).mean(1)

    def counts(self) -> tuple[Tensor, Tensor]:
        least, most = self.exact.count.clone(), self.exact.count.clone()
        low, high = self.slots.count
        least[self.row, self.unit] = low.amin(1)
        most[self.row, self.unit] = -high.amin(1)
        return least, most

    def give_up(self, prune: PruneRule) -> None:
        """Drop the active pairs of rows that have lost too much."""
        if not len(self.row):
            return
        low, high = self.slots.count
        width = -high.amin(1) - low.amin(1)
        lost = torch.zeros_like(prune.margin)
        lost.index_add_(0, self.row, prune.weight[self.row, self.unit] * (0.5 * width[:, None]))
        self.given_up |= (lost > prune.margin).any(1)
        going = ~self.given_up[self.row]
        if not bool(going.all()):
            self.row, self.unit, self.slots = self.row[going], self.unit[going], self.slots.take(going)

    def step(
        self, drive: Drive, time: int, sample: Tensor, errors: Errors, given: Tensor | None, remember: Fork | None
    ) -> None:
        """One time step of the first ``len(sample)`` rows, whose active pairs are all there are."""
        running = len(sample)
        before = self.exact
        exact, (level_low, level_high) = self._exact_before_spikes(running)
        if len(self.row):
            self.slots.before_spikes(self.cells, self.row, self.unit)
        low, high = self.potential(drive, time, sample, exact)
        low, high = low - errors.potential, high + errors.potential
        reset_low, reset_high = exact.reset
        free = exact.silent == 0
        can = free & ~(high <= reset_low + level_low)
        must = free & (low > reset_high + level_high)
        if given is not None:
            can, must = can & (given != 0), must | (can & (given == 1))
        active = self.active[:running]
        can, must = can & ~active, must & ~active
        forks = can & ~must & ~self.given_up[:running, None]
        rows, units = forks.nonzero(as_tuple=True)
        new = self.slots.forked(exact, rows, units, self.cells.silent_steps)
        spikes = must.to(exact.z.dtype)
        silent = silent_left(spikes, exact.silent, self.cells.silent_steps)
        after = Exact(exact.h, exact.reset, exact.b, spikes, silent, exact.count + spikes)
        if len(self.row):
            pairs = self.row, self.unit
            self.slots.after_spikes(
                self.cells, self.unit, low[pairs], high[pairs], None if given is None else given[pairs]
            )
        if remember is not None:
            first = forks.any(1) & (remember.time[:running] == drive.centre.shape[1])
            if bool(first.any()):
                self._note(remember, time, first, before, forks, given)
        self.row, self.unit = torch.cat([self.row, rows]), torch.cat([self.unit, units])
        self.slots = self.slots.joined(new)
        self.active[rows, units] = True
        self._keep(after, running)

    def _keep(self, after: Exact, running: int) -> None:
        """Rows that run are replaced, those that have not begun stay as they are."""
        if running == self.rows:
            self.exact = after
            return
        waiting = torch.arange(running, self.rows, device=self.row.device)
        self.exact = Exact.joined([after, self.exact.take(waiting)])

    def _note(self, fork: Fork, time: int, first: Tensor, before: Exact, forks: Tensor, given: Tensor | None) -> None:
        rows = first.nonzero().squeeze(1)
        fork.time[rows] = time
        fork.unit[rows] = torch.where(forks[rows], self.influence, -1.0).argmax(1)
        state = before.take(rows)
        for place, row in enumerate(rows.tolist()):
            fork.before[row] = (state, place)
        if given is not None:
            fork.forced[rows] = given[rows]

    def _exact_before_spikes(self, running: int) -> tuple[Exact, tuple[Tensor, Tensor]]:
        """Traces, adaptation and reset sum up to this step's spikes, and A."""
        cells = self.cells
        old = self.exact if running == self.rows else self.exact.take(torch.arange(running, device=self.row.device))
        z = old.z
        h = [d.value * t + (1.0 - d.value) * z for d, t in zip(cells.decays, old.h, strict=True)]
        rho, beta, threshold = (ends.first(running) for ends in (cells.rho, cells.beta, cells.threshold))
        b_low = rho.lower * old.b[0] + (1.0 - rho.lower) * z
        level_low = threshold.lower + beta.lower * b_low
        reset_low = cells.alpha * old.reset[0] + z * level_low * cells.dt
        if rho.exact and beta.exact and threshold.exact and old.b[0] is old.b[1]:
            ends = (b_low, b_low), (level_low, level_low), (reset_low, reset_low)
        else:
            b_low, b_high = adapted(old.b, (z, z), rho.lower, rho.upper)
            level_low, level_high = adapted_threshold(
                (beta.lower, beta.upper), (threshold.lower, threshold.upper), b_low, b_high
            )
            low, high = product((z, z), (level_low, level_high))
            reset_low = cells.alpha * old.reset[0] + low * cells.dt
            reset_high = cells.alpha * old.reset[1] + high * cells.dt
            ends = (b_low, b_high), (level_low, level_high), (reset_low, reset_high)
        b, levels, reset = ends
        return Exact(h, reset, b, z, old.silent, old.count), levels

    def potential(self, drive: Drive, time: int, sample: Tensor, exact: Exact) -> tuple[Tensor, Tensor]:
        """Bounds of W_in g + W_rec h for every neuron."""
        cells, context = self.cells, self.cells.context
        running = len(sample)
        factor = cells.weight_in.factor
        centre = drive.centre[sample, time]
        radius = drive.size[sample, time]
        if factor:
            radius = radius + context.epsilon(factor).reshape(-1, 1)[:running] * drive.spread[sample, time]
        weight = cells.weight_rec
        if weight is None:
            return centre - radius, centre + radius
        own = cells.rounding.own
        epsilon = context.epsilon(weight.factor).reshape(-1, 1)[:running] if weight.factor else None
        theta, size, absolute = weight.theta, weight.magnitude, weight.absolute
        relative = cells.rounding.of_dot(cells.units + 8) + 4.0 * weight.theta_error
        for place, d in enumerate(cells.decays):
            low = high = exact.h[place]
            if len(self.row):
                low, high = low.clone(), high.clone()
                lower, upper = self.slots.trace(place)
                low[self.row, self.unit] = lower.amin(1)
                high[self.row, self.unit] = -upper.amin(1)
            middle, half = (low + high) * 0.5, (high - low) * 0.5
            noise = (4.0 * own + relative) * high
            if epsilon is None or absolute is not None:
                spread = half + noise
            else:
                # Of [1 - ε, 1 + ε] times [low, high], low ≥ 0: the lower end is (1 - ε) low, or (1 - ε) high beyond 1.
                small = epsilon <= 1.0
                spread = torch.where(small, half + epsilon * middle, epsilon * high) + noise
                middle = torch.where(small, middle + epsilon * half, high)
            columns = slice(None) if len(cells.decays) == 1 else d.units
            moved, reach = middle @ theta[:, columns], spread @ size[:, columns]
            if absolute is not None and epsilon is not None:
                reach = reach + epsilon * (high @ absolute[:, columns])
            reach = reach * (1.0 + 4.0 * relative)
            if len(cells.decays) == 1:
                centre, radius = centre + moved, radius + reach
            else:
                centre, radius = centre.clone(), radius.clone()
                centre[:, columns] += moved
                radius[:, columns] += reach
        return centre - radius, centre + radius
