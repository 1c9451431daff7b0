r"""What biases, leaks and initial values do to potentials: known numbers of every step, up to their boxes.

A bias is a source that is 1 at every step, so it reaches the potential through the filter of the cell, and its box is
met once: :math:`b\, \kappa_t` with :math:`\kappa_t = \sum_{i \le t} \alpha^{t-i} \sum_{k \le i} \sigma^{i-k}`. A leak
is the same behind the synapse. Initial values decay: :math:`\alpha^{t+1} v_0`, and :math:`j_0` through both decays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.arithmetic.rounding import ROUNDOFF
from thetabox.verify.histories.circuit import Drive
from thetabox.verify.histories.neurons import Neurons, Number

# Of float64, in which all of this is computed.
OWN, TINY = ROUNDOFF, 2.0**-1070


@dataclass(frozen=True)
class Near:
    """Numbers, and how far they may be off."""

    value: Tensor
    error: Tensor

    @classmethod
    def of(cls, number: Number) -> Near:
        """A given one."""
        return cls(number.value.double(), number.error.double())

    def plus(self, other: Near) -> Near:
        """The sum."""
        value = self.value + other.value
        return Near(value, (self.error + other.error + OWN * value.abs()) * (1.0 + 8.0 * OWN) + TINY)

    def times(self, other: Near) -> Near:
        """The product."""
        value = self.value * other.value
        lost = self.value.abs() * other.error + other.value.abs() * self.error + self.error * other.error
        return Near(value, (lost + OWN * value.abs()) * (1.0 + 8.0 * OWN) + TINY)


def constant_drive(neurons: Neurons, steps: int, *, total: bool, currents: bool) -> Drive:
    """What constants do, ``[1, T, units]`` in float64: of ``spread`` nothing falls faster than the potential decays.

    Args:
        neurons: the layer.
        steps: T.
        total: of the sum of potentials up to each step, not of the potential.
        currents: also what they add in every step.
    """
    zero = torch.zeros_like(neurons.decay.value.double())
    one, nothing = Near(zero + 1.0, zero), Near(zero, zero)
    decay = Near.of(neurons.decay)
    synapse = nothing if neurons.synapse is None else Near.of(neurons.synapse)
    of_bias = of_leak = of_current = total_bias = total_leak = total_rest = nothing
    bias, current, start = nothing, Near.of(neurons.current), Near.of(neurons.start)
    potentials: list[_Row] = []
    flows: list[_Row] = []
    for _ in range(steps):
        bias, current = synapse.times(bias).plus(one), synapse.times(current)
        of_bias, of_leak = decay.times(of_bias).plus(bias), decay.times(of_leak).plus(one)
        of_current, start = decay.times(of_current).plus(current), decay.times(start)
        rest = of_current.plus(start)
        flows.append(_row(neurons, bias, one, current))
        if total:
            total_bias, total_leak, total_rest = (
                total_bias.plus(of_bias),
                total_leak.plus(of_leak),
                total_rest.plus(rest),
            )
            potentials.append(_row(neurons, total_bias, total_leak, total_rest))
        else:
            potentials.append(_row(neurons, of_bias, of_leak, rest))
    drive = _drive(potentials)
    drive.current = _drive(flows) if currents else None
    return drive


_Row = tuple[Float[Tensor, " units"], Float[Tensor, " units"], Float[Tensor, " units"], Float[Tensor, " units"]]


def _row(neurons: Neurons, bias: Near, leak: Near, rest: Near) -> _Row:
    """Centre, radius at ε = 1, error, and that radius rounded down."""
    centre, least = rest, torch.zeros_like(rest.value)
    spread = torch.zeros_like(rest.value)
    for boxed, response in ((neurons.bias, bias), (neurons.leak, leak)):
        known = Near(boxed.centre.double(), boxed.error.double())
        centre = centre.plus(known.times(response))
        size = boxed.spread.double()
        spread = spread + size * (response.value + response.error)
        least = least + size * (response.value - response.error)
    return centre.value, spread * (1.0 + 8.0 * OWN), centre.error, least - 8.0 * OWN * spread


def _drive(rows: list[_Row]) -> Drive:
    centre, spread, error, least = (torch.stack(t)[None] for t in zip(*rows, strict=True))
    return Drive(centre, spread, error, least)
