r"""The cells' constants as intervals, and how far everything computed from them may be off.

Traces are deferred: with :math:`g \leftarrow \alpha g + (1-\alpha) x`, :math:`h \leftarrow \alpha h + (1-\alpha) z`
and :math:`R \leftarrow \alpha R + z A\,dt` the potential is :math:`v = g W_{in} + h W_{rec} - R`, and weights stand
outside of all time: their box is met once a step, not once more for every step that the potential remembers.

Rounding is kept as a few numbers beside the tensors. A trace of numbers in [0, 1] that errs by s a step errs by no more
than :math:`e \leftarrow \alpha e + s` in all; the same for R and b. The errors of the matrix products go with their
radius (Higham's γ, :mod:`thetabox.verify.arithmetic.rounding`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.models.leaky import Leaky, LeakyCells
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import SAFETY, Rounding
from thetabox.verify.histories.description.check import INSTEAD, check_description
from thetabox.verify.histories.layers import layer_of
from thetabox.verify.interpreter.context import Context
from thetabox.verify.problem import Problem

# Distinct membrane time constants that a layer may have: each takes a trace of its own.
MOST_TRACES = 8
# e to the power of minus that is below every number but 0, and rounding upward makes the smallest one of it.
LARGEST_EXPONENT = 1e4


@dataclass(frozen=True)
class Decay:
    r"""The factor :math:`e^{-dt/\tau}` of one time constant, the units that have it, and its absolute error."""

    value: float
    error: float
    units: Tensor


@dataclass
class Constant:
    """A per-unit constant ``[1 or rows, units]``; one tensor twice where it is exact."""

    lower: Tensor
    upper: Tensor

    @property
    def exact(self) -> bool:
        """Whether both ends are one tensor."""
        return self.lower is self.upper

    def first(self, rows: int) -> Constant:
        """Of the first rows alone."""
        if len(self.lower) == 1:
            return self
        lower = self.lower[:rows]
        return Constant(lower, lower if self.exact else self.upper[:rows])

    def size(self) -> float:
        """Largest absolute value."""
        return max(float(self.lower.abs().max()), float(self.upper.abs().max()))

    def at(self, rows: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """Both ends of some (row, unit) pairs, as columns."""
        place = rows if len(self.lower) > 1 else torch.zeros_like(rows)
        lower = self.lower[place, units][:, None]
        return lower, lower if self.exact else self.upper[place, units][:, None]


class Cells:
    """The leaky cells of a network with their boxes, in the dtype of the bounds; several layers are one here.

    Args:
        problem: of the network.
        context: ε of the rows.

    Raises:
        InputError: the network is not of the family, or asks for what the domain does not do.
    """

    def __init__(self, problem: Problem, context: Context) -> None:
        described = description(problem.model)
        check_description(problem, described)  # once for each description: what is bounded is what was checked
        self.context, self.rounding = context, problem.settings.rounding
        layer = layer_of(problem.tensors.parameter, described)
        self.weight_in, self.weight_rec, self.bias_out = layer.weight_in, layer.weight_rec, layer.bias_out
        self.weight_out = layer.weight_out.moved(lambda t: t.T)
        self.units, self.dt = self.weight_in.theta.shape[1], described[0].dt
        # Steps in which a unit is silent after a spike, and at the beginning: its layer's index.
        self.silent_steps, self.delay = (layer.refractory - 1.0).clamp(min=0.0), layer.delay
        self.extra_steps = len(described) - 1
        self.never_silent = not bool(self.silent_steps.any() or self.delay.any())
        self.threshold = self._ends(layer.threshold)
        # What reset sums are measured by where histories are compared.
        self.hardest_reset = max(self.threshold.size() * self.dt, 1e-30)
        zero = torch.zeros_like(self.threshold.lower[:1])
        self.beta = Constant(zero, zero) if layer.beta is None else self._ends(layer.beta)
        self.decays = self._decays(layer.tau)
        device = self.weight_in.theta.device
        self.alpha = torch.zeros(1, self.units, dtype=self.rounding.dtype, device=device)
        for decay in self.decays:
            self.alpha[0, decay.units] = decay.value
        self.rho_error = 0.0
        self.rho = Constant(zero, zero) if layer.tau_adapt is None else self._rho(layer.tau_adapt)

    def _ends(self, parameter: Parameter) -> Constant:
        theta = parameter.theta.reshape(1, -1).expand(1, self.units)
        own, subnormal = self.rounding.own, self.rounding.subnormal
        if parameter.factor == 0.0 and parameter.theta_error == 0.0:
            return Constant(theta, theta)
        epsilon = self.context.epsilon(parameter.factor).reshape(-1, 1) if parameter.factor else theta.new_zeros(1, 1)
        radius = epsilon * parameter.unit_radius.reshape(1, -1)
        radius = (
            radius * (1.0 + 4.0 * own) + (theta.abs() + radius) * (2.0 * own + 2.0 * parameter.theta_error) + subnormal
        )
        return Constant(theta - radius, theta + radius)

    def _decays(self, tau: Parameter) -> list[Decay]:
        if tau.factor:
            raise InputError(
                "the domain 'histories' takes membrane time constants as they are; leave them out of the box, "
                f"or {INSTEAD}"
            )
        decays = []
        values = tau.theta.reshape(-1).expand(self.units)
        distinct = values.unique().tolist()
        if len(distinct) > MOST_TRACES:
            raise InputError(
                f"the domain 'histories' takes at most {MOST_TRACES} distinct membrane time constants, "
                f"not {len(distinct)}; {INSTEAD}"
            )
        for value in distinct:
            factor, error = decay(self.dt, value, self.rounding, tau.theta_error)
            decays.append(Decay(factor, error, (values == value).nonzero().squeeze(1)))
        return decays

    def _rho(self, tau: Parameter) -> Constant:
        ends = self._ends(tau)
        if ends.exact:
            pairs = [decay(self.dt, value, self.rounding, tau.theta_error) for value in ends.lower[0].tolist()]
            self.rho_error = max(error for _, error in pairs)
            value = ends.lower.new_tensor([[factor for factor, _ in pairs]])
            return Constant(value, value)
        if float(ends.lower.min()) <= 0.0:
            raise InputError(f"a time constant's box reaches zero; the domain 'histories' cannot bound it, {INSTEAD}")
        out = []
        for side, t in ((-1.0, ends.lower), (1.0, ends.upper)):
            exponent = (self.dt / t.double()).clamp(max=LARGEST_EXPONENT)
            factor = torch.exp(-exponent)
            error = factor * (8.0 + 2.0 * exponent) * 2.0**-53
            rounded = (factor + side * error).to(self.rounding.dtype)
            away = torch.full_like(rounded, side * math.inf)
            out.append(torch.nextafter(torch.nextafter(rounded, away), away).clamp(0.0, 1.0))
        return Constant(*out)


def decay(dt: float, tau: float, rounding: Rounding, theta_error: float) -> tuple[float, float]:
    r""":math:`e^{-dt/\tau}` as a number of the bounds' dtype, and its absolute error; below 1 for positive τ alone."""
    if not (tau > 0.0 and dt > 0.0):
        raise InputError(f"a time constant is {tau}; it must be positive for the domain 'histories', or {INSTEAD}")
    exponent = dt / tau
    factor = math.exp(-exponent)
    held = float(torch.tensor(factor, dtype=rounding.dtype))
    # Where the exponential underflows to 0, ``own`` is far more than it is.
    relative = (8.0 + 4.0 * exponent) * 2.0**-53 + 2.0 * theta_error * exponent if factor else 0.0
    return held, (factor * relative + rounding.own) * SAFETY


@dataclass(frozen=True)
class Errors:
    """What rounding may add to the comparison of v with A at one step, beside the radii of the products.

    Attributes:
        potential: ``[1, units]``, of v and A together.
    """

    potential: Tensor


def errors(cells: Cells, largest_input: float, steps: int) -> list[Errors]:
    """The error of every step; inputs are at most ``largest_input`` in size."""
    rounding = cells.rounding
    own, tiny = rounding.own, 64.0 * rounding.subnormal
    beta, threshold = cells.beta.size(), cells.threshold.size()
    level = (threshold + beta) * (1.0 + 16.0 * own)
    sums_in, sums_rec = _reach(cells, cells.weight_in), _reach(cells, cells.weight_rec)
    terms = cells.weight_in.theta.shape[0] + cells.units
    g, h = [0.0] * len(cells.decays), [0.0] * len(cells.decays)
    b = reset = reset_size = 0.0
    fastest = max(d.value + d.error for d in cells.decays)
    off = max(d.error for d in cells.decays)
    by_step = []
    for _ in range(steps):
        for i, d in enumerate(cells.decays):
            g[i] = ((d.value + d.error) * g[i] + (2.0 * d.error + 6.0 * own) * largest_input + tiny) * SAFETY
            h[i] = ((d.value + d.error) * h[i] + 2.0 * d.error + 4.0 * own + tiny) * SAFETY
        b = (b + 2.0 * cells.rho_error + 6.0 * own + tiny) * SAFETY
        level_error = beta * b + 8.0 * own * level + tiny
        reset_size = (fastest * reset_size + cells.dt * level) * (1.0 + 8.0 * own)
        reset = (fastest * reset + off * reset_size + cells.dt * level_error + 8.0 * own * reset_size + tiny) * SAFETY
        size = largest_input * sums_in + sums_rec
        total = max(g) * sums_in + max(h) * sums_rec + 16.0 * own * (size + reset_size + level)
        total = (total + reset + level_error + terms * tiny) * (1.0 + 64.0 * own)
        by_step.append(Errors(total))
    return by_step


def _reach(cells: Cells, weight: Parameter | None) -> Tensor:
    """Σ over inputs of the largest |weight| in its box, for every unit."""
    if weight is None:
        return torch.zeros(1, cells.units, dtype=cells.rounding.dtype, device=cells.alpha.device)
    radius = weight.unit_radius
    sums = weight.magnitude.sum(0) + cells.context.largest(weight.factor) * radius.sum(0)
    return sums[None] * (1.0 + 4.0 * len(radius) * cells.rounding.own + 4.0 * weight.theta_error)


def description(model: nn.Module) -> tuple[LeakyCells, ...]:
    """How the network describes itself, layer by layer from the input on.

    Raises:
        InputError: it says nothing.
    """
    if not isinstance(model, Leaky):
        raise InputError(
            f"the domain 'histories' is for networks of leaky cells, which {type(model).__name__} does not say it is "
            f"(a method leaky_cells); {INSTEAD}, or 'linear' for a network without time"
        )
    says = model.leaky_cells()
    if isinstance(says, LeakyCells):
        return (says,)
    if not (isinstance(says, Sequence) and says and all(isinstance(layer, LeakyCells) for layer in says)):
        raise InputError("leaky_cells must answer a LeakyCells, or a sequence of them for several layers")
    return tuple(says)
