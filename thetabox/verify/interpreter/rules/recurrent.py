"""Recurrent layers of torch and their cells, walked step by step.

One operator of the graph stands for all time steps, layers and directions. The input's part of every gate is one
product for all steps; the rest is a loop over :mod:`~thetabox.verify.interpreter.rules.recurrent_steps`. A weight is
read anew in each step, as if it could be off by another amount each time, which is sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules import recurrent_forms as forms
from thetabox.verify.interpreter.rules import recurrent_steps as steps
from thetabox.verify.interpreter.rules.affine import Operand
from thetabox.verify.interpreter.rules.recurrent_steps import (
    RecurrentWeights,
    State,
    Step,
    driven,
    interval,
    same_rows,
)
from thetabox.verify.interpreter.rules.table import rule


@rule("aten.lstm.input", parameters=True, slack=True)
def lstm(
    context: Context,
    x: Operand,
    hx: Sequence[Operand],
    params: Sequence[Operand],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Interval, ...]:
    """``nn.LSTM``: outputs of every step, the last h and the last c of every layer and direction."""
    _check_dropout(context, num_layers, dropout, train)
    return _layers(context, steps.lstm, x, hx, params, has_biases, bidirectional, batch_first)


def _one_state(step: Step):  # type: ignore[no-untyped-def]  # a rule, whose signature is read
    """The rule of a layer whose state is one value: outputs of every step and the last h."""

    def layers(
        context: Context,
        x: Operand,
        hx: Operand,
        params: Sequence[Operand],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Interval, ...]:
        _check_dropout(context, num_layers, dropout, train)
        return _layers(context, step, x, [hx], params, has_biases, bidirectional, batch_first)

    layers.__name__ = step.__name__
    layers.__doc__ = f"``nn.{_of_torch(step)}``: outputs of every step, the last h of every layer and direction."
    return layers


def _one_state_cell(step: Step):  # type: ignore[no-untyped-def]  # a rule, whose signature is read
    """The rule of one step of such a layer."""

    def cell(
        context: Context,
        x: Operand,
        hx: Operand,
        w_ih: Operand,
        w_hh: Operand,
        b_ih: Operand = None,
        b_hh: Operand = None,
    ) -> Interval:
        return _cell(context, step, x, [hx], RecurrentWeights(w_ih, w_hh, b_ih, b_hh))[0]

    cell.__name__ = f"{step.__name__}_cell"
    cell.__doc__ = f"``nn.{_of_torch(step)}Cell``: the next h."
    return cell


def _of_torch(step: Step) -> str:
    """The name of torch's module."""
    return step.__name__.split("_")[0].upper()


for _name, _step in (("gru", steps.gru), ("rnn_tanh", steps.rnn_tanh), ("rnn_relu", steps.rnn_relu)):
    rule(f"aten.{_name}.input", parameters=True, slack=True)(_one_state(_step))
    rule(f"aten.{_name}_cell.default", parameters=True, slack=True)(_one_state_cell(_step))


@rule("aten.lstm_cell.default", parameters=True, slack=True)
def lstm_cell(
    context: Context,
    x: Operand,
    hx: Sequence[Operand],
    w_ih: Operand,
    w_hh: Operand,
    b_ih: Operand = None,
    b_hh: Operand = None,
) -> State:
    """``nn.LSTMCell``: the next h and c."""
    return _cell(context, steps.lstm, x, hx, RecurrentWeights(w_ih, w_hh, b_ih, b_hh))


def _check_dropout(context: Context, layers: int, dropout: float, train: bool) -> None:
    if train and dropout and layers > 1:
        raise InputError(f"{context.where} drops values at random, as in training; call eval() on the layer")


def _layers(
    context: Context,
    step: Step,
    x: Operand,
    hx: Sequence[Operand],
    params: Sequence[Operand],
    has_biases: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Interval, ...]:
    """All layers, one after the other: outputs ``[T, N, D H]`` (``[N, T, D H]``), states ``[L D, N, H]`` each."""
    inputs = interval(context, x)
    initial = [interval(context, state) for state in hx]
    _check_samples(context, inputs, initial, batch_first)
    # Time first, from here on.
    if batch_first:
        inputs = _at(inputs.moved(lambda t: t.transpose(0, 1)), None if inputs.batch is None else 1)
    directions = 2 if bidirectional else 1
    weights = _weights(params, initial[0].shape[0], has_biases)
    last: list[State] = []
    few_layers, context.few_layers = context.few_layers, False  # each step is a layer
    try:
        for layer in range(0, len(weights), directions):
            ways = []
            for place in range(layer, layer + directions):
                context.part = 2 * place
                state = tuple(_at(s.moved(lambda t, at=place: t[at]), _before(s.batch)) for s in initial)  # type: ignore[misc]  # a default binds the loop's variable
                outputs, state = _walk(context, step, inputs, state, weights[place], backwards=place > layer)
                ways.append(outputs)
                last.append(state)
            inputs = ways[0] if directions == 1 else _joined(context, ways, lambda ts: torch.cat(ts, -1))
    finally:
        context.part, context.few_layers = 0, few_layers
    if batch_first:
        inputs = _at(inputs.moved(lambda t: t.transpose(0, 1)), _before(inputs.batch))
    return inputs, *(_stacked(context, states) for states in zip(*last, strict=True))


def _walk(
    context: Context, step: Step, x: Interval, state: State, weights: RecurrentWeights, *, backwards: bool
) -> tuple[Interval, State]:
    """One direction of one layer: its outputs ``[T, N, H]`` and its last state."""
    drive = driven(context, x, weights)
    context.part += 1
    lower = drive.lower.unbind(0)
    upper = lower if drive.is_point else drive.upper.unbind(0)
    batch = _before(drive.batch)
    times = range(len(lower))
    outputs: list[Interval] = []
    first = state
    for time in reversed(times) if backwards else times:
        now = replace(drive, lower=lower[time], upper=upper[time], owned=False, batch=batch)
        state = step(context, now, state, weights)
        outputs.append(state[0])
    if backwards:
        outputs.reverse()
    if context.correlated and not torch.is_grad_enabled():
        outputs, state = _narrowed(context, step, drive, first, weights, (outputs, state), backwards=backwards)
    return _stacked(context, outputs), state


def _narrowed(
    context: Context,
    step: Step,
    drive: Interval,
    first: State,
    weights: RecurrentWeights,
    boxes: tuple[list[Interval], State],
    *,
    backwards: bool,
) -> tuple[list[Interval], State]:
    """Outputs and last state within what affine forms say of them as well."""
    drive, *initial = same_rows(context, drive, *first)
    narrower = forms.walked(context, step.__name__, drive, tuple(initial), weights, backwards=backwards)
    if narrower is None:
        return boxes
    outputs, state = (
        [_within(context, box, ends) for box, ends in zip(each, narrow, strict=True)]
        for each, narrow in zip(boxes, narrower, strict=True)
    )
    return outputs, tuple(state)


def _within(context: Context, box: Interval, ends: tuple[Tensor, Tensor]) -> Interval:
    """The intersection; what is no number in one of them is known by the other alone."""
    box = box.settled(context.rounding.roundoff)
    if box.shape != ends[0].shape:
        box = context.expanded(box)
    lower, upper = torch.fmax(box.lower, ends[0]), torch.fmin(box.upper, ends[1])
    lower, upper = torch.where(box.lower.isnan(), box.lower, lower), torch.where(box.upper.isnan(), box.upper, upper)
    return replace(box, lower=lower, upper=upper, owned=False)


def _cell(context: Context, step: Step, x: Operand, hx: Sequence[Operand], weights: RecurrentWeights) -> State:
    """One step, of samples in the first dimension."""
    inputs, state = interval(context, x), tuple(interval(context, s) for s in hx)
    if any(v.batch not in (None, 0) or v.lower.dim() != 2 for v in (inputs, *state)):
        raise InputError(f"{context.where} reads values of another shape than [samples, features]")
    try:
        context.part = 1
        drive = driven(context, inputs, weights)
        context.part = 2
        return step(context, drive, state, weights)
    finally:
        context.part = 0


def _check_samples(context: Context, x: Interval, initial: Sequence[Interval], batch_first: bool) -> None:
    """Refuse a sequence whose steps are the samples.

    Raises:
        InputError: the layer takes the dimension of the samples for that of time.
    """
    place = 0 if batch_first else 1
    if x.batch not in (None, place):
        other = "batch_first=True" if x.batch == 0 else "batch_first=False"
        raise InputError(
            f"{context.where} mixes samples: it reads them as the steps of one sequence; give it "
            f"[samples, steps, features] with batch_first=True, or [steps, samples, features] without ({other} fits "
            "what it is given here)"
        )
    if x.merged != 1 or any(s.batch not in (None, 1) or s.merged != 1 for s in initial):
        raise InputError(f"{context.where} mixes samples: its samples share a dimension with something else")


def _weights(params: Sequence[Operand], count: int, has_biases: bool) -> list[RecurrentWeights]:
    """The weights of every layer and direction, in torch's order, from one flat list."""
    each = len(params) // count
    out = []
    for first in range(0, len(params), each):
        group = params[first : first + each]
        input_bias, hidden_bias = group[2:4] if has_biases else (None, None)
        projection = group[-1] if each == (5 if has_biases else 3) else None
        out.append(RecurrentWeights(group[0], group[1], input_bias, hidden_bias, projection))
    return out


def _stacked(context: Context, values: Sequence[Interval]) -> Interval:
    """Values of samples one upon the other, the samples behind."""
    return _joined(context, values, torch.stack, 1)


def _joined(context: Context, values: Sequence[Interval], join, moved: int = 0) -> Interval:  # type: ignore[no-untyped-def]  # torch.stack or cat
    values = same_rows(context, *values)
    lower: Tensor = join([v.lower for v in values])
    upper = lower if all(v.is_point for v in values) else join([v.upper for v in values])
    slack, bounds = max(v.slack for v in values), [v.bound for v in values]
    bound = max(b for b in bounds if b is not None) if bounds and None not in bounds else None
    batch = None if values[0].batch is None else values[0].batch + moved
    return Interval(lower, upper, slack, bound, all(v.nonnegative for v in values), batch=batch)


def _at(value: Interval, batch: int | None) -> Interval:
    return replace(value, batch=batch)


def _before(batch: int | None) -> int | None:
    return None if batch is None else batch - 1
