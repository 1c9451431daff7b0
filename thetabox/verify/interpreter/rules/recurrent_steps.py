r"""One time step of the recurrent layers of torch, on intervals.

Every gate's argument is one long sum, :math:`W_x x_t + b_x + W_h h + b_h`, that torch's kernels form in many orders
(oneDNN adds the two biases first); so each part is charged the rounding of the whole. Behind the arguments a step is
exact up to rounding: the products and sums of an LSTM read each value once, and the mean of a GRU has its extremes at
vertices. What a box loses is how the units depend on each other.

Functions of oneDNN's LSTM kernel (binary32) were measured to lie within 5 units in the last place of the sigmoid and 2
of the hyperbolic tangent, those of torch within 3 and 1; eight are allowed for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import OneEpsilonAtATime
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.overflow import nowhere_infinite
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.activation import relu
from thetabox.verify.interpreter.rules.affine import Operand, affine
from thetabox.verify.interpreter.rules.elementwise import add, mul
from thetabox.verify.interpreter.rules.monotone import ULPS
from thetabox.verify.network.graph import Layout

State = tuple[Interval, ...]


@dataclass(frozen=True)
class RecurrentWeights:
    """Of one direction of one layer, or of a cell.

    Attributes:
        terms: numbers in the sum of a gate's argument.
    """

    input: Operand
    hidden: Operand
    input_bias: Operand = None
    hidden_bias: Operand = None
    projection: Operand = None

    @property
    def terms(self) -> int:
        return size_of(self.input)[-1] + size_of(self.hidden)[-1] + 2


def size_of(operand: Operand) -> torch.Size:
    """Shape of a weight, whether it is a parameter or computed from some."""
    assert operand is not None
    return operand.theta.shape if isinstance(operand, Parameter) else operand.shape


def interval(context: Context, operand: Operand) -> Interval:
    """A value, which a parameter may be where no sample has a part in it.

    Raises:
        OneEpsilonAtATime: it differs from row to row.
    """
    value = _boxed(context, operand)
    if value.by_row:
        raise OneEpsilonAtATime(f"{context.where} reads values that depend on ε alone")
    return value


def _boxed(context: Context, operand: Operand) -> Interval:
    assert operand is not None
    return context.interval(operand) if isinstance(operand, Parameter) else operand


# From the input's part of the arguments and the state to the next state, of which the first value is the output.
Step = Callable[[Context, Interval, State, RecurrentWeights], State]


def driven(context: Context, x: Interval, weights: RecurrentWeights) -> Interval:
    """The input's part of the arguments, :math:`W_x x + b_x`, of all time steps at once."""
    return _dense(context, x, weights.input, weights.input_bias, weights.terms)


def lstm(context: Context, drive: Interval, state: State, weights: RecurrentWeights) -> State:
    r"""Long short-term memory (Hochreiter and Schmidhuber, 1997; forget gates by Gers et al., 2000).

    With gates :math:`i, f, o = \sigma(\cdot)`, :math:`g = \tanh(\cdot)`, in torch's order i, f, g, o:

    .. math:: c' = f c + i g, \qquad h' = o \tanh c' \quad (\text{times } W_{hr} \text{ where the layer projects}).
    """
    h, c = state
    gates = _sum(context, drive, _recurrent(context, h, weights))
    i, f, g, o = _parts(gates, 4)
    i, f, o = (_sigmoid(context, gate) for gate in (i, f, o))
    c, f = same_rows(context, c, f)
    kept, new = mul(context, f, c), mul(context, i, _tanh(context, g))
    c = _kept(add(context, kept, new), gates.batch)
    # Below the number of steps, which is what its parts say, it mostly is by far.
    c.bound = None
    h = _kept(mul(context, o, _tanh(context, c)), gates.batch)
    if weights.projection is not None:
        h = _dense(context, h, weights.projection, None, size_of(weights.projection)[-1])
    return _bounded(context, h), c


def gru(context: Context, drive: Interval, state: State, weights: RecurrentWeights) -> State:
    r"""Gated recurrent unit (Cho et al., EMNLP 2014), with the reset gate behind the product as torch has it.

    With :math:`r, z = \sigma(\cdot)` in torch's order r, z, n:

    .. math:: n = \tanh(W_{xn} x + b_{xn} + r (W_{hn} h + b_{hn})), \qquad h' = (1 - z) n + z h.
    """
    h, drive, recurrent = same_rows(context, state[0], drive, _recurrent(context, state[0], weights))
    (r, z, n), (r_h, z_h, n_h) = _parts(drive, 3), _parts(recurrent, 3)
    r, z = _sigmoid(context, _sum(context, r, r_h)), _sigmoid(context, _sum(context, z, z_h))
    n = _tanh(context, _sum(context, n, _kept(mul(context, r, n_h), h.batch)))
    return (_kept(_bounded(context, _mean(context, z, n, h)), h.batch),)


def rnn_tanh(context: Context, drive: Interval, state: State, weights: RecurrentWeights) -> State:
    """``tanh(W_x x + b_x + W_h h + b_h)`` (Elman, Cognitive Science 14, 1990)."""
    out = _tanh(context, _sum(context, drive, _recurrent(context, state[0], weights)))
    return (_kept(out, out.batch),)


def rnn_relu(context: Context, drive: Interval, state: State, weights: RecurrentWeights) -> State:
    """``max(W_x x + b_x + W_h h + b_h, 0)``."""
    out = relu(context, _sum(context, drive, _recurrent(context, state[0], weights)))
    return (_kept(out, out.batch),)


def same_rows(context: Context, *values: Interval) -> Sequence[Interval]:
    """Values with as many rows: one a sample, or one for every ε as well where one of them has that."""
    batched = [v for v in values if v.batch is not None]
    if len({context.rows(v) for v in batched}) < 2:
        return values
    return [context.expanded(v) for v in values]


def _recurrent(context: Context, h: Interval, weights: RecurrentWeights) -> Interval:
    """The state's part of the arguments."""
    return _dense(context, h, weights.hidden, weights.hidden_bias, weights.terms)


def _dense(context: Context, x: Interval, weight: Operand, bias: Operand, terms: int) -> Interval:
    """``x Wᵀ + b``, the samples where they are in ``x``."""
    if x.batch is not None and isinstance(weight, Parameter) and isinstance(bias, Parameter | None):
        return replace(affine(context, x, weight, bias, F.linear, terms), batch=x.batch, merged=1)
    out = replace(affine(context, x, weight, None, F.linear, terms), batch=x.batch, merged=1)
    if bias is None:
        return out
    term = interval(context, bias) if out.batch is None else _boxed(context, bias)
    if out.batch is not None:
        sizes = tuple(None if dim == out.batch else size for dim, size in enumerate(out.shape))
        out, term = context.aligned([out, term], Layout(sizes, out.batch))
    magnitude = term.magnitude
    added = replace(add(context, out, term), batch=x.batch, merged=1)
    # The network may start its sum with the bias, which then errs like the whole sum.
    added.slack += context.rounding.of_dot(terms) * magnitude
    return added


def _sum(context: Context, a: Interval, b: Interval) -> Interval:
    """A gate's argument; what overflowed on the way to it says nothing of the gate."""
    a, b = same_rows(context, a, b)
    return _bounded(context, replace(add(context, a, b), batch=a.batch))


def _bounded(context: Context, value: Interval) -> Interval:
    """No number where a network in binary32 may have overflowed, so that nothing behind it is a number either."""
    checked: Interval = nowhere_infinite(value) if context.rounding.network else value
    return checked


def _parts(gates: Interval, count: int) -> list[Interval]:
    lower = gates.lower.chunk(count, -1)
    upper = lower if gates.is_point else gates.upper.chunk(count, -1)
    return [replace(gates, lower=low, upper=high, owned=False) for low, high in zip(lower, upper, strict=True)]


def _sigmoid(context: Context, a: Interval) -> Interval:
    """Between 0 and 1, which spares a look at the ends."""
    out = replace(a.map(torch.sigmoid), nonnegative=True, bound=1.0)
    out.slack = _slack(context, a.slack * 0.25)
    return out


def _tanh(context: Context, a: Interval) -> Interval:
    """Between -1 and 1."""
    out = replace(a.map(torch.tanh), bound=1.0)
    out.slack = _slack(context, a.slack)
    return out


def _slack(context: Context, slack: float) -> float:
    """Of a function between -1 and 1, with the error of the library that computes it."""
    return (slack + context.rounding.of_operation(ULPS) * (1.0 + slack) + context.rounding.flushed) * SAFETY


def _mean(context: Context, z: Interval, n: Interval, h: Interval) -> Interval:
    """``(1 - z) n + z h``: rises with n and h, as z is between 0 and 1, and is linear in z, so each end of z counts."""

    def ends(n: Tensor, h: Tensor, extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        step = h - n
        first = torch.addcmul(n, z.lower, step)
        return first if z.is_point else extreme(first, torch.addcmul(n, z.upper, step))

    magnitude = n.magnitude + h.magnitude
    lower = ends(n.lower, h.lower, torch.minimum)
    upper = lower if z.is_point and n.is_point and h.is_point else ends(n.upper, h.upper, torch.maximum)
    slack = (1.0 + 2.0 * z.slack) * max(n.slack, h.slack) + z.slack * magnitude
    # (1 - z) n + z h, n + z (h - n) and their fused forms round at most four times what is below the magnitude.
    slack += context.rounding.of_operation(6) * magnitude + 4.0 * context.rounding.subnormal
    slack = slack * SAFETY + context.rounding.beyond(magnitude)
    return Interval(lower, upper, slack, nonnegative=n.nonnegative and h.nonnegative)


def _kept(value: Interval, batch: int | None) -> Interval:
    """A state: read in the next step, and part of the result."""
    return replace(value, batch=batch, owned=False)
