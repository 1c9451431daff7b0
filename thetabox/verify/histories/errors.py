r"""How far rounding may move everything that a walk computes.

It is kept as a few numbers beside the tensors. A trace :math:`g \leftarrow \alpha g + \gamma s` that is computed with
:math:`\hat\alpha` within :math:`\delta` of α, of sizes at most G, errs by

.. math:: e \leftarrow (\hat\alpha + \delta)\, e + \delta G + |\gamma| e_s + \delta_\gamma S + 3uG,

e_s and S being error and size of s, u the unit roundoff; the same for reset sums, adaptation and potentials that are
followed from step to step. Sizes follow the same equations from the largest inputs and :math:`z \le n`. The errors of
the matrix products themselves go with their radius (Higham's γ, :mod:`thetabox.verify.arithmetic.rounding`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thetabox.verify.arithmetic.rounding import SAFETY, Rounding
from thetabox.verify.histories.cells import Trace
from thetabox.verify.histories.circuit import CellLayer, Circuit, Connection, Drive, LargestCurrents, Link


@dataclass(frozen=True)
class Errors:
    """What rounding may add at one step in one layer, beside the radii of the products; ``[1, units]`` each.

    Attributes:
        potential: to the comparison of v with A, in its deferred form.
        step: to a potential that is followed from step to step, of cells that spikes set to a value.
    """

    potential: Tensor
    step: Tensor | None = None


@dataclass
class Followed:
    """Sizes and errors of the filters of one source, step by step.

    Attributes:
        traces: the filters.
        source: size of what they filter.
        rounding: of the bounds.
        source_error: of what they filter.
    """

    traces: Sequence[Trace]
    source: float
    rounding: Rounding
    source_error: float = 0.0
    sizes: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sizes, self.errors = [0.0] * len(self.traces), [0.0] * len(self.traces)

    def step(self) -> None:
        """One more step; sizes and errors never fall."""
        roundoff, tiny = self.rounding.roundoff, 64.0 * self.rounding.subnormal
        for i, trace in enumerate(self.traces):
            size, error = self.source, self.source_error
            if trace.parent is not None:
                size, error = self.sizes[trace.parent], self.errors[trace.parent]
            slow = trace.value + trace.error
            gain = abs(trace.gain) + trace.gain_error
            grown = (slow * self.sizes[i] + gain * size) * (1.0 + 8.0 * roundoff) + tiny
            lost = slow * self.errors[i] + trace.error * self.sizes[i] + gain * error + trace.gain_error * size
            self.errors[i] = (lost + 3.0 * roundoff * grown + tiny) * SAFETY
            self.sizes[i] = grown * SAFETY


class _OfLayer:
    """Sizes and errors of one layer's quantities."""

    def __init__(self, layer: CellLayer, rounding: Rounding) -> None:
        self.layer, self.cells, self.rounding = layer, layer.cells, rounding
        self.trains = Followed(layer.cells.traces, float(layer.cells.most), rounding)
        cells = layer.cells
        self.fastest = float(cells.alpha.max()) + cells.alpha_error
        self.b = self.reset = self.reset_size = 0.0
        self.v_size = cells.start[1].abs().max(0, keepdim=True).values.maximum(cells.start[0].abs())
        self.threshold = cells.threshold.size()
        self.beta = 0.0 if cells.adaptation is None else cells.adaptation.beta.size()
        self.drop = 0.0 if cells.drop is None else cells.drop.size() * cells.most
        self.value = 0.0 if cells.value is None else cells.value.size()
        nothing = torch.zeros_like(cells.alpha)
        # Of the largest of several currents: size and error of what a step adds, and of what is left of all.
        self.flow = self.held = (nothing, nothing)

    def level(self) -> tuple[float, float]:
        """Size and error of A."""
        roundoff, tiny = self.rounding.roundoff, 64.0 * self.rounding.subnormal
        adaptation = self.cells.adaptation
        if adaptation is None:
            return self.threshold * (1.0 + 16.0 * roundoff), 8.0 * roundoff * self.threshold + tiny
        beta = self.beta
        self.b = (self.b + 2.0 * adaptation.rho_error + 6.0 * roundoff + tiny) * SAFETY
        level = (self.threshold + beta) * (1.0 + 16.0 * roundoff)
        return level, beta * self.b + 8.0 * roundoff * level + tiny

    def subtracted(self, level: float, level_error: float) -> None:
        """One step of R, of what spikes take."""
        cells, roundoff, tiny = self.cells, self.rounding.roundoff, 64.0 * self.rounding.subnormal
        if cells.drop is None:
            drop, off = cells.dt * level, cells.dt * level_error
        else:
            drop, off = self.drop, 0.0
        before = self.reset_size
        self.reset_size = (self.fastest * before + drop) * (1.0 + 8.0 * roundoff)
        lost = self.fastest * self.reset + cells.alpha_error * self.reset_size + off + 8.0 * roundoff * self.reset_size
        self.reset = (lost + tiny) * SAFETY

    def follow(self, several: LargestCurrents, size: Tensor, error: Tensor) -> None:
        """One step of the largest of several currents, of these sizes and errors."""
        rounding, cells = self.rounding, self.cells
        size, error = (t[:, several.windows].amax(-1) for t in (size, error))
        error = error + 16.0 * rounding.roundoff * size
        if several.synapse is not None:
            size, error = _decayed(rounding, several.synapse, several.synapse_error, self.flow, (size, error))
        self.flow = size, error
        self.held = _decayed(rounding, cells.alpha, cells.alpha_error, self.held, self.flow)

    def replaced(self, potential: float, size: float) -> None:
        """R after spikes that set potentials to a value, and a step of its decay; of deferred potentials' errors."""
        roundoff, tiny = self.rounding.roundoff, 64.0 * self.rounding.subnormal
        self.reset_size = max(self.reset_size, (size + self.value) * (1.0 + 8.0 * roundoff))
        self.reset = max(self.reset, potential) if math.isfinite(potential) else math.inf
        lost = self.fastest * self.reset + (self.cells.alpha_error + 16.0 * roundoff) * self.reset_size
        self.reset = (lost + tiny) * SAFETY


def _decayed(
    rounding: Rounding, decay: Tensor, decay_error: float, before: tuple[Tensor, Tensor], more: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Size and error of a decayed number and another."""
    size = ((decay + decay_error) * before[0] + more[0]) * (1.0 + 8.0 * rounding.roundoff)
    lost = (decay + decay_error) * before[1] + decay_error * before[0] + more[1]
    return size, (lost + 8.0 * rounding.roundoff * size + 64.0 * rounding.subnormal) * SAFETY


def errors(
    circuit: Circuit, largest_input: float, steps: int, drives: Sequence[Drive] | None = None
) -> list[list[Errors]]:
    """The errors of every step and layer.

    Args:
        circuit: the network.
        largest_input: size of the inputs, where the circuit names what they do to its first layer.
        steps: of time.
        drives: what they do to each layer, where it does not.
    """
    rounding = circuit.rounding
    epsilon = circuit.context.largest(1.0)
    layers = [_OfLayer(layer, rounding) for layer in circuit.layers]
    connections = [
        [(block, link, link.magnitude_sums(rounding, epsilon)) for block in layer.blocks for link in block.links]
        for layer in circuit.layers
    ]
    sizes_of_drives: list[tuple[Tensor, Tensor]] = []
    if drives is not None:
        sizes_of_drives = [_sizes(layer, d, epsilon) for layer, d in zip(circuit.layers, drives, strict=True)]
    several = [_Several.of(layer, rounding, epsilon, n, drives) for n, layer in enumerate(circuit.layers)]
    inputs, weight_sums_in = None, None
    if circuit.inputs is not None:
        inputs = Followed(circuit.layers[0].cells.traces, largest_input, rounding)
        weight_sums_in = circuit.inputs.magnitude_sums(rounding, epsilon)[None]
    by_step = []
    for time in range(steps):
        if inputs is not None:
            inputs.step()
        for layer in layers:
            layer.trains.step()
        of_step = []
        for index, layer in enumerate(layers):
            reached = _Reached(layer.cells.alpha)
            if inputs is not None and weight_sums_in is not None:
                reached.size = largest_input * weight_sums_in
                reached.error = max(inputs.errors) * weight_sums_in
                reached.terms += len(circuit.inputs.weight.theta)  # type: ignore[union-attr]  # given with reach_in
            if sizes_of_drives:
                reached.size, reached.current = sizes_of_drives[index][0][time], sizes_of_drives[index][1][time]
            for block, link, weight_sums in connections[index]:
                reached.add(layers[block.source].trains, link, weight_sums)
            currents = several[index]
            if currents is not None:
                layer.follow(currents.says, *currents.at(time, layers))
                reached.plus_largest(layer, currents.terms)
            of_step.append(_of_step(layer, reached))
        by_step.append(of_step)
    return by_step


class _Reached:
    """What reaches the cells of a layer in a step, by sizes, ``[1, units]`` each.

    Attributes:
        size, error: of potentials without resets.
        current, current_error: of what a step adds to the decayed potential.
        terms: of the sums.
    """

    def __init__(self, like: Tensor) -> None:
        zero = torch.zeros_like(like)
        self.size = self.error = self.current = self.current_error = zero
        self.terms = 0

    def add(self, trains: Followed, link: Link, weight_sums: Tensor) -> None:
        """What some trains do to some cells."""
        self.terms += len(link.weight.theta)

        def plus(old: Tensor, factor: float) -> Tensor:
            if isinstance(link.columns, slice):
                return old + factor * weight_sums
            return old.index_add(1, link.columns, factor * weight_sums[None])

        self.size = plus(self.size, trains.sizes[link.trace])
        self.error = plus(self.error, trains.errors[link.trace])
        if link.current is not None:
            self.current = plus(self.current, trains.sizes[link.current])
            self.current_error = plus(self.current_error, trains.errors[link.current])

    def plus_largest(self, layer: _OfLayer, terms: int) -> None:
        """What the largest of several currents do."""
        self.terms += terms
        self.size, self.error = self.size + layer.held[0], self.error + layer.held[1]
        self.current, self.current_error = self.current + layer.flow[0], self.current_error + layer.flow[1]


@dataclass(frozen=True)
class _Several:
    """Currents of which the largest reach a layer, by sizes.

    Attributes:
        says: the currents.
        links: what reaches them, with the sums of the weights' sizes.
        drive: sizes of what inputs and constants do to them, ``[T, 1, currents]``.
    """

    says: LargestCurrents
    links: list[tuple[Connection, Link, Tensor]]
    drive: Tensor

    @classmethod
    def of(
        cls, layer: CellLayer, rounding: Rounding, epsilon: float, index: int, drives: Sequence[Drive] | None
    ) -> _Several | None:
        """Of a layer that has any."""
        says = layer.largest
        if says is None or drives is None or (drive := drives[index].largest) is None:
            return None
        links = [(b, link, link.magnitude_sums(rounding, epsilon)) for b in says.blocks for link in b.links]
        size = drive.centre.abs() + drive.size + epsilon * says.factor * drive.spread
        return cls(says, links, size.amax(0)[:, None])

    @property
    def terms(self) -> int:
        """Of the sums."""
        return 1 + sum(len(link.weight.theta) for _, link, _ in self.links)

    def at(self, time: int, layers: Sequence[_OfLayer]) -> tuple[Tensor, Tensor]:
        """Size and error of every current in a step."""
        reached = _Reached(self.drive[time])
        reached.size = self.drive[time]
        for block, link, weight_sums in self.links:
            reached.add(layers[block.source].trains, link, weight_sums)
        return reached.size, reached.error


def _of_step(layer: _OfLayer, reached: _Reached) -> Errors:
    cells, roundoff, tiny = layer.cells, layer.rounding.roundoff, 64.0 * layer.rounding.subnormal
    size, error, terms = reached.size, reached.error, reached.terms
    current, current_error = reached.current, reached.current_error
    level, level_error = layer.level()
    if cells.value is None and cells.resets:
        layer.subtracted(level, level_error)
    total = error + 16.0 * roundoff * (size + layer.reset_size + level)
    total = (total + layer.reset + level_error + terms * tiny) * (1.0 + 64.0 * roundoff)
    if cells.value is None:
        return Errors(total)
    # v ← α v + j + c: v is no further from 0 than where it was, or where a spike or a threshold put it.
    held = layer.v_size.clamp(min=max(layer.value, level))
    step = (cells.alpha_error + 8.0 * roundoff) * held + current_error + 16.0 * roundoff * current + (terms + 1) * tiny
    layer.v_size = ((cells.alpha + cells.alpha_error) * held + current + step) * (1.0 + 16.0 * roundoff)
    layer.replaced(float(total.max()), float(size.max()))
    return Errors(total, step * (1.0 + 64.0 * roundoff))


def _sizes(layer: CellLayer, drive: Drive, epsilon: float) -> tuple[Tensor, Tensor]:
    """Largest sizes of a drive in potentials and in currents, ``[T, 1, units]``."""

    def of(d: Drive) -> Tensor:
        size = d.centre.abs() + d.size + epsilon * layer.factor * d.spread
        return size.amax(0)[:, None]

    potential = of(drive)
    return potential, torch.zeros_like(potential) if drive.current is None else of(drive.current)
