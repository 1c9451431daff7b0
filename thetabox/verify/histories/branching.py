r"""How uncertainty spreads through a spiking network: the branching ratio of its spikes.

A proof loses what it knows where spikes become uncertain: the first is one that the least errors flip, and what it does
to others decides whether there will be a second. So the least certain spikes of a run without errors are flipped one by
one, and it is counted how many other cells have another train for that alone, everything else held as it was. Where
that is about 1 or less, uncertainty dies out, and proofs reach far; where it is more, it grows from generation to
generation, as in a branching process (Harris 1963, The Theory of Branching Processes).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.verify.histories.cells import Cells, UnitConstant
from thetabox.verify.histories.circuit import Circuit, Connection, LargestCurrents
from thetabox.verify.histories.engine import Engine
from thetabox.verify.histories.errors import Errors
from thetabox.verify.histories.potential import largest, potential, several_currents, with_largest
from thetabox.verify.histories.records import Exact
from thetabox.verify.histories.walk import HistoryWalk

# Flips of a sample.
FLIPS = 4
# Numbers that are held at once: of all samples, and of flips that are replayed together.
HELD, REPLAYED = 1 << 25, 1 << 24
# An error small enough that no box reaches what it must not (a time constant of zero).
SMALL = 2.0**-20


@dataclass(frozen=True)
class Branching:
    """What flipped spikes did.

    Attributes:
        ratio: other cells whose trains a flip changes by itself, on average.
        flips: how many were looked at.
        smallest: median over samples of the error at which the first of its spikes may flip by its own weights alone.
    """

    ratio: float
    flips: int
    smallest: float


@dataclass(frozen=True)
class _Layer:
    """One layer in a run without errors: potentials without resets, trains, and how far ε = 1 moves the former.

    And the currents of which it takes the largest, ``None`` for none.
    """

    cells: Cells
    q: Float[Tensor, "samples time units"]
    z: Float[Tensor, "samples time units"]
    spread: Float[Tensor, "samples time units"]
    currents: Float[Tensor, "samples time currents"] | None


@dataclass(frozen=True)
class _Flips:
    """Spikes to be flipped: of which sample, layer and unit, and when."""

    sample: Int[Tensor, " flips"]
    layer: Int[Tensor, " flips"]
    unit: Int[Tensor, " flips"]
    time: Int[Tensor, " flips"]

    def take(self, which: Tensor) -> _Flips:
        return _Flips(self.sample[which], self.layer[which], self.unit[which], self.time[which])


def branching(engine: Engine, samples: int) -> Branching:
    """The branching ratio of a network, over the first samples of its inputs."""
    with torch.no_grad():
        circuit, layers = _run(engine, samples)
        flips, smallest = _least_certain(layers)
        together = max(1, REPLAYED // max(layer.q[0].numel() for layer in layers))
        changed = [
            _changed(circuit, layers, flips.take(some)) for some in torch.arange(len(flips.unit)).split(together)
        ]
    counts = torch.cat(changed)
    return Branching(float(counts.mean()) if len(counts) else 0.0, len(counts), smallest)


def _run(engine: Engine, samples: int) -> tuple[Circuit, list[_Layer]]:
    """The network without errors, and with small ones on its way to potentials alone."""
    most = HELD // (engine.x.shape[1] * max(1, engine.plan.units))
    which = slice(0, max(1, min(samples, most)))
    drives, _ = engine.drives(which)
    rows = len(drives[0].centre)
    nothing, some = (engine.circuit(torch.full((rows,), e, dtype=torch.float64)) for e in (0.0, SMALL))
    moving = HistoryWalk(nothing, 1, [Exact.silence(rows, layer.cells) for layer in nothing.layers], rows)
    moving.given_up[:] = True  # ties are decided for silence, and nothing forks
    index, steps = torch.arange(rows), drives[0].centre.shape[1]
    series: list[list[list[Tensor]]] = [[[], [], []] for _ in nothing.layers]
    currents: list[list[Tensor]] = [[] for _ in nothing.layers]
    follows = [(state.exact.flow, state.exact.held) for state in moving.layers]
    for time in range(steps):
        for state in moving.layers:
            state.advance(rows)
        for n, state in enumerate(moving.layers):
            alone = moving.bounds(drives[n], time, index, n)
            moved = potential(some, some.layers[n], drives[n], time, index, moving.hull)
            flow, held = follows[n]
            if flow is not None and held is not None:
                flow, held = follows[n] = largest(some, some.layers[n], drives[n], time, index, moving.hull, flow, held)
                moved = with_largest(moved, flow, held)
                ends = several_currents(nothing, nothing.layers[n], drives[n], time, index, moving.hull)
                currents[n].append((ends[0] + ends[1]) / 2)
            state.fire(alone, _no_errors(state.cells), None, moving.given_up)
            for row, t in zip(
                series[n],
                ((alone.low + alone.high) / 2, state.exact.z, (moved.high - moved.low) / (2 * SMALL)),
                strict=True,
            ):
                row.append(t)
    layers = [
        _Layer(layer.cells, _over_time(q), _over_time(z), _over_time(spread), _over_time(several) if several else None)
        for layer, (q, z, spread), several in zip(nothing.layers, series, currents, strict=True)
    ]
    return nothing, layers


def _over_time(steps: list[Tensor]) -> Tensor:
    return torch.stack(steps, 1)


def _no_errors(cells: Cells) -> Errors:
    zero = torch.zeros_like(cells.alpha)
    return Errors(zero, None if cells.value is None else zero)


def _least_certain(layers: list[_Layer]) -> tuple[_Flips, float]:
    """The spikes of each sample, or their absences, that the least errors may flip."""
    sizes = []
    for layer in layers:
        _, gap = _replayed(layer.cells, layer.q, None)
        sizes.append((gap.abs() / layer.spread.clamp(min=1e-300)).flatten(1))
    sizes_of_all = torch.cat(sizes, 1)
    least, index = sizes_of_all.topk(min(FLIPS, sizes_of_all.shape[1]), 1, largest=False)
    known = torch.isfinite(least)
    sample = torch.arange(len(index))[:, None].expand_as(index)[known]
    index = index[known]
    ends = torch.tensor([s.shape[1] for s in sizes]).cumsum(0)
    number = torch.searchsorted(ends, index, right=True)
    within = index - torch.where(number > 0, ends[(number - 1).clamp(min=0)], 0)
    units = torch.tensor([layer.cells.units for layer in layers])[number]
    first = sizes_of_all.amin(1)
    smallest = float(first[torch.isfinite(first)].median()) if bool(torch.isfinite(first).any()) else torch.inf
    return _Flips(sample, number, within % units, within // units), smallest


def _replayed(
    cells: Cells, q: Float[Tensor, "rows time units"], flip: tuple[Tensor, Tensor] | None
) -> tuple[Float[Tensor, "rows time units"], Float[Tensor, "rows time units"]]:
    """Trains of cells by their potentials without resets, and how far these are from a spike; infinite while silent.

    Args:
        cells: the layer.
        q: potentials.
        flip: step and unit of each row at which the spike is another than it would be.
    """
    like = q[:, 0]
    reset = b = z = pending = torch.zeros_like(like)
    silent = reset if cells.delay is None else cells.delay.expand_as(like)
    # Constants are the same in all rows of a run without errors.
    threshold = _middle(cells.threshold)
    trains, gaps = [], []
    for time, now in enumerate(q.unbind(1)):
        level = threshold
        if cells.adaptation is not None:
            rho, beta = _middle(cells.adaptation.rho), _middle(cells.adaptation.beta)
            b = rho * b + (1.0 - rho) * z
            level = threshold + beta * b
        reset = cells.alpha * reset
        if cells.value is None:
            drop = level * cells.dt if cells.drop is None else _middle(cells.drop)
            reset = reset + z * drop
        p = now - reset
        if cells.late and cells.value is not None:
            value = _middle(cells.value)
            p, reset = torch.where(z > 0, value, p), torch.where(z > 0, now - value, reset)
        if cells.twice:
            of = level * (1.0 + pending)
            z, gap = (p > of).to(p.dtype), p - of
        elif cells.most > 1:
            z = torch.floor(p / level).clamp(0, cells.most)
            gap = p - level * (p / level).round().clamp(1, cells.most)
        else:
            z, gap = ((p > level) & (silent == 0)).to(p.dtype), torch.where(silent == 0, p - level, torch.inf)
        if flip is not None:
            rows = (flip[0] == time).nonzero().squeeze(1)
            z[rows, flip[1][rows]] = (z[rows, flip[1][rows]] == 0).to(z.dtype)
        if cells.silent_steps is not None:
            silent = torch.maximum(silent - 1.0, z * cells.silent_steps)
        if cells.twice:
            pending = (p - z * level > level).to(p.dtype)
        if cells.value is not None and not cells.late:
            reset = torch.where(z > 0, now - _middle(cells.value), reset)
        trains.append(z)
        gaps.append(gap)
    return torch.stack(trains, 1), torch.stack(gaps, 1)


def _middle(constant: UnitConstant) -> Tensor:
    return (constant.lower[:1] + constant.upper[:1]) / 2


def _changed(circuit: Circuit, layers: list[_Layer], flips: _Flips) -> Float[Tensor, " flips"]:
    """How many other cells have another train, for each flip."""
    counts = torch.zeros(len(flips.unit), dtype=torch.float64)
    for source, layer in enumerate(layers):
        flipped = (flips.layer == source).nonzero().squeeze(1)
        if not len(flipped):
            continue
        some = flips.take(flipped)
        train, _ = _replayed(layer.cells, layer.q[some.sample], (some.time, some.unit))
        rows = torch.arange(len(flipped))
        difference = train[rows, :, some.unit] - layer.z[some.sample, :, some.unit]
        for target, reader in enumerate(circuit.layers):
            moved = layers[target].q[some.sample].clone()
            blocks = [block for block in reader.blocks if block.source == source]
            for block in blocks:
                _add_change(moved, block, layer.cells, difference, some.unit)
            currents, several = layers[target].currents, reader.largest
            if currents is not None and several is not None:
                currents = currents[some.sample]
                changed = currents.clone()
                of_currents = [block for block in several.blocks if block.source == source]
                for block in of_currents:
                    _add_change(changed, block, layer.cells, difference, some.unit)
                blocks += of_currents
                moved += _held(reader.cells, several, changed) - _held(reader.cells, several, currents)
            if not blocks:
                continue
            then, _ = _replayed(layers[target].cells, moved, None)
            other = (then != layers[target].z[some.sample]).any(1)
            if target == source:
                other[rows, some.unit] = False
            counts[flipped] += other.sum(1).double()
    return counts


def _held(cells: Cells, several: LargestCurrents, currents: Tensor) -> Tensor:
    """What the largest of several currents ``[rows, time, currents]`` leave in potentials."""
    flow = held = torch.zeros_like(currents[:, 0][:, several.windows[:, 0]])
    rows = []
    for now in currents[..., several.windows].amax(-1).unbind(1):
        flow = now if several.synapse is None else several.synapse * flow + now
        held = cells.alpha * held + flow
        rows.append(held)
    return torch.stack(rows, 1)


def _add_change(moved: Tensor, block: Connection, cells: Cells, difference: Tensor, unit: Tensor) -> None:
    """Add what a change of one train a row does to the potentials of a layer."""
    traces = [torch.zeros_like(difference[:, 0]) for _ in cells.traces]
    last = torch.zeros_like(difference[:, 0])
    for time, now in enumerate(difference.unbind(1)):
        spikes = now if block.same_step else last
        for index, trace in enumerate(cells.traces):
            parent = spikes if trace.parent is None else traces[trace.parent]
            traces[index] = trace.value * traces[index] + trace.gain * parent
        for link in block.links:
            moved[:, time, link.columns] += traces[link.trace][:, None] * link.weight.theta[unit]
        last = now
