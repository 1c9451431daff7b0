r"""What a spiking network is made of, whoever wrote it: layers of leaky cells with their constants and boxes.

One step of a layer (s are its sources: inputs, spikes of layers below in the same step, spikes of the step before):

.. math::
    j &\leftarrow \sigma j + \sum_s s\, W_s + b + \max_k u_k \qquad (\text{without a synapse } \sigma = 0) \\
    p &\leftarrow \alpha v + j + c \\
    z &\leftarrow H(p - A), \quad \text{or } \min(\max(\lfloor p / A \rfloor, 0), n) \text{ (several spikes)} \\
    v &\leftarrow p - z D, \quad \text{or } V \text{ where } z > 0 \text{ and } p \text{ elsewhere}

or where V comes late :math:`p \leftarrow V` in the step behind a spike, whatever enters in it. Where spikes are looked
for twice, as by snnTorch's ``reset_delay=False``,

.. math::
    z \leftarrow H(p - A - \rho D), \qquad v \leftarrow p - z D, \qquad \rho \leftarrow H(v - A), \qquad A = D .

The maximum is there only where a cell takes one. A gain of the current stands in W and b. Whether a spike at exactly
the threshold counts does not matter to bounds, which leave it open. A network that subtracts a spike's θ in the next
step, behind the decay, has D = θ / α; that is written as ``next_drop`` = αD, which is exact for α = 0 too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

# ``Neurons.most`` of cells that may spike without end: of more than that in a step nothing is known.
ENDLESS = 1 << 20


@dataclass(frozen=True)
class Number:
    """A number a unit that no box moves: within ``error`` of ``value``."""

    value: Float[Tensor, " units"]
    error: Float[Tensor, " units"]


@dataclass(frozen=True)
class Boxed:
    """A number a unit that a box may move: within ``spread`` ε + ``error`` of ``centre``."""

    centre: Float[Tensor, " units"]
    spread: Float[Tensor, " units"]
    error: Float[Tensor, " units"]


@dataclass(frozen=True)
class Weights:
    """A matrix of weights: every entry within ``spread`` ε + ``error`` of ``centre``.

    Attributes:
        relative: the number f for which ``spread`` is f |centre| up to rounding (which ``error`` covers), ``None``
            where there is none.
    """

    centre: Float[Tensor, "sources units"]
    spread: Float[Tensor, "sources units"]
    error: Float[Tensor, "sources units"]
    relative: float | None = None


@dataclass(frozen=True)
class Neurons:
    """One layer of cells.

    Attributes:
        units: how many.
        inputs: W of the network's input at this step, flat; ``None`` for a layer that does not read it.
        below: layer → W of its spikes in the same step; layers count from 0, and these are before this one.
        before: layer → W of its spikes in the step before, its own or any other's.
        bias: b.
        leak: c.
        synapse: σ, ``None`` for none.
        decay: α.
        threshold: A.
        next_drop: α D where a spike is subtracted, ``None`` where a spike sets the potential to a value.
        reset: V where a spike sets the potential, else ``None``. Both ``None``: a spike leaves the potential as it is.
        current: j in front of the first step.
        start: v in front of the first step.
        most: spikes a step, :data:`ENDLESS` for any number; 0 for a layer that never spikes (a leaky readout: its v is
            what is read).
        union: whether these are no cells, but each is 1 where any of the spikes that it reads is, as max pools are:
            α = 0, and A = 1/2 of their sum.
        largest: currents of which the largest enters the cells too, as where a max pool stands in front of them.
        late: whether V is the potential of the step behind a spike, and what enters then is lost; else a spike sets the
            potential in its own step.
        twice: whether the potential is compared with A behind the reset once more, and subtracts another A in front of
            the next comparison where it is above.
    """

    units: int
    inputs: Weights | None
    below: Mapping[int, Weights]
    before: Mapping[int, Weights]
    bias: Boxed
    leak: Boxed
    synapse: Number | None
    decay: Number
    threshold: Boxed
    next_drop: Boxed | None
    reset: Boxed | None
    current: Number
    start: Number
    most: int = 1
    union: bool = False
    largest: Largest | None = None
    late: bool = False
    twice: bool = False


@dataclass(frozen=True)
class Largest:
    r"""Currents :math:`u = \sum_s s\, W_s + b`, of which a cell takes the largest of some.

    Attributes:
        currents: u, as a layer that keeps nothing and never spikes.
        windows: of every cell, the places of the currents that it takes the largest of.
    """

    currents: Neurons
    windows: Int[Tensor, "units window"]


@dataclass(frozen=True)
class Readout:
    """Logits: what is read of one layer, times W, plus b, or the largest of these over time.

    Attributes:
        layer: which.
        over: ``sum`` over all steps of the spikes of a layer, or of the potentials v of one that never spikes; ``last``
            is its potential v behind the last step, ``largest`` that behind every step, of which each logit is the
            largest v W + b.
        weights: W, a mean's 1/T in it.
        bias: b.
    """

    layer: int
    over: str
    weights: Weights
    bias: Boxed


@dataclass(frozen=True)
class Spiking:
    """A whole network.

    Attributes:
        layers: in the order of one step.
        readout: what is read of them.
        largest: ε up to which the network is this one: beyond, a cell may begin as if it had spiked.
    """

    layers: tuple[Neurons, ...]
    readout: Readout
    largest: float = math.inf
