r"""Networks that describe themselves as :class:`thetabox.models.LeakyCells`, as circuits of one layer.

Traces of inputs and trains are those of :math:`g \leftarrow \alpha g + (1-\alpha) x`, and a spike takes A dt of the
next potential. Several layers are one here (:mod:`thetabox.verify.histories.layers`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.models.leaky import Leaky, LeakyCells
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import ROUNDOFF, SAFETY, Rounding
from thetabox.verify.histories.cells import Adaptation, Cells, Trace, UnitConstant
from thetabox.verify.histories.circuit import (
    CellLayer,
    Circuit,
    CircuitPlan,
    CircuitReadout,
    Connection,
    Drive,
    Link,
    Loss,
    ReadoutQuantity,
)
from thetabox.verify.histories.description.check import INSTEAD, check_description
from thetabox.verify.histories.layers import layer_of
from thetabox.verify.interpreter.context import Context, RowEpsilons
from thetabox.verify.interpreter.margin import row_margins
from thetabox.verify.interpreter.rules.dense import linear
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


class AdaptiveCells:
    """The cells of such a network with their boxes, in the dtype of the bounds; several layers are one here.

    Args:
        problem: of the network.
        context: ε of the rows.

    Attributes:
        weight_in, weight_rec, weight_out, bias_out: weights; ``[units, classes]`` is turned over.
        cells: the rest.
        decays: of membranes, in the order of the cells' traces.
        extra_steps: in which upper layers go on behind the inputs.

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
        self.extra_steps = len(described) - 1
        # Steps in which a unit is silent after a spike, and at the beginning: its layer's index.
        silent_steps, delay = (layer.refractory - 1.0).clamp(min=0.0), layer.delay
        silent = bool(silent_steps.any() or delay.any())
        self.decays = self._decays(layer.tau)
        alpha = torch.zeros(1, self.units, dtype=self.rounding.dtype, device=self.weight_in.theta.device)
        for decay in self.decays:
            alpha[0, decay.units] = decay.value
        traces = [Trace(d.value, d.error, 1.0 - d.value, d.error + self.rounding.roundoff) for d in self.decays]
        adaptation = None
        if layer.beta is not None and layer.tau_adapt is not None:
            rho, rho_error = self._rho(layer.tau_adapt)
            adaptation = Adaptation(rho, rho_error, self._ends(layer.beta))
        zero = torch.zeros_like(alpha)
        self.cells = Cells(
            rounding=self.rounding,
            units=self.units,
            traces=tuple(traces),
            alpha=alpha,
            alpha_error=max(d.error for d in self.decays),
            threshold=self._ends(layer.threshold),
            drop=None,
            dt=self.dt,
            value=None,
            start=(zero, zero),
            most=1,
            adaptation=adaptation,
            silent_steps=silent_steps if silent else None,
            delay=delay if silent else None,
            influence=zero[0] if self.weight_rec is None else self.weight_rec.magnitude.sum(1),
            key=0,
        )

    def circuit(self) -> Circuit:
        """The whole, with the weights that are there now."""
        one = len(self.decays) == 1

        def links(weight: Parameter) -> tuple[Link, ...]:
            if one:
                return (Link(0, None, slice(None), weight),)
            return tuple(Link(i, None, d.units, _columns(weight, d.units)) for i, d in enumerate(self.decays))

        blocks = () if self.weight_rec is None else (Connection(0, False, links(self.weight_rec)),)
        layer = CellLayer(self.cells, blocks, self.weight_in.factor)
        return Circuit(self.context, (layer,), Link(0, None, slice(None), self.weight_in))

    def _ends(self, parameter: Parameter) -> UnitConstant:
        theta = parameter.theta.reshape(1, -1).expand(1, self.units)
        roundoff, subnormal = self.rounding.roundoff, self.rounding.subnormal
        if parameter.factor == 0.0 and parameter.theta_error == 0.0:
            return UnitConstant(theta, theta)
        epsilon = self.context.epsilon(parameter.factor).reshape(-1, 1) if parameter.factor else theta.new_zeros(1, 1)
        radius = epsilon * parameter.unit_radius.reshape(1, -1)
        radius = (
            radius * (1.0 + 4.0 * roundoff)
            + (theta.abs() + radius) * (2.0 * roundoff + 2.0 * parameter.theta_error)
            + subnormal
        )
        return UnitConstant(theta - radius, theta + radius)

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

    def _rho(self, tau: Parameter) -> tuple[UnitConstant, float]:
        """ρ and its error beside its ends."""
        ends = self._ends(tau)
        if ends.exact:
            pairs = [decay(self.dt, value, self.rounding, tau.theta_error) for value in ends.lower[0].tolist()]
            value = ends.lower.new_tensor([[factor for factor, _ in pairs]])
            return UnitConstant(value, value), max(error for _, error in pairs)
        if float(ends.lower.min()) <= 0.0:
            raise InputError(f"a time constant's box reaches zero; the domain 'histories' cannot bound it, {INSTEAD}")
        out = []
        for side, t in ((-1.0, ends.lower), (1.0, ends.upper)):
            exponent = (self.dt / t.double()).clamp(max=LARGEST_EXPONENT)
            factor = torch.exp(-exponent)
            error = factor * (8.0 + 2.0 * exponent) * ROUNDOFF
            rounded = (factor + side * error).to(self.rounding.dtype)
            away = torch.full_like(rounded, side * math.inf)
            out.append(torch.nextafter(torch.nextafter(rounded, away), away).clamp(0.0, 1.0))
        return UnitConstant(*out), 0.0


def _columns(weight: Parameter, units: Tensor) -> Parameter:
    """Weights of some cells."""
    return weight.moved(lambda t: t[:, units])


def decay(dt: float, tau: float, rounding: Rounding, theta_error: float) -> tuple[float, float]:
    r""":math:`e^{-dt/\tau}` as a number of the bounds' dtype, and its absolute error; below 1 for positive τ alone."""
    if not (tau > 0.0 and dt > 0.0):
        raise InputError(f"a time constant is {tau}; it must be positive for the domain 'histories', or {INSTEAD}")
    exponent = dt / tau
    factor = math.exp(-exponent)
    held = float(torch.tensor(factor, dtype=rounding.dtype))
    # Where the exponential underflows to 0, ``roundoff`` is far more than it is.
    relative = (8.0 + 4.0 * exponent) * ROUNDOFF + 2.0 * theta_error * exponent if factor else 0.0
    return held, (factor * relative + rounding.roundoff) * SAFETY


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
        raise InputError("leaky_cells must return a LeakyCells, or a sequence of them for several layers")
    return tuple(says)


class LeakyPlan(CircuitPlan):
    """A network that says it is made of :class:`thetabox.models.LeakyCells`.

    Args:
        problem: of the network.
        steps: of its inputs.
    """

    def __init__(self, problem: Problem, steps: int) -> None:
        self.problem = problem
        # It also says what of the network the domain does not do.
        cells = self._cells(self._context(torch.zeros(1, dtype=torch.float64)))
        self.units, self.extra_steps = cells.units, cells.extra_steps
        self.readout = MeanCounts(cells, steps)

    def _context(self, values: Tensor) -> Context:
        return Context(RowEpsilons(values[None].to(self.problem.settings.device)), self.problem.settings.rounding)

    def _cells(self, context: Context) -> AdaptiveCells:
        return AdaptiveCells(self.problem, context)

    def circuit(self, context: Context) -> Circuit:
        return self._cells(context).circuit()

    def drives(self, x: Interval) -> list[Drive]:
        """W_in g for all time steps, the upper layers' last ones too."""
        rounding = self.problem.settings.rounding
        value = x.lower if x.is_point else (x.lower + x.upper) * 0.5
        cells = self._cells(self._context(torch.zeros(1, dtype=torch.float64)))
        weight = cells.weight_in
        relative = rounding.of_dot(len(weight.theta) + 8) + 4.0 * weight.theta_error
        shape = (len(value), value.shape[1] + cells.extra_steps, cells.units)
        centre, spread, size = (value.new_empty(shape) for _ in range(3))
        for decay in cells.decays:
            trace, traces = torch.zeros_like(value[:, 0]), []
            for x_t in [*value.unbind(1), *[torch.zeros_like(value[:, 0])] * cells.extra_steps]:
                trace = decay.value * trace + (1.0 - decay.value) * x_t
                traces.append(trace)
            g = torch.stack(traces, 1)
            columns = slice(None) if len(cells.decays) == 1 else decay.units
            centre[..., columns] = g @ weight.theta[:, columns]
            spread[..., columns] = (g.abs() @ weight.unit_radius[:, columns]) * (1.0 + 4.0 * relative)
            size[..., columns] = (g.abs() @ weight.magnitude[:, columns]) * (relative * (1.0 + 4.0 * relative))
        return [Drive(centre, spread, size)]


class MeanCounts(CircuitReadout):
    """Logits of mean spikes a step.

    Args:
        cells: with the readout's weights.
        steps: of time.
    """

    reads = (ReadoutQuantity(0, None),)

    def __init__(self, cells: AdaptiveCells, steps: int) -> None:
        self.weight, self.bias, self.steps, self.roundoff = (
            cells.weight_out,
            cells.bias_out,
            steps,
            cells.rounding.roundoff,
        )

    def _hidden(self, counts: Interval) -> Interval:
        """Whole numbers divided by one."""
        lower, upper = counts.lower / self.steps, counts.upper / self.steps
        hidden = Interval(lower, upper, slack=4.0 * self.roundoff, nonnegative=True)
        hidden.batch = 0
        return hidden

    def margins(self, context: Context, read: Interval, drive: Drive | None, labels: Tensor) -> Tensor:
        return row_margins(context, self._hidden(read), self.weight, self.bias, labels)[0]

    def logits(self, context: Context, read: Interval, drive: Drive | None) -> Interval:
        return linear(context, self._hidden(read), self.weight, self.bias).settled(context.rounding.roundoff)

    def losses(self, read: Tensor, drive: Drive | None, labels: Tensor) -> tuple[list[Loss], Tensor]:
        """What margins may lose, and margins on all T steps."""
        theta = self.weight.theta
        difference = theta[labels][:, None] - theta
        margin = torch.einsum("ru,rku->rk", read, difference)
        if self.bias is not None:
            bias = self.bias.theta
            margin = margin + self.steps * (bias[labels][:, None] - bias)
        return [Loss(self.reads[0], difference.abs().transpose(1, 2))], margin
