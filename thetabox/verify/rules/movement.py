"""Operators that only rearrange, select or copy values; a parameter stays a parameter."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.context import Context
from thetabox.verify.graph import BatchSize, Layout
from thetabox.verify.interval import Interval
from thetabox.verify.parameter import Parameter
from thetabox.verify.rules.arithmetic import literal
from thetabox.verify.rules.table import rule

Value = Interval | Parameter


def _layout(context: Context) -> Layout:
    layout = None if context.operation is None else context.operation.layout
    assert isinstance(layout, Layout)
    return layout


def _moved(x: Value, function: Any) -> Value:
    return x.moved(function) if isinstance(x, Parameter) else replace(x.map(function), batch=None)


@rule("aten.clone.default", "aten.alias.default", "aten.detach.default", "aten.contiguous.default",
      "aten.lift_fresh_copy.default", "aten.dropout.default", "aten.feature_dropout.default",
      "aten.alpha_dropout.default", parameters=True, slack=True)  # a list of operators  # fmt: skip
def same(context: Context, x: Value, *args: Any, **kwargs: Any) -> Value:
    """A copy (dropout does nothing in evaluation mode)."""
    return x


@rule("aten._to_copy.default", "aten.to.dtype", "aten.to.device", "aten.to.dtype_layout", parameters=True, slack=True)
def cast(context: Context, x: Value, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Value:
    """A cast between floating types, or of a truth value; the real number stays what it is."""
    dtype = next((a for a in args if isinstance(a, torch.dtype)), dtype)
    if dtype in (None, torch.float32, torch.float64):
        return x
    truth = isinstance(x, Interval) and _is_truth(x)
    if not dtype.is_floating_point and not (truth and dtype in WHOLE):
        raise InputError(f"{context.where} turns real values into {dtype}, which has no rule")
    if dtype.is_floating_point and not truth:
        raise InputError(f"{context.where} rounds to {dtype}, which has no rule; use float32 or float64")
    return x


# Integers too narrow to count in, or without a sign, wrap around.
WHOLE = (torch.bool, torch.int32, torch.int64)


def _is_truth(x: Interval) -> bool:
    """Whether both ends are 0 or 1: then a cast to whole numbers changes nothing, whatever lies between."""
    if x.bound != 1.0 or x.slack != 0.0:
        return False
    return all(bool(((t == 0) | (t == 1)).all()) for t in ((x.lower,) if x.is_point else (x.lower, x.upper)))


@rule("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default", "aten.flatten.using_ints",
      "aten.unflatten.int", "aten.expand.default", parameters=True, slack=True)  # a list of operators  # fmt: skip
def reshape(context: Context, x: Value, *args: Any, **kwargs: Any) -> Value:
    """A new shape, read from the trace, with as many rows as the value has."""
    layout = _layout(context)
    expanding = "expand" in context.operation.operator  # type: ignore[union-attr]  # set by _layout
    if isinstance(x, Parameter) and layout.batch is not None:
        x = context.aligned([context.interval(x)], layout)[0]
    rows = context.rows(x) if isinstance(x, Interval) and x.batch is not None else context.sweep.samples
    sizes = layout.sizes(rows)
    if expanding:
        return _moved(x, lambda t: t.expand(sizes))
    return _moved(x, lambda t: t.reshape(sizes))


@rule("aten.permute.default", "aten.transpose.int", "aten.t.default", "aten.unsqueeze.default", "aten.squeeze.dim",
      "aten.squeeze.dims", "aten.squeeze.default", "aten.select.int", "aten.index_select.default",
      "aten.movedim.int", parameters=True, slack=True)  # a list of operators  # fmt: skip
def rearrange(context: Context, x: Value, *args: Any, **kwargs: Any) -> Value:
    """The operator itself on both ends."""
    assert context.operation is not None
    target, plain = context.operation.target, [_indices(context, a) for a in args]
    if context.operation.operator == "aten.squeeze.default" and isinstance(x, Interval) and x.batch is not None:
        dims = [d for d, size in enumerate(x.shape) if size == 1 and d != x.batch]
        return _moved(x, lambda t: t.squeeze(dims))
    return _moved(x, lambda t: target(t, *plain, **kwargs))


@rule("aten.pad.default", parameters=True, slack=True)
def pad(context: Context, x: Value, sizes: list[int], mode: str = "constant", value: float | None = None) -> Value:
    """One number around; other modes have no rule."""
    if mode != "constant":
        raise InputError(f"{context.where}: padding has a rule for mode 'constant', not {mode!r}")
    return padded(context, x, sizes, value or 0.0)


@rule("aten.constant_pad_nd.default", parameters=True, slack=True)
def padded(context: Context, x: Value, sizes: list[int], value: float = 0.0) -> Value:
    """One number around."""
    if value and isinstance(x, Parameter):
        x = context.interval(x)
    moved = _moved(x, lambda t: F.pad(t, sizes, value=value))
    if isinstance(moved, Interval):
        slack = max(moved.slack, literal(context, value, (), moved.lower.device).slack)
        moved = replace(moved, nonnegative=moved.nonnegative and value >= 0, bound=None, slack=slack)
    return moved


@rule("aten.slice.Tensor", parameters=True, slack=True)
def cut(context: Context, x: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    """A range of one dimension; over samples only the whole of it."""
    if isinstance(x, Interval) and x.batch is not None and dim % len(_layout(context).shape) == x.batch:
        return x
    whole = isinstance(end, BatchSize) or end is None
    return _moved(x, lambda t: torch.ops.aten.slice.Tensor(t, dim, start, None if whole else end, step))


@rule("aten.index.Tensor", parameters=True, slack=True)
def index(context: Context, x: Value, places: list[Any]) -> Value:
    """Entries at constant places."""
    where = [_indices(context, p) for p in places]
    if isinstance(x, Interval) and x.batch is not None and x.batch < len(where) and where[x.batch] is not None:
        raise InputError(f"{context.where} picks samples")
    return _moved(x, lambda t: t[tuple(slice(None) if w is None else w for w in where)])


def _indices(context: Context, value: Any) -> Any:
    """A constant tensor of indices, out of the box that holds it."""
    if isinstance(value, Parameter):
        if value.factor:
            raise InputError(f"{context.where} uses a perturbed parameter as an index")
        return value.theta.long()
    if isinstance(value, Interval):
        if not value.is_point or value.batch is not None:
            raise InputError(f"{context.where} uses a computed value as an index")
        return value.lower.long()
    return value


@rule("aten.cat.default", slack=True)
def cat(context: Context, parts: list[Interval], dim: int = 0) -> Interval:
    """Values one after another."""
    return _joined(parts, lambda ts: torch.cat(ts, dim))


@rule("aten.stack.default", slack=True)
def stack(context: Context, parts: list[Interval], dim: int = 0) -> Interval:
    """Values side by side in a new dimension."""
    return _joined(parts, lambda ts: torch.stack(ts, dim))


def _joined(parts: list[Interval], join: Any) -> Interval:
    lower = join([p.lower for p in parts])
    upper = lower if all(p.is_point for p in parts) else join([p.upper for p in parts])
    return Interval(lower, upper, max(p.slack for p in parts), nonnegative=all(p.nonnegative for p in parts))


@rule("aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default", "aten.unbind.int",
      parameters=True, slack=True)  # a list of operators  # fmt: skip
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


@rule("getitem", parameters=True, slack=True)
def getitem(context: Context, values: Any, place: int) -> Any:
    """One result of an operator that has several."""
    return values[place]


@rule("aten.sym_size.int", parameters=True, slack=True)
def batch_size(context: Context, x: Value, dim: int) -> BatchSize:
    """The number of samples: shapes are read from the trace instead."""
    return BatchSize()


@rule("mul", "add", "sub", "floordiv", "aten.sym_numel.default", "<built-in function mul>",
      "<built-in function add>", "<built-in function sub>", "<built-in function floordiv>", "<built-in function eq>",
      "<built-in function ge>", "<built-in function le>", parameters=True, slack=True)  # operators  # fmt: skip
def size_arithmetic(context: Context, *args: Any, **kwargs: Any) -> BatchSize:
    """Arithmetic on sizes, for shapes that are read from the trace."""
    return BatchSize()


@rule("aten.zeros.default", "aten.zeros_like.default", "aten.new_zeros.default", parameters=True, slack=True)
def zeros(context: Context, *args: Any, **kwargs: Any) -> Interval:
    """Zeros."""
    return _constant(context, 0.0)


@rule("aten.ones.default", "aten.ones_like.default", "aten.new_ones.default", parameters=True, slack=True)
def ones(context: Context, *args: Any, **kwargs: Any) -> Interval:
    """Ones."""
    return _constant(context, 1.0)


@rule("aten.full.default", "aten.full_like.default", "aten.new_full.default", parameters=True, slack=True)
def full(context: Context, like: Any, *args: Any, **kwargs: Any) -> Interval:
    """One number everywhere."""
    value = next((a for a in reversed(args) if isinstance(a, (int, float))), None)
    if value is None:
        raise InputError(f"{context.where} fills with a value that is not a number")
    return _constant(context, float(value))


@rule("aten.scalar_tensor.default", slack=True)
def scalar(context: Context, value: float, **kwargs: Any) -> Interval:
    """A number as a tensor."""
    return _constant(context, float(value))


@rule("aten.arange.default", "aten.arange.start", "aten.arange.start_step", slack=True)
def arange(context: Context, *args: Any, **kwargs: Any) -> Interval:
    """Whole numbers in order."""
    if _layout(context).batch is not None:
        raise InputError(f"{context.where} counts samples")
    out = Interval.point(torch.arange(*args, dtype=context.dtype, device=context.sweep.values.device))
    if not all(isinstance(a, int) for a in args) or out.magnitude >= 2.0**24:
        out.slack = 4 * context.rounding.of_operation() * out.magnitude
    return out


def _constant(context: Context, value: float) -> Interval:
    sizes = _layout(context).sizes(context.sweep.samples)
    return literal(context, value, sizes, context.sweep.values.device)
