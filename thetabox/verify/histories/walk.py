r"""Through time with at most K histories a neuron.

While a neuron's spikes are certain it is one exact record. From its first fork (a step at which the number of its
spikes is not certain) it is one of the active (row, unit) pairs, each with K slots of alternatives: intervals of output
traces h, reset sum R, adaptation b, last spike z, silent steps left w, spike count c, and of cells that spikes set to a
value the potential v. Neurons are independent: what others see of a neuron is the hull of its traces.

A history can spike unless it is certainly silent or :math:`\overline q \le \underline R + \underline A`; it must if it
is certainly free and :math:`\underline q > \overline R + \overline A`, where q bounds the potential without resets.

Layers come one after the other: of layers before it in the step a layer reads this step's spikes, if it reads those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thetabox.verify.histories.circuit import Circuit, Drive, Following, Loss, ReadoutQuantity
from thetabox.verify.histories.errors import Errors
from thetabox.verify.histories.potential import Bounds, largest, potential, with_largest
from thetabox.verify.histories.records import Exact, Fork, GivenSpikes, State, taken
from thetabox.verify.histories.state import LayerState


@dataclass(frozen=True)
class PruneRule:
    """When a row is given up: a saving, its bound is then minus infinity.

    Half the width of what the readout reads so far, weighed by it, stands for what the margin against a class has lost
    (counts rarely come together again); a row that lost more than its margin has no proof to expect.

    Attributes:
        losses: what margins lose by each quantity, by row.
        margin: what may be lost, ``[rows, classes]``.
    """

    losses: list[Loss]
    margin: Tensor

    def take(self, rows: Tensor) -> PruneRule:
        """Of some rows."""
        return PruneRule([loss.take(rows) for loss in self.losses], self.margin[rows])


# Steps between two looks at whether a row is worth going on with.
PRUNE_EVERY = 4


@dataclass
class Walked:
    """Where a walk ended.

    Attributes:
        least, most: spike count of every neuron of all layers, ``[rows, units]``.
        read: both ends of what the readout reads, one quantity behind the other.
        fork: the first of each row, if it was asked for.
        open_share: neurons with more than one history at each step, share of all, ``[rows, T]``.
        given_up: rows whose counts say nothing.
    """

    least: Float[Tensor, "rows units"]
    most: Float[Tensor, "rows units"]
    read: tuple[Float[Tensor, "rows features"], Float[Tensor, "rows features"]]
    fork: Fork | None
    open_share: Float[Tensor, "rows time"]
    given_up: Bool[Tensor, " rows"]


def walk(
    circuit: Circuit,
    drives: Sequence[Drive],
    errors: Sequence[Sequence[Errors]],
    sample: Int[Tensor, " rows"],
    *,
    histories: int,
    reads: Sequence[ReadoutQuantity] = (),
    since: Int[Tensor, " rows"] | None = None,
    start: State | None = None,
    given: GivenSpikes | None = None,
    prune: PruneRule | None = None,
    before_step: Callable[[], None] | None = None,
    following: Following | None = None,
) -> Walked:
    """All time steps of some rows.

    Args:
        circuit: the network, with ε of these rows in its context.
        drives: of the samples, layer by layer.
        errors: of every step and layer.
        sample: which sample each row is of.
        histories: K, most alternatives a neuron.
        reads: what is read at the end.
        since: first step of each row, ascending; 0 by default.
        start: state in front of that step.
        given: spikes of the first step of each row that are given.
        prune: when rows are given up; the first fork of each is then remembered, to split it there.
        before_step: called before every step; may raise.
        following: is told what ``reads`` are behind every step; of rows that all begin with the first.
    """
    rows, steps = len(sample), len(errors)
    device = sample.device
    since = None if since is None else since.to(device)
    if since is None or start is None:
        since = torch.zeros(rows, dtype=torch.long, device=device)
        start = [Exact.silence(rows, layer.cells) for layer in circuit.layers]
    moving = HistoryWalk(circuit, histories, start, rows)
    fork = Fork.none(rows, circuit.count, steps, device) if prune is not None else None
    shares = sample.new_zeros(rows, steps, dtype=circuit.rounding.dtype)
    for time in range(int(since.min()), steps):
        if before_step is not None:
            before_step()
        running = int((since <= time).sum())
        now = None
        if given is not None and bool((begins := since[:running] == time).any()):
            now = given.take(slice(0, running)).where(begins)
        moving.step(drives, time, sample[:running], errors[time], now, fork)
        shares[:, time] = moving.open_share()
        if following is not None:
            following.step(time, *moving.read(reads))
        if prune is not None and time % PRUNE_EVERY == PRUNE_EVERY - 1:
            moving.give_up(prune)
    counts = [layer.counts() for layer in moving.layers]
    least, most = (torch.cat([pair[end] for pair in counts], 1) for end in (0, 1))
    beyond = torch.stack([layer.beyond for layer in moving.layers]).any(0)[:, None]
    least, most = torch.where(beyond, 0.0, least), torch.where(beyond, torch.inf, most)
    unknown = torch.stack([moving.given_up, *(layer.beyond for layer in moving.layers)]).any(0)
    return Walked(least, most, moving.read(reads), fork, shares, unknown)


class HistoryWalk:
    """All layers of some rows."""

    def __init__(self, circuit: Circuit, histories: int, start: State, rows: int) -> None:
        self.circuit, self.rows = circuit, rows
        self.layers = [
            LayerState(layer.cells, histories, exact, rows) for layer, exact in zip(circuit.layers, start, strict=True)
        ]
        self.given_up = torch.zeros(rows, dtype=torch.bool, device=start[0].z.device)

    def open_share(self) -> Tensor:
        """Of each row."""
        active = self.layers[0].active if len(self.layers) == 1 else torch.cat([s.active for s in self.layers], 1)
        return active.to(self.circuit.rounding.dtype).mean(1)

    def read(self, reads: Sequence[ReadoutQuantity]) -> tuple[Tensor, Tensor]:
        """Both ends of these quantities at the end."""
        ends = []
        for read in reads:
            layer = self.layers[read.layer]
            ends.append(layer.counts() if read.trace is None else layer.hull(read.trace, read.same_step))
        if not ends:
            nothing = self.layers[0].exact.z[:, :0]
            return nothing, nothing
        return torch.cat([low for low, _ in ends], 1), torch.cat([high for _, high in ends], 1)

    def give_up(self, prune: PruneRule) -> None:
        """Drop the active pairs of rows that have lost too much."""
        if not any(len(layer.row) for layer in self.layers):
            return
        lost = torch.zeros_like(prune.margin)
        for loss in prune.losses:
            layer = self.layers[loss.read.layer]
            width = 0.5 * layer.width(loss.read.trace)
            lost.index_add_(0, layer.row, loss.weight[layer.row, layer.unit] * width[:, None])
        self.given_up |= (lost > prune.margin).any(1)
        for layer in self.layers:
            layer.drop(self.given_up)

    def step(
        self,
        drives: Sequence[Drive],
        time: int,
        sample: Tensor,
        errors: Sequence[Errors],
        given: GivenSpikes | None,
        remember: Fork | None,
    ) -> None:
        """One time step of the first ``len(sample)`` rows, whose active pairs are all there are."""
        before = [layer.exact for layer in self.layers]
        for layer in self.layers:
            layer.advance(len(sample))
        for index, (layer, units) in enumerate(zip(self.layers, self.circuit.units, strict=True)):
            bounds = self.bounds(drives[index], time, sample, index)
            given_here = None if given is None else given.units(units)
            forks, fewest = layer.fire(bounds, errors[index], given_here, self.given_up)
            if remember is not None:
                first = forks.any(1) & (remember.time[: len(sample)] > time)
                if bool(first.any()):
                    self._note(remember, time, index, first, before, forks, fewest, given)

    def bounds(self, drive: Drive, time: int, sample: Tensor, index: int) -> Bounds:
        """Of the potentials of a layer; the largest of several currents are followed in its records."""
        layer, wired = self.layers[index], self.circuit.layers[index]
        bounds = potential(self.circuit, wired, drive, time, sample, self.hull)
        flow, held = layer.now.flow, layer.now.held
        if flow is None or held is None:
            return bounds
        flow, held = largest(self.circuit, wired, drive, time, sample, self.hull, flow, held)
        layer.now = replace(layer.now, flow=flow, held=held)
        return with_largest(bounds, flow, held)

    def hull(self, layer: int, trace: int, same_step: bool) -> tuple[Tensor, Tensor]:
        """Ends of a layer's trace over all histories."""
        return self.layers[layer].hull(trace, same_step)

    def _note(
        self,
        fork: Fork,
        time: int,
        layer: int,
        first: Tensor,
        before: State,
        forks: Tensor,
        fewest: Tensor,
        given: GivenSpikes | None,
    ) -> None:
        rows = first.nonzero().squeeze(1)
        unit = torch.where(forks[rows], self.circuit.layers[layer].cells.influence, -1.0).argmax(1)
        fork.time[rows], fork.unit[rows] = time, unit + self.circuit.units[layer].start
        fork.cut[rows] = fewest[rows, unit].to(fork.cut.dtype)
        state = taken(before, rows)
        for index, row in enumerate(rows.tolist()):
            fork.before[row] = (state, index)
        if given is not None:
            fork.given.least[rows], fork.given.most[rows] = given.least[rows], given.most[rows]
