"""A recurrent network over its steps: one step's graph, walked once a time step.

What depends on parameters alone is evaluated once; what depends on the input but on no state, once for several time
steps together, so that the products of the input layer serve every step and every ε.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.tensors import Tensors
from thetabox.verify.interpreter.walk import Observer, Value, evaluate
from thetabox.verify.interval.final import Final, StepObserver, finish
from thetabox.verify.interval.outputs import Outputs
from thetabox.verify.interval.saturation import Remaining
from thetabox.verify.network.feedforward import largest_of
from thetabox.verify.network.recurrent import RecurrentNetwork

# Bytes of the input's drive that are computed at once.
DRIVE_BYTES = 4 << 20

# After this many steps a state's magnitude is measured instead of propagated.
MEASURE_EVERY = 8


def run_recurrent(
    network: RecurrentNetwork, context: Context, tensors: Tensors, x: Interval, observe: StepObserver | None = None
) -> Final:
    """Evaluate all time steps, and the readout up to the last layer."""
    step, steps = network.step, network.steps
    results = pytree.tree_leaves(step.output)
    state = _initial_state(network, context, tensors, x)
    fixed = evaluate(context, step, tensors.of(step), network.fixed, keep=True)
    fixed = {i: _signed(v) for i, v in fixed.items()}
    outputs = Outputs(steps, network.averaging)
    remaining = Remaining(context, steps, truths=network.saturates and observe is None)
    block = _block(network, context)
    for time in range(steps):
        if time % block == 0:
            context.time = time
            drive = _drive(network, context, tensors, x.moved(partial(_steps, first=time, count=block)))
        if remaining.leaves_some(time):
            outputs.lose(remaining.rows_of(remaining.left), steps - time)
            state, fixed = [remaining.stayed(s) for s in state], _each(fixed, remaining.stayed)
        if remaining.none_left:
            break
        remaining.context.time = time
        values = fixed | _each(drive[time % block], remaining.of_all)
        values.update(zip(step.inputs[1:], state, strict=True))
        evaluate(remaining.context, step, values, network.moving, observe=_at(time, observe))
        output, *state = (_interval(remaining.context, values[r.index]) for r in results)
        output = remaining.context.expanded(output)
        outputs.add(output, remaining.rows)
        remaining.note(output, time)
        if time % MEASURE_EVERY == MEASURE_EVERY - 1:
            state = [replace(s, bound=None) for s in state]
    remaining.remember()
    values = tensors.of(network.main)
    place, value = outputs.value(context)
    values[network.main.inputs[0] if place is None else place] = value
    return finish(network, context, values, observe, steps - 1)


def _initial_state(network: RecurrentNetwork, context: Context, tensors: Tensors, x: Interval) -> list[Interval]:
    initial = network.initial
    values = tensors.of(initial)
    values[initial.inputs[0]] = replace(x.moved(lambda t: t[:, 0]), bound=None)
    evaluate(context, initial, values)
    return [_interval(context, values[r.index]) for r in pytree.tree_leaves(initial.output)]


def _at(time: int, observe: StepObserver | None) -> Observer | None:
    return None if observe is None else lambda operation, args, result: observe(time, operation, args, result)


def _block(network: RecurrentNetwork, context: Context) -> int:
    """Time steps whose drive is computed together: long enough for the products, short enough for the cache."""
    width = largest_of(network.step) * context.row_epsilon.values.numel() * torch.finfo(context.dtype).bits // 8
    return max(1, min(network.steps, DRIVE_BYTES // width))


def _drive(network: RecurrentNetwork, context: Context, tensors: Tensors, x: Interval) -> list[dict[int, Value]]:
    """Everything that depends on the input alone, a dictionary a time step: rows ``[E, T, N]`` while computed."""
    steps = x.shape[1]
    everywhere = Context(context.row_epsilon.repeated(steps), context.rounding, memo=context.memo, time=context.time)
    values = tensors.of(network.step)
    values[network.step.inputs[0]] = x.moved(lambda t: t.transpose(0, 1).flatten(0, 1))
    evaluate(everywhere, network.step, values, network.driven, keep=True)
    apart = [_unstacked(_interval(context, values[i]), steps, context.row_epsilon.samples) for i in network.drive]
    return [{i: step[t] for i, step in zip(network.drive, apart, strict=True)} for t in range(steps)]


def _interval(context: Context, value: Value) -> Interval:
    if isinstance(value, Parameter):
        value = context.interval(value)
    assert isinstance(value, Interval)
    value.owned = False  # a state is also an output, and read again in the next step
    return value


def _each(values: dict[int, Value], part: Callable[[Interval], Interval]) -> dict[int, Value]:
    return {i: part(v) if isinstance(v, Interval) else v for i, v in values.items()}


def _steps(t: Tensor, first: int, count: int) -> Tensor:
    return t[:, first : first + count]


def _signed(value: Value) -> Value:
    """A value that every step multiplies by: whether it is at least 0 is worth a look."""
    if not isinstance(value, Interval) or value.nonnegative or value.lower.numel() == 0:
        return value
    return replace(value, nonnegative=bool(value.lower.detach().amin() >= value.slack))


def _unstacked(v: Interval, steps: int, samples: int) -> list[Interval]:
    """The time steps of a value computed for several of them."""
    assert v.batch is not None
    dim = v.batch

    def parts(t: Tensor) -> list[Tensor]:
        unbound = t.unflatten(dim, (-1, steps, samples * v.merged)).unbind(dim + 1)
        return [part.flatten(dim, dim + 1) for part in unbound]

    lower = parts(v.lower)
    upper = lower if v.is_point else parts(v.upper)
    return [replace(v, lower=low, upper=high) for low, high in zip(lower, upper, strict=True)]
