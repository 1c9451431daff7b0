r"""Through time with at most K histories a neuron.

While a neuron's spikes are certain it is one exact record. From its first fork (a step at which it may and need not
spike) it is one of the active (row, unit) pairs, each with K slots of alternatives: intervals of output trace h, reset
sum R, adaptation b, last spike z, silent steps left w and spike count c. Upper ends are kept negated, so every hull is
one minimum. Neurons are independent: what others see of a neuron is the hull of its h.

A history can spike unless it is certainly silent or :math:`\overline q \le \underline R + \underline A`; it must if it
is certainly free and :math:`\underline q > \overline R + \overline A`, where q bounds :math:`g W_{in} + h W_{rec}`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thetabox.verify.histories.cells import Cells, Errors
from thetabox.verify.histories.merge import merged

# Between histories of different last spikes the key leaves this much room: they are merged last.
FAR = 1e6


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
LOOK_EVERY = 4


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
    remember: bool = False,
    patience: PruneRule | None = None,
    look: Callable[[], None] | None = None,
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
        remember: the first fork of each row, to split it there.
        patience: rows are given up by it, if there is any.
        look: called before every step; may raise.
    """
    rows, steps = len(sample), drive.centre.shape[1]
    device = sample.device
    if since is None or start is None:
        since, start = torch.zeros(rows, dtype=torch.long, device=device), Exact.silence(rows, cells)
    state = _Walk(cells, histories, start, rows)
    fork = Fork.none(rows, cells.units, steps, device) if remember else None
    shares = cells.alpha.new_zeros(rows, steps)
    for time in range(int(since.min()), steps):
        if look is not None:
            look()
        running = int((since <= time).sum())
        given = None
        if forced is not None:
            given = torch.where((since[:running] == time)[:, None], forced[:running], -1)
        state.step(drive, time, sample[:running], errors[time], given, fork)
        shares[:, time] = state.open_share()
        if patience is not None and time % LOOK_EVERY == LOOK_EVERY - 1:
            state.give_up(patience)
    least, most = state.counts()
    return Walked(least, most, fork, shares, state.given_up)


class _Walk:
    """Exact records, and the active pairs in ``slots [ends, pairs, K]``."""

    def __init__(self, cells: Cells, histories: int, start: Exact, rows: int) -> None:
        self.cells, self.histories, self.exact, self.rows = cells, histories, start, rows
        self.traces = len(cells.decays)
        self.fields = self.traces + 5
        device, dtype = cells.alpha.device, cells.alpha.dtype
        self.row = torch.zeros(0, dtype=torch.long, device=device)
        self.unit = torch.zeros(0, dtype=torch.long, device=device)
        self.slots = torch.zeros(2 * self.fields, 0, histories, dtype=dtype, device=device)
        self.active = torch.zeros(rows, cells.units, dtype=torch.bool, device=device)
        self.given_up = torch.zeros(rows, dtype=torch.bool, device=device)
        self.influence = (
            torch.zeros(cells.units, dtype=dtype, device=device)
            if cells.weight_rec is None
            else cells.weight_rec.magnitude.sum(1)
        )
        self.hardest_reset = max(cells.threshold.size() * cells.dt, 1e-30)

    def open_share(self) -> Tensor:
        return self.active.to(self.slots.dtype).mean(1)

    def counts(self) -> tuple[Tensor, Tensor]:
        least, most = self.exact.count.clone(), self.exact.count.clone()
        place = self.fields - 1
        least[self.row, self.unit] = self.slots[place].amin(1)
        most[self.row, self.unit] = -self.slots[self.fields + place].amin(1)
        return least, most

    def give_up(self, patience: PruneRule) -> None:
        """Drop the active pairs of rows that have lost too much."""
        if not len(self.row):
            return
        place = self.fields - 1
        width = -self.slots[self.fields + place].amin(1) - self.slots[place].amin(1)
        lost = torch.zeros_like(patience.margin)
        lost.index_add_(0, self.row, patience.weight[self.row, self.unit] * (0.5 * width[:, None]))
        self.given_up |= (lost > patience.margin).any(1)
        going = ~self.given_up[self.row]
        if not bool(going.all()):
            self.row, self.unit, self.slots = self.row[going], self.unit[going], self.slots[:, going]

    def step(
        self, drive: Drive, time: int, sample: Tensor, errors: Errors, given: Tensor | None, remember: Fork | None
    ) -> None:
        """One time step of the first ``len(sample)`` rows, whose active pairs are all there are."""
        running = len(sample)
        before = self.exact
        exact, level = self._exact_before_spikes(running)
        slots = self._active_before_spikes()
        low, high = self._potential(drive, time, sample, exact, slots)
        low, high = low - errors.potential, high + errors.potential
        (reset_low, reset_high), (level_low, level_high) = exact.reset, level
        free = exact.silent == 0
        can = free & ~(high <= reset_low + level_low)
        must = free & (low > reset_high + level_high)
        if given is not None:
            can, must = can & (given != 0), must | (can & (given == 1))
        active = self.active[:running]
        can, must = can & ~active, must & ~active
        forks = can & ~must & ~self.given_up[:running, None]
        new = self._forks(exact, level, forks)
        spikes = must.to(exact.z.dtype)
        silent = _silent(spikes, exact.silent, self.cells.rest)
        after = Exact(exact.h, exact.reset, exact.b, spikes, silent, exact.count + spikes)
        held = self._active_after_spikes(slots, low, high, given)
        if remember is not None:
            first = forks.any(1) & (remember.time[:running] == drive.centre.shape[1])
            if bool(first.any()):
                self._note(remember, time, first, before, forks, given)
        rows, units = forks.nonzero(as_tuple=True)
        self.row, self.unit = torch.cat([self.row, rows]), torch.cat([self.unit, units])
        self.slots = torch.cat([held, new], 1) if new.shape[1] else held
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
            b_low, b_high = _between(old.b, (z, z), rho.lower, rho.upper)
            level_low, level_high = _level((beta.lower, beta.upper), (threshold.lower, threshold.upper), b_low, b_high)
            low, high = _times((z, z), (level_low, level_high))
            reset_low = cells.alpha * old.reset[0] + low * cells.dt
            reset_high = cells.alpha * old.reset[1] + high * cells.dt
            ends = (b_low, b_high), (level_low, level_high), (reset_low, reset_high)
        b, level, reset = ends
        return Exact(h, reset, b, z, old.silent, old.count), level

    def _active_before_spikes(self) -> Tensor:
        """The same for the slots, which are written over, with A in the place of the last spike z."""
        cells, n, f, slots = self.cells, self.traces, self.fields, self.slots
        if not len(self.row):
            return slots
        z_low, z_high = slots[n + 2], -slots[f + n + 2]
        for place, d in enumerate(cells.decays):
            slots[place].mul_(d.value).add_(z_low, alpha=1.0 - d.value)
            slots[f + place].mul_(d.value).add_(z_high, alpha=d.value - 1.0)
        b_low, b_high = _between((slots[n + 1], -slots[f + n + 1]), (z_low, z_high), *cells.rho.at(self.row, self.unit))
        beta, threshold = cells.beta.at(self.row, self.unit), cells.threshold.at(self.row, self.unit)
        level_low, level_high = _level(beta, threshold, b_low, b_high)
        drop_low, drop_high = _times((z_low, z_high), (level_low, level_high))
        alpha = cells.alpha[0, self.unit][:, None]
        slots[n].mul_(alpha).add_(drop_low, alpha=cells.dt)
        slots[f + n].mul_(alpha).sub_(drop_high, alpha=cells.dt)
        slots[n + 1], slots[f + n + 1] = b_low, -b_high
        slots[n + 2], slots[f + n + 2] = level_low, -level_high
        return slots

    def _potential(self, drive: Drive, time: int, sample: Tensor, exact: Exact, slots: Tensor) -> tuple[Tensor, Tensor]:
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
        theta, size, unit = weight.theta, weight.magnitude, weight.unit
        relative = cells.rounding.of_dot(cells.units + 8) + 4.0 * weight.theta_error
        for place, d in enumerate(cells.decays):
            low = high = exact.h[place]
            if len(self.row):
                low, high = low.clone(), high.clone()
                low[self.row, self.unit] = slots[place].amin(1)
                high[self.row, self.unit] = -slots[self.fields + place].amin(1)
            middle, half = (low + high) * 0.5, (high - low) * 0.5
            noise = (4.0 * own + relative) * high
            if epsilon is None or unit is not None:
                spread = half + noise
            else:
                # Of [1 - ε, 1 + ε] times [low, high], low ≥ 0: the lower end is (1 - ε) low, or (1 - ε) high beyond 1.
                small = epsilon <= 1.0
                spread = torch.where(small, half + epsilon * middle, epsilon * high) + noise
                middle = torch.where(small, middle + epsilon * half, high)
            columns = slice(None) if len(cells.decays) == 1 else d.units
            moved, reach = middle @ theta[:, columns], spread @ size[:, columns]
            if unit is not None and epsilon is not None:
                reach = reach + epsilon * (high @ unit[:, columns])
            reach = reach * (1.0 + 4.0 * relative)
            if len(cells.decays) == 1:
                centre, radius = centre + moved, radius + reach
            else:
                centre, radius = centre.clone(), radius.clone()
                centre[:, columns] += moved
                radius[:, columns] += reach
        return centre - radius, centre + radius

    def _forks(self, exact: Exact, level: tuple[Tensor, Tensor], forks: Tensor) -> Tensor:
        """Slots of the neurons that fork now: one history without and one with a spike."""
        f, k = self.fields, self.histories
        rows, units = forks.nonzero(as_tuple=True)
        if not len(rows):
            return self.slots[:, :0]
        low = [*(t[rows, units] for t in exact.h), exact.reset[0][rows, units], exact.b[0][rows, units]]
        high = [*(t[rows, units] for t in exact.h), exact.reset[1][rows, units], exact.b[1][rows, units]]
        count = exact.count[rows, units]
        children = []
        for spike in (0.0, 1.0):
            z = torch.full_like(count, spike)
            tail = [z, z * self.cells.rest[units], count + spike]
            children.append(torch.stack([*low, *tail, *(-t for t in (*high, *tail))]))
        out = self.slots.new_full((2 * f, len(rows), k), math.inf)
        if k == 1:
            out[:, :, 0] = torch.minimum(*children)
        else:
            out[:, :, 0], out[:, :, 1] = children
        return out

    def _active_after_spikes(self, slots: Tensor, low: Tensor, high: Tensor, given: Tensor | None) -> Tensor:
        """Children of every slot, at most K of them."""
        n, f = self.traces, self.fields
        if not len(self.row):
            return slots
        q_low, q_high = low[self.row, self.unit][:, None], high[self.row, self.unit][:, None]
        silent = slots[n + 3]
        there = torch.isfinite(silent)
        can = there & (silent == 0) & ~(q_high <= slots[n] + slots[n + 2])
        # Upper ends stand negated: q above R + A.
        must = there & (slots[f + n + 3] == 0) & (q_low + (slots[f + n] + slots[f + n + 2]) > 0)
        if given is not None:
            chosen = given[self.row, self.unit][:, None]
            can, must = can & (chosen != 0), must | (can & (chosen == 1))
        stays = there & ~must
        spikes = can.to(slots.dtype)
        branching = (can & stays).any(1).nonzero().squeeze(1)
        if len(branching):
            # The others have one child a history: nothing to choose.
            can, stays = can[branching], stays[branching]
            children = torch.cat([slots.index_select(1, branching)] * 2, 2)
            both = torch.zeros_like(children[0])
            both[:, slots.shape[2] :] = 1.0
            self._spike(children, both, self.unit[branching])
            trace = (children[0] - children[f]) / (1.0 - self.cells.decays[0].value)
            reset = (children[n] - children[f + n]) / self.hardest_reset
            last = children[n + 2] + children[n + 3]
            few = merged(children, torch.cat([stays, can], 1), FAR * last + trace + reset, self.histories)
        self._spike(slots, spikes, self.unit)
        if len(branching):
            slots.index_copy_(1, branching, few)
        return slots

    def _spike(self, slots: Tensor, spikes: Tensor, unit: Tensor) -> None:
        """Slots of some neurons behind this step's spikes (A stood in the place of z until now), written over."""
        n, f = self.traces, self.fields
        slots[n + 2], slots[f + n + 2] = spikes, -spikes
        if not self.cells.never_silent:
            rest = self.cells.rest[unit][:, None]
            slots[n + 3] = _silent(spikes, slots[n + 3], rest)
            slots[f + n + 3] = -_silent(spikes, -slots[f + n + 3], rest)
        slots[n + 4] += spikes
        slots[f + n + 4] -= spikes


def _silent(spikes: Tensor, left: Tensor, rest: Tensor) -> Tensor:
    """Silent steps left behind a step; ``rest`` of them, never less than were left, follow a spike."""
    return torch.maximum(left - 1.0, spikes * rest)


def _between(
    b: tuple[Tensor, Tensor], z: tuple[Tensor, Tensor], rho_low: Tensor, rho_high: Tensor
) -> tuple[Tensor, Tensor]:
    """ρ b + (1 − ρ) z over all of them in their ends, b and z in [0, 1]: linear in each."""
    if rho_low is rho_high:
        return rho_low * b[0] + (1.0 - rho_low) * z[0], rho_low * b[1] + (1.0 - rho_low) * z[1]
    lows = [rho * b[0] + (1.0 - rho) * z[0] for rho in (rho_low, rho_high)]
    highs = [rho * b[1] + (1.0 - rho) * z[1] for rho in (rho_low, rho_high)]
    return torch.minimum(*lows), torch.maximum(*highs)


def _level(
    beta: tuple[Tensor, Tensor], threshold: tuple[Tensor, Tensor], b_low: Tensor, b_high: Tensor
) -> tuple[Tensor, Tensor]:
    """A = thr + β b, b ≥ 0."""
    low = torch.minimum(beta[0] * b_low, beta[0] * b_high)
    high = torch.maximum(beta[1] * b_low, beta[1] * b_high)
    return threshold[0] + low, threshold[1] + high


def _times(z: tuple[Tensor, Tensor], level: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The product z A for z ≥ 0 and A of any sign."""
    low = torch.minimum(z[0] * level[0], z[1] * level[0])
    high = torch.maximum(z[0] * level[1], z[1] * level[1])
    return low, high
