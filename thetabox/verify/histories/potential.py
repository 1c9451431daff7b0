r"""Bounds of the potentials of one layer, from the hulls of the trains that it reads.

With :math:`g \in m \pm r` the potential without resets is

.. math:: q = \sum W' g, \qquad |W' - W| \le \varepsilon |W|: \qquad
    q \in W (m + \varepsilon r) \pm |W| (r + \varepsilon m),

two products; of a box that is not relative to the weights :math:`q \in W m \pm (|W| r + \varepsilon S \overline g)`.

**Restart.** A spike at step s that sets the potential to V leaves :math:`p_t = q_t - \alpha^{t-s} (q_s - V)` until the
next. The weights of both are the same, and :math:`\Gamma = g_t - \alpha^{t-s} g_s`, which is what came since, is never
negative where sources are not. So the weights' errors reach :math:`\varepsilon S \Gamma` in p alone, and with
:math:`q_s = W m_s \pm |W| r_s` (rounding is in r)

.. math:: p_t \le \overline q_t - \alpha^{t-s} (W m_s - |W| r_s + \varepsilon S \underline g_s - V) ,

where the subtrahend has its own weights' errors with the sign that ends of an interval have not: what :math:`q_s` adds
to them is taken back. The lower end is as this one. These are the two ends ``restart``: what R begins from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.histories.circuit import CellLayer, Circuit, Drive, LargestCurrents, Link
from thetabox.verify.histories.equations import Pair

Hull = Callable[[int, int, bool], Pair]
"""(layer, trace, same step) → ends of that trace over all histories, ``[rows, units]``."""


@dataclass
class Bounds:
    """Of one layer at one step, ``[rows, units]`` each.

    Attributes:
        low, high: q, the potential without resets.
        restart: of cells that spikes set to a value, what R begins from at a spike, without that value.
        current: of those, what a step adds to the decayed potential.
    """

    low: Float[Tensor, "rows units"]
    high: Float[Tensor, "rows units"]
    restart: Pair | None = None
    current: Pair | None = None

    def at(self, places: Tensor) -> Bounds:
        """Of some (row, unit) pairs, by where they stand in a row-major list of all."""

        def pair(ends: Pair | None) -> Pair | None:
            return None if ends is None else (ends[0].take(places), ends[1].take(places))

        return Bounds(self.low.take(places), self.high.take(places), pair(self.restart), pair(self.current))


def potential(circuit: Circuit, layer: CellLayer, drive: Drive, time: int, sample: Tensor, hull: Hull) -> Bounds:
    """Bounds of the potentials of some rows.

    Args:
        circuit, layer: the network.
        drive: of the layer.
        time: step.
        sample: which sample each row is of.
        hull: what is known of the trains.
    """
    if layer.cells.value is not None:
        return _of_restarting(circuit, layer, drive, time, sample, hull)
    return Bounds(*_plain(circuit, layer, drive, time, sample, hull, potentials=True))


def largest(
    circuit: Circuit, layer: CellLayer, drive: Drive, time: int, sample: Tensor, hull: Hull, flow: Pair, held: Pair
) -> tuple[Pair, Pair]:
    """The largest of several currents: what this step adds to potentials, and what of all steps is left in them.

    They are followed from step to step, for a maximum is no sum of traces.

    Args:
        circuit, layer: the network.
        drive: of the layer.
        time: step.
        sample: which sample each row is of.
        hull: what is known of the trains.
        flow, held: what this returned in the step before.
    """
    several = layer.largest
    assert several is not None
    low, high = (t[:, several.windows].amax(-1) for t in several_currents(circuit, layer, drive, time, sample, hull))
    if several.synapse is not None:
        low, high = several.synapse * flow[0] + low, several.synapse * flow[1] + high
    alpha = layer.cells.alpha
    return (low, high), (alpha * held[0] + low, alpha * held[1] + high)


def several_currents(circuit: Circuit, layer: CellLayer, drive: Drive, time: int, sample: Tensor, hull: Hull) -> Pair:
    """Both ends of the currents of which a layer takes the largest."""
    assert layer.largest is not None
    assert drive.largest is not None
    return _plain(circuit, layer.largest, drive.largest, time, sample, hull, potentials=True)


def with_largest(bounds: Bounds, flow: Pair, held: Pair) -> Bounds:
    """Bounds of potentials that these currents reach too."""

    def plus(ends: Pair | None, more: Pair) -> Pair | None:
        return None if ends is None else (ends[0] + more[0], ends[1] + more[1])

    low, high = bounds.low + held[0], bounds.high + held[1]
    return Bounds(low, high, plus(bounds.restart, held), plus(bounds.current, flow))


def _driven(
    circuit: Circuit, layer: CellLayer | LargestCurrents, drive: Drive, time: int, sample: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Centre of what inputs and constants do, its radius, and ε."""
    centre, radius = _at_step(drive.centre, sample, time), _at_step(drive.size, sample, time)
    epsilon = circuit.context.epsilon(layer.factor).reshape(-1, 1)[: len(sample)] if layer.factor else None
    if epsilon is not None:
        radius = radius + epsilon * _at_step(drive.spread, sample, time)
    return centre, radius, radius.new_zeros(1, 1) if epsilon is None else epsilon


def _plain(
    circuit: Circuit,
    layer: CellLayer | LargestCurrents,
    drive: Drive,
    time: int,
    sample: Tensor,
    hull: Hull,
    *,
    potentials: bool,
) -> Pair:
    """Ends of potentials without resets, or of currents."""
    centre, radius, _ = _driven(circuit, layer, drive, time, sample)
    for block in layer.blocks:
        for link in block.links:
            trace = link.trace if potentials else link.current
            assert trace is not None
            moved, moved_radius = product(circuit, link, hull(block.source, trace, block.same_step))
            centre, radius = _plus(centre, link.columns, moved), _plus(radius, link.columns, moved_radius)
    return centre - radius, centre + radius


def _at_step(t: Tensor, sample: Tensor, time: int) -> Tensor:
    """Of ``[samples, T, …]`` the samples of some rows at one step."""
    return t[:, time].index_select(0, sample)


def _plus(t: Tensor, columns: slice | Tensor, more: Tensor) -> Tensor:
    """A sum where ``more`` is of some columns; a slice is of all."""
    if isinstance(columns, slice):
        return t + more
    t = t.clone()
    t[:, columns] += more
    return t


def product(circuit: Circuit, link: Link, ends: Pair) -> tuple[Tensor, Tensor]:
    """Centre and radius of trains' traces, at least 0, times the weights of a part."""
    low, high = ends
    weight, epsilon, relative = _weight(circuit, link, len(low))
    middle, half = (low + high) * 0.5, (high - low) * 0.5
    noise = (4.0 * circuit.rounding.roundoff + relative) * high
    if epsilon is None or weight.absolute is not None:
        spread = half + noise
    else:
        # Of [1 - ε, 1 + ε] times [low, high], low ≥ 0: the lower end is (1 - ε) low, or (1 - ε) high beyond 1.
        small = epsilon <= 1.0
        spread = torch.where(small, half + epsilon * middle, epsilon * high) + noise
        middle = torch.where(small, middle + epsilon * half, high)
    moved, radius = middle @ weight.theta, spread @ weight.magnitude
    if weight.absolute is not None and epsilon is not None:
        radius = radius + epsilon * (high @ weight.absolute)
    if link.error is not None:
        radius = radius + high @ link.error
    return moved, radius * (1.0 + 4.0 * relative)


def _weight(circuit: Circuit, link: Link, rows: int) -> tuple[Parameter, Tensor | None, float]:
    """Weights of a part, ε of the rows if they have a box, and the relative error of their products."""
    weight, context = link.weight, circuit.context
    epsilon = context.epsilon(weight.factor).reshape(-1, 1)[:rows] if weight.factor else None
    return weight, epsilon, circuit.rounding.of_dot(len(weight.theta) + 8) + 4.0 * weight.theta_error


def _of_restarting(circuit: Circuit, layer: CellLayer, drive: Drive, time: int, sample: Tensor, hull: Hull) -> Bounds:
    centre, radius, epsilon = _driven(circuit, layer, drive, time, sample)
    assert drive.credit is not None
    assert drive.current is not None
    # What is taken back of the weights' errors, and what is not.
    credit, kept = epsilon * _at_step(drive.credit, sample, time), _at_step(drive.size, sample, time)
    for block in layer.blocks:
        for link in block.links:
            moved, errors, apart, back = _in_parts(circuit, link, hull(block.source, link.trace, block.same_step))
            pairs = (centre, moved), (radius, apart + errors), (credit, back), (kept, apart)
            centre, radius, credit, kept = (_plus(t, link.columns, more) for t, more in pairs)
    restart = centre + credit - kept, centre - credit + kept
    current = _plain(circuit, layer, drive.current, time, sample, hull, potentials=False)
    return Bounds(centre - radius, centre + radius, restart, current)


def _in_parts(circuit: Circuit, link: Link, ends: Pair) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W m; the most that ε S g may be; |W| r and rounding; and the least that ε S g may be."""
    low, high = ends
    weight, epsilon, relative = _weight(circuit, link, len(low))
    middle, half = (low + high) * 0.5, (high - low) * 0.5
    moved = middle @ weight.theta
    apart = ((half + (4.0 * circuit.rounding.roundoff + relative) * high) @ weight.magnitude) * (1.0 + 4.0 * relative)
    nothing = torch.zeros_like(moved[:1])
    most, least = nothing, nothing
    if epsilon is not None and weight.absolute is None:
        of_middle = middle @ weight.magnitude
        most = epsilon * (of_middle * (1.0 + 4.0 * relative) + apart)
        least = epsilon * (of_middle * (1.0 - 4.0 * relative) - apart)
    elif epsilon is not None and weight.absolute is not None:
        most = epsilon * ((high @ weight.absolute) * (1.0 + 4.0 * relative))
        least = epsilon * ((low @ weight.absolute) * (1.0 - 4.0 * relative))
    if link.error is not None:
        apart = apart + (high @ link.error) * (1.0 + 4.0 * relative)
    return moved, most, apart, least
