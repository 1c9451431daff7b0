"""What inputs do to potentials of one layer of a :class:`~.neurons.Spiking` network, with its constants."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.histories.cells import Trace
from thetabox.verify.histories.circuit import Drive
from thetabox.verify.histories.errors import Followed
from thetabox.verify.histories.wiring import DecayGroup, Filters, Held, Pole, upward


@dataclass(frozen=True)
class Driver:
    """One layer's inputs and constants.

    Attributes:
        rounding: of the bounds.
        constants: of every step, in float64.
        weights: W of the inputs, ``None`` where they are not read.
        groups: the cells by their decays.
        more: poles that follow those of potentials, of what is summed over time.
        currents: whether currents are asked for.
    """

    rounding: Rounding
    constants: Drive
    weights: Held | None
    groups: list[DecayGroup]
    more: tuple[Pole, ...]
    currents: bool

    def drive(self, x: Interval) -> Drive:
        """Of some samples ``[samples, T, inputs]``, all potentials of which are of the cells' full shape."""
        weighted = None if self.weights is None else _Inputs(self.rounding, x, self.weights)
        drive = self._of(x, self.constants, weighted, [g.potential(self.more) for g in self.groups])
        if self.currents:
            assert self.constants.current is not None
            drive.current = self._of(x, self.constants.current, weighted, [g.current for g in self.groups])
        return drive

    def _of(self, x: Interval, constants: Drive, inputs: _Inputs | None, chains: list[tuple[Pole, ...]]) -> Drive:
        dtype, roundoff = self.rounding.dtype, self.rounding.roundoff
        centre, error = constants.centre.to(dtype), upward(constants.size, dtype)
        spread = upward(constants.spread, dtype)
        assert constants.credit is not None
        credit = constants.credit.to(dtype) - 4.0 * roundoff * spread
        size = error + 2.0 * roundoff * centre.abs() * (dtype != torch.float64)
        rows = [t.expand(len(x.lower), -1, -1) for t in (centre, spread, size, credit)]
        if inputs is None:
            return Drive(rows[0], rows[1], rows[2], rows[3])
        filters = Filters()
        indices = [filters.place(chain) for chain in chains]
        traces = inputs.filtered(filters.traces)
        rows = [t.clone() for t in rows]
        for group, index in zip(self.groups, indices, strict=True):
            for t, more in zip(rows, inputs.through(*traces[index], group.columns), strict=True):
                t[..., group.columns] += more
        # What a sum of both loses.
        rows[2] += 2.0 * roundoff * (rows[0].abs() + rows[2])
        rows[1] *= 1.0 + 4.0 * roundoff
        rows[3] -= 4.0 * roundoff * rows[1]
        return Drive(rows[0], rows[1], rows[2], rows[3])


@dataclass(frozen=True)
class _Inputs:
    """Inputs and their weights."""

    rounding: Rounding
    x: Interval
    weights: Held

    def filtered(self, traces: list[Trace]) -> list[tuple[Tensor, Tensor]]:
        """Every trace ``[samples, T, inputs]``, and how far it may be off at every step ``[T]``."""
        x, off = self.x.lower, self.x.slack
        if not self.x.is_point:
            x, off = (x + self.x.upper) * 0.5, off + float((self.x.upper - x).max())
        size = self.x.magnitude * (1.0 + 8.0 * self.rounding.roundoff)
        if not self.x.is_point:
            off += 4.0 * self.rounding.roundoff * size
        followed = Followed(traces, size, self.rounding, off)
        now = [torch.zeros_like(x[:, 0]) for _ in traces]
        rows: list[list[Tensor]] = [[] for _ in traces]
        errors: list[list[float]] = [[] for _ in traces]
        for x_t in x.unbind(1):
            followed.step()
            for index, trace in enumerate(traces):
                now[index] = trace.value * now[index] + (x_t if trace.parent is None else now[trace.parent])
                rows[index].append(now[index])
                errors[index].append(followed.errors[index])
        return [(torch.stack(g, 1), x.new_tensor(e)) for g, e in zip(rows, errors, strict=True)]

    def through(self, g: Tensor, error: Tensor, columns: slice | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Centre, radius at ε = 1, rounding and credit of a trace times the weights of some cells."""
        held = self.weights.columns(columns)
        weight, roundoff = held.weight, self.rounding.roundoff
        terms = len(weight.theta)
        relative = self.rounding.of_dot(terms + 8) + 4.0 * weight.theta_error
        upward_sum = 1.0 + 4.0 * terms * roundoff
        size = g.abs()
        magnitude_sums = size @ weight.magnitude
        # How far the trace is off, through all weights.
        error = error[:, None] * (1.0 + 4.0 * roundoff)
        rounding = magnitude_sums * (relative * (1.0 + 4.0 * relative)) + error * (
            (weight.magnitude + held.off).sum(0) * upward_sum
        )
        if held.error is not None:
            rounding = rounding + (size @ held.error) * (1.0 + 4.0 * relative)
        rounding = rounding + terms * 64.0 * self.rounding.subnormal
        if weight.factor == 0.0:
            nothing = torch.zeros_like(rounding)
            return g @ weight.theta, nothing, rounding, nothing
        factor = weight.factor
        least = magnitude_sums if weight.absolute is None else size @ weight.absolute
        off = error * (held.spread.sum(0) * upward_sum)
        spread = least * (factor * (1.0 + 4.0 * relative)) + off
        # Inputs of both signs may fall as they please.
        never_negative = (self.x.lower >= 0).flatten(1).all(1)[:, None, None]
        credit = torch.where(never_negative, least * (factor * (1.0 - 4.0 * relative)) - off, -spread)
        return g @ weight.theta, spread, rounding, credit
