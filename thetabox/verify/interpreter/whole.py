"""Whole numbers and truth values: computed by torch where they are constant, else refused where they may wrap."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import EXACT, Parameter, stored
from thetabox.verify.interpreter.context import Context
from thetabox.verify.network.graph import Graph, Operation, Ref, map_arg_refs
from thetabox.verify.network.kinds import Kind, ends_of, is_whole, kinds

# More than the rounding of a few operations in float64.
ROOM = 2.0**-48


class _Inexact(Exception):
    """An operand is not known to the last bit."""


def constants(graph: Graph) -> set[int]:
    """Positions of whole numbers that follow from whole numbers of the module: torch computes them.

    Any function will do, and needs no rule, but for those that draw numbers or leave memory as they find it.
    """
    types = kinds(graph)
    known = {i for i in (*graph.tensors, *graph.constants) if is_whole(graph.dtypes.get(i))}
    for operation in graph.operations:
        drawn = torch.Tag.nondeterministic_seeded in getattr(operation.target, "tags", ())
        counted = operation.operator.startswith(("aten.arange.", "aten.tril_indices.", "aten.triu_indices."))
        function = not (drawn or "empty" in operation.operator) and bool(operation.inputs or counted)
        if function and types[operation.index].constant and known.issuperset(operation.inputs):
            known.add(operation.index)
    return known


def computed(
    context: Context, graph: Graph, operation: Operation, kind: Kind, values: dict[int, Any], casts: bool
) -> Parameter | None:
    """What torch itself returns where all operands are constants known to the last bit; ``None`` elsewhere.

    Args:
        context: for its rounding.
        graph: whose operation it is.
        operation: with a constant result, see :class:`~thetabox.verify.network.kinds.Kind`.
        kind: its types.
        values: of its operands.
        casts: the operator is a cast.
    """
    schema = getattr(operation.target, "_schema", None)
    if schema is None or schema.is_mutable:
        return None
    real = casts or kind.result is torch.bool

    def operand(ref: Ref) -> Tensor:
        return _exact(values[ref.index], graph.dtypes.get(ref.index), real=real)

    try:
        args, kwargs = (map_arg_refs(part, operand) for part in (operation.args, operation.kwargs))
    except _Inexact:
        return None
    if casts and kind.result is not None and isinstance(args[0], Tensor):
        _check_cast(operation, args[0], kind.result)
    if "device" in kwargs:
        kwargs = {**kwargs, "device": context.row_epsilon.values.device}
    result = operation.target(*args, **kwargs)
    assert isinstance(result, Tensor)
    return stored(operation.describe(), result, context.rounding)


def _exact(value: Any, dtype: torch.dtype | None, *, real: bool) -> Tensor:
    if not isinstance(value, Parameter) or value.factor or dtype is None:
        raise _Inexact
    if value.source is not None:
        return value.source
    if value.theta_error or not real or not dtype.is_floating_point:
        raise _Inexact
    return value.theta.detach().to(dtype)


def _check_cast(operation: Operation, values: Tensor, dtype: torch.dtype) -> None:
    """Real numbers beyond the range of whole ones become anything, on each processor something else."""
    if not values.is_floating_point() or dtype is torch.bool or not values.numel():
        return
    least, most = ends_of(dtype)
    low, high = float(values.min()), float(values.max())
    if not (least <= math.trunc(low) and math.trunc(high) <= most) if math.isfinite(low + high) else True:
        raise InputError(f"{operation.describe()} turns numbers beyond the range of {dtype} into {dtype}")


def fits(context: Context, value: Any, dtype: torch.dtype) -> bool:
    """Whether an operand keeps its value in the type in which the operator computes."""
    least, most = ends_of(dtype)
    if isinstance(value, Interval):
        if not value.lower.numel():
            return True
        value = value.settled(context.rounding.roundoff)
        return least <= float(value.lower.detach().amin()) and float(value.upper.detach().amax()) <= most
    return not isinstance(value, int | float) or least <= value <= most


def check_operands(context: Context, operation: Operation, kind: Kind, args: tuple[Any, ...]) -> None:
    """Refuse operands that an elementwise operator on whole numbers would first wrap into its type.

    Raises:
        InputError: one of them may lie beyond the type's range.
    """
    assert kind.common is not None
    least, most = ends_of(kind.common)
    for value, dtype in zip(args, kind.operands, strict=False):
        if dtype is kind.common:
            continue
        if is_whole(dtype) and dtype is not None:
            low, high = ends_of(dtype)
            if least <= low and high <= most:
                continue
        if not fits(context, value, kind.common):
            raise InputError(
                f"{operation.describe()} computes in {kind.common}, which may not hold one of its operands and would "
                "wrap; turn them into a wider type first"
            )


def check_numbers(operation: Operation, kind: Kind) -> None:
    """Refuse numbers of the graph that an operator on whole numbers would first cut off or wrap into its type.

    Raises:
        InputError: one of them is not a whole number of the type.
    """
    schema = getattr(operation.target, "_schema", None)
    assert kind.result is not None
    least, most = ends_of(kind.result)
    places = [] if schema is None else [a for a in schema.arguments if not a.kwarg_only]
    for argument, value in zip(places, operation.args, strict=False):
        if "number" not in str(argument.type).lower() or not isinstance(value, int | float):
            continue
        if not (float(value).is_integer() and least <= value <= most):
            raise InputError(
                f"{operation.describe()} turns {value} into {kind.result}, which holds no such number; turn its "
                "operands into a floating or wider type first"
            )


def within_range(context: Context, operation: Operation, kind: Kind, result: Interval) -> Interval:
    """A result of whole numbers: nothing but whole numbers, none of which wraps.

    Raises:
        InputError: one of them may.
    """
    assert kind.result is not None
    truth = kind.result is torch.bool
    if not result.lower.numel() or (truth and result.slack == 0.0 and result.bound == 1.0 and result.nonnegative):
        return result
    settled = result.settled(context.rounding.roundoff)
    lower = settled.lower.ceil()
    upper = lower if result.is_point and result.slack == 0.0 else settled.upper.floor()
    low, high = float(lower.detach().amin()), float(upper.detach().amax())
    least, most = ends_of(kind.result)
    if not (least <= low and high <= most):
        raise InputError(
            f"{operation.describe()} may leave the range of {kind.result} and wrap; compute in a wider type, or in a "
            "floating one"
        )
    exact = EXACT if context.dtype is torch.float64 and not context.rounding.network else 1 << 24
    if not max(-low, high) < exact:
        raise InputError(f"{operation.describe()} may reach whole numbers that the bounds cannot hold exactly")
    if torch.is_grad_enabled():
        return result
    if upper is not lower and torch.equal(lower, upper):
        upper = lower
    bound = 1.0 if truth else max(-low, high, 0.0)
    return replace(result, lower=lower, upper=upper, slack=0.0, bound=bound, nonnegative=low >= 0.0, owned=False)


def in_float32(context: Context, value: Any, *, whole: bool = False) -> Any:
    """An operand of more digits, as float32 holds it: rounding to the nearest is increasing."""
    if whole and isinstance(value, Interval) and value.slack == 0.0 and value.magnitude <= 1 << 24:
        return value
    if isinstance(value, Parameter):
        theta = value.theta.detach().double()
        rounded = theta.float().double() != theta
        if context.largest(value.factor) or value.theta_error:
            # Every point of the box is rounded, not the stored value alone.
            rounded = torch.ones_like(rounded)
        if not bool(rounded.any()):
            return value
        if _normal_in_float32(context, value, rounded):
            return replace(value, theta_error=value.theta_error + torch.finfo(torch.float32).eps, source=None)
        value = context.interval(value)
    if not isinstance(value, Interval):
        return value
    value = value.settled(context.rounding.roundoff)
    return replace(value.moved(lambda t: t.float().to(context.dtype)), bound=None)


def _normal_in_float32(context: Context, parameter: Parameter, rounded: Tensor) -> bool:
    """Whether the numbers ``rounded`` stay normal in float32, or zero, over the whole box: their error is relative."""
    theta = parameter.magnitude.detach().double()[rounded]
    unit_radius = parameter.unit_radius.detach().double()[rounded]
    radius = unit_radius * context.largest(parameter.factor) + (unit_radius + theta) * (parameter.theta_error + ROOM)
    least, most = theta - radius, theta + radius
    limits = torch.finfo(torch.float32)
    normal = (least >= limits.smallest_normal) & (most <= limits.max)
    return bool((normal | (most == 0.0)).all())
