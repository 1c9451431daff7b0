"""Operators that put values elsewhere, several times, or zeros between them; nothing is computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.context import Context, Value
from thetabox.verify.interpreter.rules.literals import literal
from thetabox.verify.interpreter.rules.table import EVERYTHING, rule
from thetabox.verify.network.graph import BatchSize, Operation, arguments
from thetabox.verify.network.kinds import is_whole

# Whole numbers up to here are themselves in every floating type of 32 digits and more.
EXACT_IN_FLOAT32 = 1 << 24

# Dimensions along which an operator on so many dimensions moves values, by its arguments.
Along = Callable[[int, dict[str, Any]], Iterable[int]]


def last(count: int) -> Along:
    """The last ``count`` dimensions."""
    return lambda rank, named: range(rank - count, rank)


def all_but_two(rank: int, named: dict[str, Any]) -> Iterable[int]:
    """Those of an image or volume behind samples and channels."""
    return range(2, rank)


def _dims(rank: int, named: dict[str, Any]) -> Iterable[int]:
    """Those that are named, or all."""
    return named["dims"] or range(rank)


def _repeated(rank: int, named: dict[str, Any]) -> Iterable[int]:
    repeats = named["repeats"]
    return [d - len(repeats) for d, count in enumerate(repeats) if count != 1 and len(repeats) - d <= rank]


def _repeated_each(rank: int, named: dict[str, Any]) -> Iterable[int]:
    return range(rank) if named["dim"] is None else [named["dim"]]


def _padded(rank: int, named: dict[str, Any]) -> Iterable[int]:
    return range(rank - len(named["padding"]) // 2, rank)


ONCE: dict[str, Along] = {
    "aten.flip.default": _dims,
    "aten.roll.default": _dims,
    "aten.tril.default": last(2),
    "aten.triu.default": last(2),
    "aten.diagonal.default": lambda rank, named: [named["dim1"], named["dim2"]],
    "aten.diagonal_copy.default": lambda rank, named: [named["dim1"], named["dim2"]],
    "aten.diag_embed.default": lambda rank, named: [],
    "aten.pixel_shuffle.default": last(3),
    "aten.pixel_unshuffle.default": last(3),
    "aten.channel_shuffle.default": lambda rank, named: [1],
    "aten.native_channel_shuffle.default": lambda rank, named: [1],
}
"""Operators that read each value at most once."""

OFTEN: dict[str, Along] = {
    "aten.repeat.default": _repeated,
    "aten.repeat_interleave.self_int": _repeated_each,
    "aten.unfold.default": lambda rank, named: [named["dimension"]],
    "aten.im2col.default": last(3),
    **{f"aten.{kind}_pad{n}d.default": _padded for kind in ("reflection", "replication") for n in (1, 2, 3)},
    "aten._pad_circular.default": lambda rank, named: range(rank - len(named["pad"]) // 2, rank),
}
"""Operators that may read a value several times."""


def check_apart(context: Context, x: Value, along: Along) -> None:
    """Refuse to move values from one sample to another.

    Raises:
        InputError: the samples lie in a dimension along which the operator moves.
    """
    assert context.operation is not None
    if isinstance(x, Interval) and x.batch is not None:
        rank = x.lower.dim()
        if x.batch in {d % rank for d in along(rank, arguments(context.operation))}:
            raise InputError(f"{context.where} mixes samples: it moves values from one to another")


@rule(*ONCE, *OFTEN, parameters=True, slack=True, types="moves", honours=EVERYTHING)
def rearranged(context: Context, x: Value, *args: Any, **kwargs: Any) -> Value:
    """Values elsewhere, or zeros: the operator itself on both ends."""
    operation = context.operation
    assert operation is not None
    check_apart(context, x, {**ONCE, **OFTEN}[operation.operator])
    if any(isinstance(v, Interval | Parameter | BatchSize) for v in [*_leaves(args), *kwargs.values()]):
        raise InputError(f"{context.where} moves values by a computed number")
    return moved(x, lambda t: operation.target(t, *args, **kwargs))


def moved(x: Value, function: Callable[[Tensor], Tensor]) -> Value:
    """Both ends under a function that only rearranges, selects or averages, labelled anew."""
    return x.moved(function) if isinstance(x, Parameter) else replace(x.moved(function), batch=None)


def _leaves(args: Iterable[Any]) -> list[Any]:
    return [v for a in args for v in (a if isinstance(a, list | tuple) else [a])]


@rule("aten.gather.default", parameters=True, slack=True, types="moves", honours=("sparse_grad",))
def gather(context: Context, x: Value, dim: int, index: Value) -> Value:
    """Entries at constant places, which each sample may hold a copy of."""
    place = constant_positions(context, index)
    if isinstance(x, Parameter) and isinstance(index, Interval) and index.batch is not None:
        x = context.interval(x)
    if isinstance(x, Interval) and x.by_row:
        raise InputError(f"{context.where} picks entries of a value that depends on ε for each sample")
    if isinstance(x, Interval) and x.batch is not None and x.batch == dim % x.lower.dim():
        raise InputError(f"{context.where} picks samples")
    return moved(x, lambda t: t.gather(dim, place))


def constant_positions(context: Context, index: Value) -> Tensor:
    """A tensor of indices that is known to the last bit.

    Raises:
        InputError: it is computed from values that may move.
    """
    if isinstance(index, Parameter) and not index.factor and index.source is not None:
        return index.source
    if isinstance(index, Interval) and index.is_point and index.slack == 0.0 and not index.by_row:
        return index.lower.detach().long()
    raise InputError(f"{context.where} uses a computed value as an index")


@rule("aten.select_scatter.default", "aten.slice_scatter.default", slack=True, types="moves", honours=EVERYTHING)
def written(context: Context, x: Interval, part: Interval, *args: Any, **kwargs: Any) -> Interval:
    """Values of which a part is written over (``x[:, 0] = part``)."""
    operation = context.operation
    assert operation is not None
    named = arguments(operation)
    dim = named["dim"] % x.lower.dim()
    if dim in (x.batch, part.batch if "slice" in operation.operator else x.batch):
        if not _is_whole(operation):
            raise InputError(f"{context.where} writes to some of the samples")
        return part
    ends = [operation.target(a, b, *args, **kwargs) for a, b in ((x.lower, part.lower), (x.upper, part.upper))]
    lower, upper = ends
    point = x.is_point and part.is_point
    slack, nonnegative = max(x.slack, part.slack), x.nonnegative and part.nonnegative
    return Interval(lower, lower if point else upper, slack, nonnegative=nonnegative)


def _is_whole(operation: Operation) -> bool:
    """Whether a slice leaves nothing out."""
    named = arguments(operation)
    return (named.get("start") or 0, named.get("step", 0)) == (0, 1) and named.get("end") in (None, (1 << 63) - 1)


@rule("aten.fill.Scalar", types="moves")
def filled(context: Context, x: Interval, value: int | float) -> Interval:
    """One number in the shape of the value."""
    if context.kind is not None and context.kind.whole:
        raise InputError(f"{context.where} fills whole numbers, which has no rule; use torch.full")
    return replace(literal(context, value, x.lower.shape, x.lower.device), batch=None)


@rule("aten.copy.default", "aten.fill.Tensor", slack=True, types="moves", honours=("non_blocking",))
def copied(context: Context, x: Interval, source: Interval) -> Interval:
    """The numbers of the second value in the shape of the first (``x[:, 0] = 1.0`` writes so)."""
    types = [] if context.kind is None else [t for t in context.kind.operands[:2] if t is not None]
    held = (
        len(types) == 2 and types[0].is_floating_point and is_whole(types[1]) and source.magnitude <= EXACT_IN_FLOAT32
    )
    if len(set(types)) > 1 and not held:
        raise InputError(f"{context.where} turns values into another type, which has no rule here; cast them before")
    lower = source.lower.expand(x.lower.shape)
    upper = lower if source.is_point else source.upper.expand(x.lower.shape)
    return replace(source, lower=lower, upper=upper, batch=None, owned=False)


@rule("aten.sort.default", "aten.sort.stable", "aten.topk.default", "aten.kthvalue.default", "aten.median.dim",
      "aten.cummax.default", "aten.cummin.default", slack=True, types="moves",
      honours=EVERYTHING)  # a list of operators  # fmt: skip
def ordered(context: Context, x: Interval, *args: Any, **kwargs: Any) -> tuple[Interval, None]:
    """The values in order, the largest ones or one of a rank, exact; their places have no rule."""
    operation = context.operation
    assert operation is not None
    if x.batch is not None and x.batch == arguments(operation)["dim"] % x.lower.dim():
        raise InputError(f"{context.where} mixes samples")
    if not arguments(operation).get("sorted", True):
        raise InputError(f"{context.where} leaves the order open; use sorted=True")
    dim = arguments(operation)["dim"]

    def in_order(t: Tensor) -> Tensor:
        # Torch's median of an expanded tensor is memory that nothing was written to.
        values: Tensor = operation.target(t.contiguous(), *args, **kwargs)[0]
        # Torch puts what is no number last; it stands for a number that may belong anywhere.
        unknown = t.isnan()
        if not bool(unknown.any()):
            return values
        unknown = unknown.any(dim, keepdim=values.dim() == t.dim()) if t.dim() else unknown
        return values.masked_fill(unknown, math.nan)

    out = moved(x, in_order)
    assert isinstance(out, Interval)
    return out, None
