"""Operators that only rearrange, select or copy values; a parameter stays a parameter."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.context import Context, Value
from thetabox.verify.interpreter.rules.literals import in_result, literal
from thetabox.verify.interpreter.rules.table import EVERYTHING, rule
from thetabox.verify.network.graph import BatchSize


def _moved(x: Value, function: Any) -> Value:
    return x.moved(function) if isinstance(x, Parameter) else replace(x.moved(function), batch=None)


@rule("aten.clone.default", "aten.alias.default", "aten.detach.default", "aten.contiguous.default",
      "aten.lift_fresh_copy.default", parameters=True, slack=True, types="moves")  # a list of operators  # fmt: skip
def same(context: Context, x: Value) -> Value:
    """A copy."""
    return x


@rule("aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default", parameters=True, slack=True,
      types="moves")  # a list of operators  # fmt: skip
def dropout(context: Context, x: Value, share: float, train: bool) -> Value:
    """A copy: dropout does nothing in evaluation mode."""
    if train and share:
        raise InputError(f"{context.where} drops values at random; only evaluation mode has a rule")
    return x


@rule("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default", "aten.flatten.using_ints",
      "aten.unflatten.int", "aten.expand.default", parameters=True, slack=True, types="moves",
      honours=EVERYTHING)  # a list of operators  # fmt: skip
def reshape(context: Context, x: Value, *args: Any, **kwargs: Any) -> Value:
    """A new shape, read from the trace, with as many rows as the value has."""
    layout = context.layout
    expanding = context.operation is not None and "expand" in context.operation.operator
    if isinstance(x, Parameter) and layout.batch is not None:
        x = context.aligned([context.interval(x)], layout)[0]
    rows = context.rows(x) if isinstance(x, Interval) and x.batch is not None else context.row_epsilon.samples
    sizes = layout.sizes(rows)
    if expanding:
        return _moved(x, lambda t: t.expand(sizes))
    return _moved(x, lambda t: t.reshape(sizes))


@rule("aten.permute.default", "aten.transpose.int", "aten.t.default", "aten.unsqueeze.default", "aten.squeeze.dim",
      "aten.squeeze.dims", "aten.squeeze.default", "aten.select.int", "aten.index_select.default",
      "aten.movedim.int", parameters=True, slack=True, types="moves",
      honours=EVERYTHING)  # a list of operators  # fmt: skip
def rearrange(context: Context, x: Value, *args: Any, **kwargs: Any) -> Value:
    """The operator itself on both ends."""
    assert context.operation is not None
    target, plain = context.operation.target, [constant_index(context, a) for a in args]
    if "squeeze" in context.operation.operator.split(".")[1] and "un" not in context.operation.operator:
        return _moved(x, lambda t: t.squeeze(_single(x, *plain)))
    return _moved(x, lambda t: target(t, *plain, **kwargs))


def _single(x: Value, dims: Any = None) -> list[int]:
    """Dimensions of one place that a squeeze takes away; never that of the samples, however few they are."""
    shape, batch = (x.theta.shape, None) if isinstance(x, Parameter) else (x.shape, x.batch)
    chosen = range(len(shape)) if dims is None else (dims if isinstance(dims, list | tuple) else [dims])
    return [d for d in sorted({d % max(len(shape), 1) for d in chosen}) if len(shape) and shape[d] == 1 and d != batch]


@rule("aten.pad.default", parameters=True, slack=True, types="moves")
def pad(context: Context, x: Value, sizes: list[int], mode: str = "constant", value: float | None = None) -> Value:
    """One number around, or the values next to it (``reflect``), at it (``replicate``) or opposite (``circular``)."""
    if mode == "constant":
        return padded(context, x, sizes, value or 0.0)
    rank = len(context.layout.shape)
    if isinstance(x, Interval) and x.batch is not None and x.batch >= rank - len(sizes) // 2:
        raise InputError(f"{context.where} pads samples with other samples")
    return _moved(x, lambda t: F.pad(t, sizes, mode=mode))


@rule("aten.constant_pad_nd.default", parameters=True, slack=True, types="moves")
def padded(context: Context, x: Value, sizes: list[int], value: float = 0.0) -> Value:
    """One number around."""
    value = in_result(context, value)
    if value and isinstance(x, Parameter):
        x = context.interval(x)
    moved = _moved(x, lambda t: F.pad(t, sizes, value=value))
    if isinstance(moved, Interval):
        slack = max(moved.slack, literal(context, value, (), moved.lower.device).slack)
        moved = replace(moved, nonnegative=moved.nonnegative and value >= 0, bound=None, slack=slack)
    return moved


@rule("aten.slice.Tensor", parameters=True, slack=True, types="moves")
def cut(context: Context, x: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    """A range of one dimension; over samples only the whole of it."""
    layout = context.layout
    samples = isinstance(x, Interval) and x.batch is not None
    if samples and dim % len(layout.shape) == x.batch:  # type: ignore[union-attr]  # an interval
        return x
    if (layout.batch is not None and not samples) or any(isinstance(v, BatchSize) for v in (start, end, step)):
        raise InputError(f"{context.where} cuts by the number of samples")
    return _moved(x, lambda t: torch.ops.aten.slice.Tensor(t, dim, start, end, step))


@rule("aten.index.Tensor", "aten._unsafe_index.Tensor", parameters=True, slack=True, types="moves")
def index(context: Context, x: Value, places: list[Any]) -> Value:
    """Entries at constant places."""
    where = [constant_index(context, p) for p in places]
    if isinstance(x, Interval) and x.batch is not None and x.batch < len(where) and where[x.batch] is not None:
        raise InputError(f"{context.where} picks samples")
    return _moved(x, lambda t: t[tuple(slice(None) if w is None else w for w in where)])


def constant_index(context: Context, value: Any) -> Any:
    """A constant tensor of indices, out of the box that holds it."""
    if isinstance(value, Parameter):
        if value.factor:
            raise InputError(f"{context.where} uses a perturbed parameter as an index")
        if value.source is not None:
            return value.source
    if isinstance(value, Interval | Parameter | BatchSize):
        raise InputError(f"{context.where} uses a computed value as an index")
    return value


@rule("aten.cat.default", slack=True, types="whole")
def cat(context: Context, parts: list[Interval], dim: int = 0) -> Interval:
    """Values one after another."""
    return _joined(parts, lambda ts: torch.cat(ts, dim))


@rule("aten.stack.default", slack=True, types="whole")
def stack(context: Context, parts: list[Interval], dim: int = 0) -> Interval:
    """Values side by side in a new dimension."""
    return _joined(parts, lambda ts: torch.stack(ts, dim))


def _joined(parts: list[Interval], join: Any) -> Interval:
    lower = join([p.lower for p in parts])
    upper = lower if all(p.is_point for p in parts) else join([p.upper for p in parts])
    return Interval(lower, upper, max(p.slack for p in parts), nonnegative=all(p.nonnegative for p in parts))


@rule("aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default", "aten.unbind.int",
      parameters=True, slack=True, types="moves", honours=EVERYTHING)  # a list of operators  # fmt: skip
def split(context: Context, x: Value, *args: Any) -> tuple[Value, ...]:
    """Values taken apart."""
    assert context.operation is not None
    target = context.operation.target
    if isinstance(x, Parameter):
        count = len(target(x.theta, *args))
        return tuple(x.moved(partial(_part, target, args, i)) for i in range(count))
    lower = target(x.lower, *args)
    upper = lower if x.is_point else target(x.upper, *args)
    return tuple(
        replace(x, lower=low, upper=high, batch=None, owned=False) for low, high in zip(lower, upper, strict=True)
    )


def _part(target: Any, args: tuple[Any, ...], place: int, t: Tensor) -> Tensor:
    part: Tensor = target(t, *args)[place]
    return part


@rule("getitem", parameters=True, slack=True, types="moves")
def getitem(context: Context, values: Any, place: int) -> Any:
    """One result of an operator that has several."""
    return values[place]
