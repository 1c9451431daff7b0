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
from thetabox.verify.arithmetic.parameter import EXACT, Parameter, stored
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.compare import nonzero
from thetabox.verify.interpreter.rules.elementwise import literal, number
from thetabox.verify.interpreter.rules.table import EVERYTHING, rule
from thetabox.verify.network.graph import BatchSize, Layout
from thetabox.verify.network.kinds import ends_of, is_whole

Value = Interval | Parameter


def _layout(context: Context) -> Layout:
    layout = None if context.operation is None else context.operation.layout
    assert isinstance(layout, Layout)
    return layout


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


@rule("aten._to_copy.default", "aten.to.dtype", "aten.to.device", "aten.to.dtype_layout", parameters=True, slack=True,
      types="casts", honours=EVERYTHING)  # a list of operators  # fmt: skip
def cast(context: Context, x: Value, *args: Any, **kwargs: Any) -> Value:
    """A cast between floating types, or of whole numbers; the real number stays what it is."""
    if context.kind is None or context.kind.result is None:
        return x
    return in_type(context, x, context.kind.operands[0], context.kind.result)


def in_type(context: Context, x: Value, source: torch.dtype | None, target: torch.dtype) -> Value:
    """A value in another type.

    Raises:
        InputError: a real number that is not known to be whole would become a whole one, or be rounded to fewer digits
            than float32 has.
    """
    if target is source:
        return x
    network = None if context.kind is None else context.kind.network
    if target.is_floating_point:
        # A type of so few digits holds every whole number up to this.
        narrow = target.itemsize < 4 and target is not network
        if narrow and not (is_whole(source) and _size(context, x) <= 2.0 / torch.finfo(target).eps):
            raise InputError(f"{context.where} rounds to {target}, which has no rule; use float32 or float64")
        return replace(x, source=None) if isinstance(x, Parameter) else x
    if is_whole(source):
        x = context.interval(x) if isinstance(x, Parameter) else x
        if target is torch.bool:
            return nonzero(context, x)
        return replace(x, owned=False)
    constant = not x.factor if isinstance(x, Parameter) else x.batch is None and not x.by_row
    if constant and target is torch.bool:
        return nonzero(context, context.interval(x) if isinstance(x, Parameter) else x)
    truncated = _truncated(context, x, target) if constant else _whole(context, x, target)
    if truncated is None:
        raise InputError(f"{context.where} turns real values into {target}, which has no rule")
    return truncated


def _size(context: Context, x: Value) -> float:
    return (context.interval(x) if isinstance(x, Parameter) else x).magnitude


def _whole(context: Context, x: Value, target: torch.dtype) -> Interval | None:
    """Whole numbers that a sample is given as real ones, such as places of an embedding; ``None`` for others."""
    if not isinstance(x, Interval) or not (x.is_point and x.slack == 0.0) or target is torch.bool:
        return None
    least, most = ends_of(target)
    inside = x.magnitude < min(EXACT, most) and (least < 0 or bool((x.lower >= 0).all()))
    return replace(x, owned=False) if inside and torch.equal(x.lower, x.lower.trunc()) else None


def _truncated(context: Context, x: Value, target: torch.dtype) -> Parameter | None:
    """Whole numbers that real ones certainly become; ``None`` where that is open."""
    x = (context.interval(x) if isinstance(x, Parameter) else x).settled(context.rounding.own)
    low, high = x.lower.double().trunc(), x.upper.double().trunc()
    least, most = ends_of(target)
    if target is torch.bool or not torch.equal(low, high) or not low.numel():
        return None
    if not (max(least, -EXACT) < float(low.min()) + 1 and float(low.max()) - 1 < min(most, EXACT)):
        return None
    return stored(context.where, low.to(target), context.rounding)


@rule("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default", "aten.flatten.using_ints",
      "aten.unflatten.int", "aten.expand.default", parameters=True, slack=True, types="moves",
      honours=EVERYTHING)  # a list of operators  # fmt: skip
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
    rank = len(_layout(context).shape)
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
    layout = _layout(context)
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


@rule("aten.sym_size.int", parameters=True, slack=True, types="moves")
def batch_size(context: Context, x: Value, dim: int) -> BatchSize:
    """The number of samples: shapes are read from the trace instead."""
    return BatchSize()


@rule("mul", "add", "sub", "floordiv", "aten.sym_numel.default", "<built-in function mul>",
      "<built-in function add>", "<built-in function sub>", "<built-in function floordiv>", "<built-in function eq>",
      "<built-in function ge>", "<built-in function le>", parameters=True, slack=True, types="moves",
      honours=EVERYTHING)  # operators  # fmt: skip
def size_arithmetic(context: Context, *args: Any, **kwargs: Any) -> BatchSize:
    """Arithmetic on sizes, for shapes that are read from the trace."""
    return BatchSize()


@rule("aten.zeros.default", "aten.zeros_like.default", "aten.new_zeros.default", parameters=True, slack=True,
      types="moves", honours=("self", "size", "dtype"))  # a list of operators  # fmt: skip
def zeros(context: Context, *args: Any, **kwargs: Any) -> Interval:
    """Zeros."""
    return _constant(context, 0.0)


@rule("aten.ones.default", "aten.ones_like.default", "aten.new_ones.default", parameters=True, slack=True,
      types="moves", honours=("self", "size", "dtype"))  # a list of operators  # fmt: skip
def ones(context: Context, *args: Any, **kwargs: Any) -> Interval:
    """Ones."""
    return _constant(context, 1.0)


@rule("aten.full.default", "aten.full_like.default", parameters=True, slack=True, types="moves", honours=("dtype",))
def full(context: Context, like: Any, value: Any, **kwargs: Any) -> Interval:
    """One number everywhere."""
    return _constant(context, value)


@rule("aten.new_full.default", parameters=True, slack=True, types="moves", honours=("dtype",))
def new_full(context: Context, like: Any, size: Any, value: Any, **kwargs: Any) -> Interval:
    """One number everywhere."""
    return _constant(context, value)


@rule("aten.scalar_tensor.default", slack=True, types="moves", honours=("dtype",))
def scalar(context: Context, value: Any, **kwargs: Any) -> Interval:
    """A number as a tensor."""
    return _constant(context, value)


@rule("aten.arange.default", "aten.arange.start", "aten.arange.start_step", slack=True,
      honours=("start", "end", "step", "dtype"))  # a list of operators  # fmt: skip
def arange(context: Context, *args: Any, **kwargs: Any) -> Interval:
    """Numbers in order."""
    if _layout(context).batch is not None:
        raise InputError(f"{context.where} counts samples")
    out = Interval.point(torch.arange(*args, dtype=context.dtype, device=context.sweep.values.device))
    if not all(isinstance(a, int) for a in args) or out.magnitude >= 2.0**24:
        out.slack = 4 * context.rounding.of_operation() * out.magnitude
    return out


def _constant(context: Context, value: Any) -> Interval:
    sizes = _layout(context).sizes(context.sweep.samples)
    return literal(context, in_result(context, value), sizes, context.sweep.values.device)


def in_result(context: Context, value: Any) -> float:
    """A number of the graph as a tensor of the result's type holds it, if that is no wide floating type."""
    exact = number(context, value)
    result = None if context.kind is None else context.kind.result
    if result is None or (result.is_floating_point and result.itemsize >= 4):
        return exact
    return float(torch.full((), value, dtype=result).item())
