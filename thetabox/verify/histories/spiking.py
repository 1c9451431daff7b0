"""A :class:`~.neurons.Spiking` network as a circuit: which traces layers keep, and who reads them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.histories.cells import Cells, UnitConstant
from thetabox.verify.histories.circuit import (
    CellLayer,
    Circuit,
    CircuitPlan,
    Connection,
    Drive,
    LargestCurrents,
    ReadoutQuantity,
)
from thetabox.verify.histories.constants import constant_drive
from thetabox.verify.histories.description.check import INSTEAD
from thetabox.verify.histories.errors import Followed
from thetabox.verify.histories.inputs import Driver
from thetabox.verify.histories.neurons import Boxed, Largest, Neurons, Spiking
from thetabox.verify.histories.over_time import LargestOverTime
from thetabox.verify.histories.readout import Source, SpikingReadout
from thetabox.verify.histories.wiring import DecayGroup, Filters, Held, Pole, groups, sources, upward
from thetabox.verify.interpreter.context import Context

# Whole numbers up to here are exact in each precision.
WHOLE = {torch.float64: 2.0**52, torch.float32: 2.0**23}


class SpikingPlan(CircuitPlan):
    """A spiking network that is walked for a number of steps.

    Args:
        spiking: the network.
        steps: of time.
        rounding: of the bounds.
        device: where they are computed.

    Raises:
        InputError: what the domain does not do.
    """

    def __init__(self, spiking: Spiking, steps: int, rounding: Rounding, device: torch.device) -> None:
        self.spiking, self.steps, self.rounding, self.device = spiking, steps, rounding, device
        self.filters = [Filters() for _ in spiking.layers]
        # Layers that spike, by their place among those that are walked.
        self.walked = {n: i for i, n in enumerate(n for n, layer in enumerate(spiking.layers) if layer.most)}
        self.groups = {n: groups(layer, rounding) for n, layer in enumerate(spiking.layers)}
        self.blocks = {n: self._blocks(n, self.spiking.layers[n], self.groups[n], ()) for n in self.walked}
        self.largest = {n: self._largest(n, several) for n in self.walked if (several := spiking.layers[n].largest)}
        self.units = sum(spiking.layers[n].units for n in self.walked)
        if not self.walked:
            raise InputError(f"the domain 'histories' is for networks whose cells spike; {INSTEAD}")
        largest = max(spiking.layers[n].most for n in self.walked) * float(steps)
        if largest > WHOLE[rounding.dtype]:
            raise InputError("so many spikes cannot be counted in this precision; use precision='float64'")
        self.drivers = [
            self._driver(spiking.layers[n], self.groups[n], (), spiking.layers[n].reset is not None)
            for n in self.walked
        ]
        self.behind: Driver | None = None
        self.readout = self._readout()
        self.keys = {n: next(iter(self._potential_traces(n)), None) for n in self.walked}

    def _largest(self, number: int, several: Largest) -> _Largest:
        """Currents of which the largest reach a layer."""
        currents = several.currents
        by_decay = groups(currents, self.rounding)
        driver = self._driver(currents, by_decay, (), False)
        synapse, error = None, 0.0
        if self.spiking.layers[number].synapse is not None:
            synapse = torch.zeros(1, len(several.windows), dtype=self.rounding.dtype, device=self.device)
            for group in self.groups[number]:
                if group.synapse is not None:
                    synapse[0, group.columns] = group.synapse.value
                    error = max(error, group.synapse.error)
        blocks = self._blocks(number, currents, by_decay, ())
        return _Largest(LargestCurrents(blocks, 1.0, several.windows.to(self.device), synapse, error), driver)

    def _blocks(
        self, number: int, neurons: Neurons, by_decay: list[DecayGroup], more: tuple[Pole, ...]
    ) -> tuple[Connection, ...]:
        """What a layer, or currents in front of it, read of others, whose traces are asked for."""
        connections = []
        for source, same_step, weights in sources(neurons):
            if source not in self.walked:
                continue
            held, filters = Held.of(weights, self.rounding, self.device), self.filters[source]
            links = []
            for group in by_decay:
                current = None if neurons.reset is None or not neurons.most else filters.place(group.current)
                links.append(held.link(filters.place(group.potential(more)), current, group.columns))
            connections.append(Connection(self.walked[source], same_step, tuple(links)))
        return tuple(connections)

    def _potential_traces(self, number: int) -> list[int]:
        """Traces of a layer that potentials read."""
        index = self.walked[number]
        readers = [block for block in self._all_blocks() if block.source == index]
        traces = {link.trace for block in readers for link in block.links}
        return sorted(traces | {r.trace for r in self.readout.reads if r.layer == index and r.trace is not None})

    def _all_blocks(self) -> list[Connection]:
        """Of layers that are walked, and of currents in front of them."""
        of_currents = [several.wired.blocks for several in self.largest.values()]
        return [block for blocks in (*self.blocks.values(), *of_currents) for block in blocks]

    def _driver(self, neurons: Neurons, by_decay: list[DecayGroup], more: tuple[Pole, ...], currents: bool) -> Driver:
        weights = None if neurons.inputs is None else Held.of(neurons.inputs, self.rounding, self.device)
        constants = constant_drive(neurons, self.steps, total=bool(more), currents=currents)
        return Driver(self.rounding, _moved(constants, self.device), weights, by_decay, more, currents)

    def _readout(self) -> SpikingReadout:
        says = self.spiking.readout
        weights = Held.of(says.weights, self.rounding, self.device)
        if says.layer in self.walked:
            if says.over != "sum":
                raise InputError(
                    f"the domain 'histories' reads sums of spikes, not the potential behind one; {INSTEAD}"
                )
            source = Source(ReadoutQuantity(self.walked[says.layer], None), 0.0, weights)
            return SpikingReadout(self.rounding, [source], None, says.bias, kept=True)
        total, largest = says.over == "sum", says.over == "largest"
        more = (Pole(1.0, 0.0),) if total else ()
        behind, by_decay = self.spiking.layers[says.layer], self.groups[says.layer]
        if behind.largest is not None:
            raise InputError(
                f"the domain 'histories' reads no potential behind the largest of several currents; {INSTEAD}"
            )
        self.behind = self._driver(behind, by_decay, more, False)
        spike_sources = []
        for block in self._blocks(says.layer, behind, by_decay, more):
            for link in block.links:
                error = self._trace_error(block.source, link.trace)
                held = Held(link.weight, link.error)
                if not isinstance(link.columns, slice):
                    held = _spread_out(held, link.columns, self.spiking.layers[says.layer].units)
                spike_sources.append(Source(ReadoutQuantity(block.source, link.trace, block.same_step), error, held))
        if not spike_sources:
            raise InputError(f"no spike reaches what is read; {INSTEAD}")
        itself = _is_identity(weights)
        kind = LargestOverTime if largest else SpikingReadout
        return kind(self.rounding, spike_sources, None if itself else weights, says.bias, kept=total)

    def _trace_error(self, index: int, trace: int) -> float:
        """How far a trace may be off at the end."""
        number = list(self.walked)[index]
        followed = Followed(self.filters[number].traces, float(self.spiking.layers[number].most), self.rounding)
        for _ in range(self.steps + 1):
            followed.step()
        return followed.errors[trace]

    @cached_property
    def _influence(self) -> list[Tensor]:
        """How much hangs on each unit: its weights, and those of what is read."""
        influence = [
            torch.zeros(self.spiking.layers[n].units, dtype=self.rounding.dtype, device=self.device)
            for n in self.walked
        ]
        for block in self._all_blocks():
            for link in block.links:
                influence[block.source] += link.weight.magnitude.sum(1)
        return influence

    def circuit(self, context: Context) -> Circuit:
        layers = []
        for number, index in self.walked.items():
            cells = self._cells(self.spiking.layers[number], number, self._influence[index], context)
            several = self.largest[number].wired if number in self.largest else None
            layers.append(CellLayer(cells, self.blocks[number], 1.0, several))
        return Circuit(context, layers)

    def _cells(self, neurons: Neurons, number: int, influence: Tensor, context: Context) -> Cells:
        decays = _Decays.of(self.groups[number], neurons.units, self.rounding, self.device)
        value = None if neurons.reset is None else self._ends(neurons.reset, context)
        drop = None if neurons.next_drop is None else self._ends(neurons.next_drop, context)
        start, off = (
            neurons.start.value.to(self.device)[None].double(),
            neurons.start.error.to(self.device)[None].double(),
        )
        off = off + (start.abs() + off) * 4.0 * self.rounding.roundoff
        dtype = self.rounding.dtype
        return Cells(
            rounding=self.rounding,
            units=neurons.units,
            traces=tuple(self.filters[number].traces),
            alpha=decays.alpha,
            alpha_error=decays.error,
            threshold=self._ends(neurons.threshold, context),
            drop=drop,
            dt=0.0,
            value=value,
            start=((start - off).to(dtype), (start + off).to(dtype)),
            most=neurons.most,
            adaptation=None,
            silent_steps=None,
            delay=None,
            influence=influence,
            key=self.keys[number],
            largest=number in self.largest,
            late=neurons.late,
            twice=neurons.twice,
        )

    def _ends(self, boxed: Boxed, context: Context) -> UnitConstant:
        dtype, roundoff = self.rounding.dtype, self.rounding.roundoff
        centre = boxed.centre.to(self.device).double()[None]
        theta = centre.to(dtype)
        error = boxed.error.to(self.device).double()[None] + (theta.double() - centre).abs() * 2.0
        if not bool(error.any()) and not bool(boxed.spread.any()):
            return UnitConstant(theta, theta)
        spread = upward(boxed.spread.to(self.device)[None], dtype)
        radius = context.epsilon(1.0).reshape(-1, 1) * spread + upward(error, dtype)
        radius = radius * (1.0 + 4.0 * roundoff) + (theta.abs() + radius) * 2.0 * roundoff + self.rounding.subnormal
        return UnitConstant(theta - radius, theta + radius)

    def drives(self, x: Interval) -> list[Drive]:
        drives = [driver.drive(x) for driver in self.drivers]
        for number, several in self.largest.items():
            drives[self.walked[number]].largest = several.driver.drive(x)
        if self.behind is not None:
            behind = self.behind.drive(x)
            read = slice(None) if self.readout.every_step else slice(-1, None)
            drives.append(Drive(behind.centre[:, read], behind.spread[:, read], behind.size[:, read]))
        return drives


@dataclass(frozen=True)
class _Largest:
    """Currents of which the largest reach a layer, and what inputs and constants do to them."""

    wired: LargestCurrents
    driver: Driver


@dataclass(frozen=True)
class _Decays:
    """α of every unit, and the largest error of any."""

    alpha: Tensor
    error: float

    @classmethod
    def of(cls, by_decay: list[DecayGroup], units: int, rounding: Rounding, device: torch.device) -> _Decays:
        alpha = torch.zeros(1, units, dtype=rounding.dtype, device=device)
        for group in by_decay:
            alpha[0, group.columns] = group.decay.value
        return cls(alpha, max(group.decay.error for group in by_decay))


def _moved(drive: Drive, device: torch.device) -> Drive:
    current = None if drive.current is None else _moved(drive.current, device)
    credit = None if drive.credit is None else drive.credit.to(device)
    return Drive(drive.centre.to(device), drive.spread.to(device), drive.size.to(device), credit, current)


def _spread_out(held: Held, columns: Tensor, units: int) -> Held:
    """Weights of some cells, with exact zeros for the others."""

    def whole(t: Tensor) -> Tensor:
        out = t.new_zeros(len(t), units)
        out[:, columns] = t
        return out

    return Held(held.weight.moved(whole), None if held.error is None else whole(held.error))


def _is_identity(weights: Held) -> bool:
    """Whether these weights leave everything as it is."""
    theta = weights.weight.theta
    if theta.shape[0] != theta.shape[1] or weights.error is not None or weights.weight.theta_error:
        return False
    exact = weights.weight.factor == 0.0
    return exact and bool((theta == torch.eye(len(theta), dtype=theta.dtype, device=theta.device)).all())
