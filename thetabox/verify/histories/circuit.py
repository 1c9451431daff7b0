"""A network of leaky cells as it is walked through time: layers one after the other in a step, and what joins them."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.histories.cells import Cells
from thetabox.verify.interpreter.context import Context


@dataclass(frozen=True)
class Link:
    """What one layer's trains do to the cells of another that have one decay, or one pair of decays.

    Attributes:
        trace: of the source, in potentials.
        current: of the source, in currents; ``None`` where they are not asked for.
        columns: the cells.
        weight: ``[sources, cells]``.
        error: absolute error of the weights beside that, ``None`` for none.
    """

    trace: int
    current: int | None
    columns: slice | Tensor
    weight: Parameter
    error: Tensor | None = None

    def magnitude_sums(self, rounding: Rounding, epsilon: float) -> Float[Tensor, " cells"]:
        """Σ over sources of the largest |weight| in its box, rounded up."""
        weight = self.weight
        radius = weight.unit_radius
        sums = weight.magnitude.sum(0) + epsilon * weight.factor * radius.sum(0)
        sums = sums * (1.0 + 4.0 * len(radius) * rounding.roundoff + 4.0 * weight.theta_error)
        return sums if self.error is None else sums + self.error.sum(0) * (1.0 + 4.0 * len(radius) * rounding.roundoff)


@dataclass(frozen=True)
class Connection:
    """What one layer's trains do to another layer.

    Attributes:
        source: which layer.
        same_step: whether spikes of the same step are read, else those up to the step before.
        links: by decay of the cells that read.
    """

    source: int
    same_step: bool
    links: tuple[Link, ...]


@dataclass(frozen=True)
class LargestCurrents:
    """Currents of which the largest of some reaches each cell of a layer.

    Attributes:
        blocks, factor: of the currents, as in :class:`CellLayer`.
        windows: of every cell, the places of the currents that it takes the largest of.
        synapse: the decay of what is taken before it reaches the potential, ``None`` for none.
        synapse_error: of any of them, absolute.
    """

    blocks: tuple[Connection, ...]
    factor: float
    windows: Tensor
    synapse: Float[Tensor, "1 units"] | None
    synapse_error: float


@dataclass
class Drive:
    """What inputs and constants do to potentials of one layer, the same for every ε: ``[samples, T, units]`` each.

    Attributes:
        centre: W_in g.
        spread: its radius at ε = 1.
        size: its radius for rounding alone.
        credit: of cells that spikes set to a value, the part of ``spread`` that never falls faster than the potential
            decays, rounded down, less the rest of it (see :mod:`.restart`).
        current: what they do to currents.
        largest: what they do to currents of which the largest is taken.
    """

    centre: Tensor
    spread: Tensor
    size: Tensor
    credit: Tensor | None = None
    current: Drive | None = None
    largest: Drive | None = None

    @classmethod
    def nothing(cls, like: Tensor) -> Drive:
        """Of no sample."""
        return cls(*(like.new_zeros(0),) * 3)

    def take(self, samples: Tensor) -> Drive:
        """Of some samples."""
        return Drive(self.centre[samples], self.spread[samples], self.size[samples])


@dataclass(frozen=True)
class CellLayer:
    """Cells, and what of the network reaches them.

    Attributes:
        cells: constants.
        blocks: by source.
        factor: of ε in the drive's ``spread``.
        largest: currents of which the largest reaches them too.
    """

    cells: Cells
    blocks: tuple[Connection, ...]
    factor: float
    largest: LargestCurrents | None = None


@dataclass(frozen=True)
class ReadoutQuantity:
    """A quantity that a readout reads: a trace of a layer's trains, or how many spikes there were."""

    layer: int
    trace: int | None
    same_step: bool = True


@dataclass(frozen=True)
class Loss:
    """What the margins lose where a quantity is not known: its half width times these, ``[rows, units, classes]``."""

    read: ReadoutQuantity
    weight: Tensor

    def take(self, rows: Tensor) -> Loss:
        """Of some rows."""
        return Loss(self.read, self.weight[rows])


class Following(Protocol):
    """Bounds of some rows that are put together from what is read behind each step."""

    def step(self, time: int, low: Tensor, high: Tensor) -> None:
        """Ends of the quantities behind a step, ``[rows, features]``."""

    def margins(self) -> Tensor:
        """As :meth:`CircuitReadout.margins`, of all steps."""

    def logits(self) -> Interval:
        """As :meth:`CircuitReadout.logits`, of all steps."""


class CircuitReadout(ABC):
    """From what was read at the end of a walk to logits.

    Attributes:
        reads: the quantities, one behind the other.
        every_step: whether they are read behind each step, by what :meth:`following` returns, and not at the end.
    """

    reads: tuple[ReadoutQuantity, ...]
    every_step = False

    def following(self, context: Context, drive: Drive | None, labels: Tensor) -> Following | None:
        """What reads every step of a walk, where the end alone does not say it."""
        return None

    @abstractmethod
    def margins(self, context: Context, read: Interval, drive: Drive | None, labels: Tensor) -> Tensor:
        """Proven lower bound of the least margin of every row.

        Args:
            context: ε of the rows.
            read: the quantities, ``[rows, features]``.
            drive: what inputs and constants do to what is read, ``[rows, 1, units]``, where that is no layer of trains.
            labels: of the rows.
        """

    @abstractmethod
    def logits(self, context: Context, read: Interval, drive: Drive | None) -> Interval:
        """Bounds of the logits of every row."""

    @abstractmethod
    def losses(self, read: Tensor, drive: Drive | None, labels: Tensor) -> tuple[list[Loss], Tensor]:
        """What margins lose by each quantity, and what they are for these ones without any box, about."""


@dataclass(frozen=True)
class Circuit:
    """A network at some rows' ε.

    Attributes:
        context: ε of rows.
        layers: in the order of one step.
        inputs: what the inputs do to the first layer where :func:`~.errors.errors` has to allow for their traces.
    """

    context: Context
    layers: Sequence[CellLayer]
    inputs: Link | None = None

    @property
    def rounding(self) -> Rounding:
        """Of the bounds."""
        return self.context.rounding

    @cached_property
    def units(self) -> list[slice]:
        """Where each layer's units stand among all."""
        ends = torch.tensor([0, *(layer.cells.units for layer in self.layers)]).cumsum(0).tolist()
        return [slice(a, b) for a, b in itertools.pairwise(ends)]

    @property
    def count(self) -> int:
        """Units in all."""
        return self.units[-1].stop


class CircuitPlan(ABC):
    """A network of leaky cells and its inputs, at every ε.

    Attributes:
        units: of all layers.
        steps: in which the network reads.
        extra_steps: that are walked beyond them.
        readout: of what is known at the end.
    """

    units: int
    extra_steps: int = 0
    readout: CircuitReadout

    @abstractmethod
    def circuit(self, context: Context) -> Circuit:
        """At the ε of some rows."""

    @abstractmethod
    def drives(self, x: Interval) -> list[Drive]:
        """What inputs ``[samples, T, inputs]`` of some samples do to every layer, and to what is read behind them."""
