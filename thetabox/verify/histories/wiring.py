"""Weights and decays of :class:`~.neurons.Spiking` networks in the form in which they are walked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.histories.cells import Trace
from thetabox.verify.histories.circuit import Link
from thetabox.verify.histories.description.check import INSTEAD
from thetabox.verify.histories.neurons import Neurons, Weights

# Distinct membrane time constants, or pairs with one of the synapse, that a layer may have: each is a trace of every
# cell that the layer reads.
MOST_TRACES = 64
# Up to here an error of weights is one number for all of them, in units of the roundoff of the bounds.
COMMON_ERROR = 64.0


@dataclass(frozen=True)
class Pole:
    """A decay: within ``error`` of ``value``."""

    value: float
    error: float


@dataclass(frozen=True)
class DecayGroup:
    """Cells of one layer that have the same decays.

    Attributes:
        synapse: σ, ``None`` for none.
        decay: α.
        columns: which cells.
    """

    synapse: Pole | None
    decay: Pole
    columns: slice | Tensor

    def potential(self, more: tuple[Pole, ...] = ()) -> tuple[Pole, ...]:
        """The filter of potentials, and what follows it."""
        return (*(() if self.synapse is None else (self.synapse,)), self.decay, *more)

    @property
    def current(self) -> tuple[Pole, ...]:
        """The filter of currents: without a synapse, what comes in this step alone."""
        return (Pole(0.0, 0.0) if self.synapse is None else self.synapse,)


def groups(neurons: Neurons, rounding: Rounding) -> list[DecayGroup]:
    """The cells of a layer by their decays.

    Raises:
        InputError: too many decays, or one that is none.
    """
    decay = _poles(neurons.decay.value, neurons.decay.error, rounding)
    synapse: list[Pole | None] = [None] * neurons.units
    if neurons.synapse is not None:
        synapse = [
            p if p.value or p.error else None for p in _poles(neurons.synapse.value, neurons.synapse.error, rounding)
        ]
    by_values: dict[tuple[Pole | None, Pole], list[int]] = {}
    for unit, pair in enumerate(zip(synapse, decay, strict=True)):
        by_values.setdefault(pair, []).append(unit)
    if len(by_values) > MOST_TRACES:
        raise InputError(
            f"the domain 'histories' takes at most {MOST_TRACES} distinct membrane time constants, with those of "
            f"synapses, not {len(by_values)}; {INSTEAD}"
        )
    device = neurons.decay.value.device
    return [
        DecayGroup(s, d, slice(None) if len(by_values) == 1 else torch.tensor(units, device=device))
        for (s, d), units in by_values.items()
    ]


def _poles(value: Tensor, error: Tensor, rounding: Rounding) -> list[Pole]:
    held = value.to(rounding.dtype).double()
    off = error.double() + (held - value.double()).abs() * (1.0 + 2.0**-50)
    if not bool(((held >= 0.0) & (held <= 1.0) & (off < 1.0)).all()):
        raise InputError(f"a decay is not between 0 and 1, as the domain 'histories' asks for; {INSTEAD}")
    largest: dict[float, float] = {}
    for v, e in zip(held.tolist(), off.tolist(), strict=True):
        largest[v] = max(e, largest.get(v, 0.0))
    return [Pole(v, largest[v]) for v in held.tolist()]


@dataclass
class Filters:
    """Traces of one source, each filter once; filters that begin alike share what they begin with."""

    traces: list[Trace] = field(default_factory=list)

    def place(self, poles: tuple[Pole, ...]) -> int:
        """Where the trace of a filter stands."""
        parent = None
        for pole in poles:
            parent = self._one(pole, parent)
        assert parent is not None
        return parent

    def _one(self, pole: Pole, parent: int | None) -> int:
        for place, trace in enumerate(self.traces):
            if trace.parent == parent and (trace.value, trace.error) == (pole.value, pole.error):
                return place
        self.traces.append(Trace(pole.value, pole.error, parent=parent))
        return len(self.traces) - 1


@dataclass(frozen=True)
class Held:
    """Weights in the dtype of the bounds: a parameter with its box, and an error beside it."""

    weight: Parameter
    error: Tensor | None

    @classmethod
    def of(cls, weights: Weights, rounding: Rounding, device: torch.device) -> Held:
        """Every entry is within the box and the error of what it stands for."""
        dtype = rounding.dtype
        centre = weights.centre.to(device)
        theta = centre.to(dtype)
        error = weights.error.to(device).double() + (theta.double() - centre.double()).abs() * (1.0 + 2.0**-50)
        common = 0.0
        if bool(error.any()):
            # Relative to the weights where that is hardly more than what sums of them lose anyway.
            common = COMMON_ERROR * rounding.roundoff
            if bool((error <= common * 0.99 * theta.double().abs()).all()):
                error = torch.zeros_like(error)
            else:
                common = 0.0
        if weights.relative is not None:
            parameter = Parameter(theta, float(weights.relative), None, common)
        elif bool(weights.spread.any()):
            parameter = Parameter(theta, 1.0, upward(weights.spread.to(device), dtype), common)
        else:
            parameter = Parameter(theta, 0.0, None, common)
        return cls(parameter, upward(error, dtype) if bool(error.any()) else None)

    def columns(self, which: slice | Tensor) -> Held:
        """Of some cells."""

        def some(t: Tensor) -> Tensor:
            return t[:, which]

        return Held(self.weight.moved(some), None if self.error is None else some(self.error))

    def link(self, trace: int, current: int | None, columns: slice | Tensor) -> Link:
        """What some cells read of some traces."""
        held = self.columns(columns)
        return Link(trace, current, columns, held.weight, held.error)

    @property
    def spread(self) -> Tensor:
        """Radius of the box at ε = 1."""
        weight = self.weight
        if weight.factor == 0.0:
            return torch.zeros_like(weight.theta)
        return weight.unit_radius * (weight.factor * (1.0 + 4.0 * torch.finfo(weight.theta.dtype).eps))

    @property
    def off(self) -> Tensor:
        """The whole error."""
        error = self.weight.magnitude * self.weight.theta_error
        return error if self.error is None else error + self.error


def upward(t: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers of at least 0 in another dtype, not less than they were."""
    eps, tiny = torch.finfo(dtype).eps, 2.0 * torch.finfo(dtype).smallest_normal
    return torch.where(t > 0, t.to(dtype) * (1.0 + 2.0 * eps) + tiny, 0.0).to(dtype)


def sources(neurons: Neurons) -> Iterator[tuple[int, bool, Weights]]:
    """Layers whose spikes these cells read, whether of the same step, and the weights."""
    for layer, weights in neurons.below.items():
        yield layer, True, weights
    for layer, weights in neurons.before.items():
        yield layer, False, weights
