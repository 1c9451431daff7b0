"""Walks a graph with intervals for values and boxes for parameters; knows no operator and no model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

import torch

from thetabox.errors import InputError, OneEpsilonAtATime, UnsupportedOperator
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.overflow import nowhere_infinite
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter import rules  # noqa: F401  # fills the table
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.table import TABLE, Rule
from thetabox.verify.interpreter.whole import (
    check_numbers,
    check_operands,
    computed,
    constants,
    in_float32,
    within_range,
)
from thetabox.verify.network.graph import Graph, Layout, Operation, Ref, map_arg_refs
from thetabox.verify.network.kinds import Kind, is_whole, kinds
from thetabox.verify.network.operators import why_refused

Value = Interval | Parameter | Any
Observer = Callable[[Operation, tuple[Any, ...], Any], None]


def check_rules(graph: Graph) -> None:
    """Raise for the first operator that has no rule, or none for its arguments and types, by name and place."""
    types, known = kinds(graph), constants(graph)
    for operation in graph.operations:
        rule = TABLE.get(operation.operator)
        if operation.index in known:
            continue
        if rule is None:
            why = why_refused(operation.operator, operation.target)
            raise UnsupportedOperator(
                f"no rule for operator {operation.describe()}"
                + (f": it {why}" if why else "; replace it, or add a rule with thetabox.verify.rule")
            )
        unheard = rule.unheard(operation)
        if unheard is not None:
            raise UnsupportedOperator(f"{operation.describe()} has no rule for its argument {unheard!r}")
        kind = types[operation.index]
        if kind.result is not None and not (kind.whole or kind.result.is_floating_point):
            raise UnsupportedOperator(f"{operation.describe()} answers {kind.result}, which no rule speaks of")
        if kind.narrow and rule.types in ("real", "whole"):
            raise UnsupportedOperator(
                f"{operation.describe()} rounds to {kind.result} inside a network in {kind.network}, which has no "
                "rule; use float32 or float64"
            )


def evaluate(
    context: Context,
    graph: Graph,
    values: dict[int, Value],
    operations: Iterable[Operation] | None = None,
    *,
    observe: Observer | None = None,
    keep: bool = False,
    wanted: Collection[int] = (),
) -> dict[int, Value]:
    """Evaluate operations in order.

    Args:
        context: ε, rounding.
        graph: the traced module.
        values: position → value of inputs and tensors (and of what was evaluated before); written to.
        operations: a part of the graph's operations; all by default.
        observe: called with every operation, its operands and its result.
        keep: keep values that no later operation uses.
        wanted: values that are kept in any case, for operations that are evaluated afterwards.

    Returns:
        ``values``, with the results in it.
    """
    types = kinds(graph)
    for operation in graph.operations if operations is None else operations:
        context.operation, context.kind = operation, types[operation.index]
        try:
            args, result = _result(context, graph, operation, context.kind, values)
        except (InputError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if "can't allocate memory" in str(error):
                raise
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
            raise InputError(
                f"{operation.describe()}: its rule cannot bound it ({type(error).__name__}: {reason[:200]})"
            ) from error
        if keep or observe is not None or graph.readers[operation.index] != 1:
            _share(result)
        values[operation.index] = result
        if observe is not None:
            observe(operation, args, result)
        if not keep:
            for index in operation.inputs:
                if graph.last_use.get(index) == operation.index and index not in wanted:
                    values.pop(index, None)
    context.operation = context.kind = None
    return values


def _result(
    context: Context, graph: Graph, operation: Operation, kind: Kind, values: dict[int, Value]
) -> tuple[tuple[Any, ...], Any]:
    """Operands of one operation and what it returns, in the types that it has."""
    rounding = context.rounding
    if kind.rounded and not rounding.network:
        context.rounding = replace(rounding, arithmetic="float32")
    try:
        if operation.flat and not (kind.chosen or kind.from_wider):
            args = tuple([values[a.index] if isinstance(a, Ref) else a for a in operation.args])
            kwargs = operation.kwargs
        else:
            args, kwargs = (
                map_arg_refs(part, lambda ref: _operand(context, graph, values, ref))
                for part in (operation.args, operation.kwargs)
            )
        exact = computed(context, graph, operation, kind, values, _casts(operation)) if kind.constant else None
        return args, apply(context, operation, args, kwargs) if exact is None else exact
    finally:
        context.rounding = rounding


def _casts(operation: Operation) -> bool:
    return operation.operator in TABLE and TABLE[operation.operator].types == "casts"


def _operand(context: Context, graph: Graph, values: dict[int, Value], ref: Ref) -> Value:
    value = values[ref.index]
    if value is None:
        raise InputError(
            f"{context.where} reads an answer of {_maker(graph, ref)} that has no rule, such as a maximum's place"
        )
    if context.rounding.network and context.kind is not None and context.kind.from_wider:
        dtype = graph.dtypes.get(ref.index)
        if dtype is torch.float64 or (is_whole(dtype) and dtype is not torch.bool):
            return in_float32(context, value, whole=is_whole(dtype))
    return value


def _maker(graph: Graph, ref: Ref) -> str:
    """The operator that returned a value, seen through the choice of one of several results."""
    by_index = {o.index: o for o in graph.operations}
    maker = by_index.get(ref.index)
    while maker is not None and maker.operator == "getitem":
        maker = by_index.get(maker.inputs[0])
    return "an operator" if maker is None else maker.describe()


def _share(result: Any) -> None:
    """Several will read this: nobody may write over it."""
    for part in result if isinstance(result, tuple) else (result,):
        if isinstance(part, Interval):
            part.owned = False


def apply(context: Context, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One rule on operands prepared the way it asks for."""
    rule = TABLE.get(operation.operator)
    if rule is None:
        raise UnsupportedOperator(f"no rule for operator {operation.describe()}")
    intervals: list[Interval] = []
    if operation.flat:
        if not rule.parameters:
            args = tuple([context.interval(v) if isinstance(v, Parameter) else v for v in args])
        intervals += [v for v in args if isinstance(v, Interval)]
    else:
        if not rule.parameters:
            args, kwargs = _each((args, kwargs), lambda v: context.interval(v) if isinstance(v, Parameter) else v)
        _each((args, kwargs), lambda v: intervals.append(v) if isinstance(v, Interval) else None)
    by_row = any(v.by_row for v in intervals)
    if by_row and not rule.rows:
        layout = operation.layout
        if isinstance(layout, Layout) and layout.batch is not None:
            if rule.parameters and rule.types != "moves":
                # Weights have dimensions of their own, which do not broadcast against the result's.
                raise OneEpsilonAtATime(f"{context.where} reads weights that depend on ε and on no sample")
            args, kwargs = _align(context, layout, intervals, args, kwargs)
        else:
            result = _row_by_row(context, operation, rule, args, kwargs)
            return nowhere_infinite(result) if context.rounding.network else result
    elif (by_row or context.row_epsilon.per_sample > 1) and len(intervals) > 1:
        if rule.elementwise and isinstance(operation.layout, Layout):
            args, kwargs = _align(context, operation.layout, intervals, args, kwargs)
        elif len({context.rows(v) for v in intervals if v.batch is not None}) > 1:
            args = _each(args, lambda v: context.expanded(v) if isinstance(v, Interval) else v)
    if not rule.slack and any(v.slack for v in intervals):
        roundoff = context.rounding.roundoff
        args, kwargs = _each((args, kwargs), lambda v: v.settled(roundoff) if isinstance(v, Interval) else v)
    result = _labelled(_called(context, operation, rule, args, kwargs), operation.layout, intervals)
    if by_row and isinstance(result, Interval) and result.batch is None and not result.by_row:
        result = replace(result, by_row=True)
    return nowhere_infinite(result) if context.rounding.network else result


def _called(context: Context, operation: Operation, rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The rule's result, refused where it does not speak of numbers of the result's type."""
    kind = context.kind
    if kind is None or not kind.wraps:
        return rule(context, args, kwargs)
    if rule.elementwise and is_whole(kind.common):
        check_operands(context, operation, kind, args)
    if kind.whole and kind.result is not torch.bool and rule.types == "whole":
        check_numbers(operation, kind)
    result = rule(context, args, kwargs)
    if not kind.whole or rule.types == "moves" or not isinstance(result, Interval):
        return result
    if rule.types == "real":
        raise InputError(
            f"{operation.describe()} answers whole numbers ({kind.result}), of which its rule does not speak; turn its "
            "operands into a floating type first"
        )
    return within_range(context, operation, kind, result)


def _align(
    context: Context, layout: Layout, intervals: list[Interval], args: Any, kwargs: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    changed = iter(context.aligned(intervals, layout))
    return _each((args, kwargs), lambda v: next(changed) if isinstance(v, Interval) else v)


def _row_by_row(context: Context, operation: Operation, rule: Rule, args: Any, kwargs: Any) -> Any:
    """A value that depends on ε but on no sample: the rule once for every row."""

    def call(row: int) -> Any:
        def one(v: Any) -> Any:
            if not isinstance(v, Interval):
                return v
            if v.by_row:
                at = 0 if v.shape[0] == 1 else row
                v = replace(v.moved(lambda t: t[at]), by_row=False)
            return v if rule.slack else v.settled(context.rounding.roundoff)

        return _called(context, operation, rule, _each(args, one), _each(kwargs, one))

    results = [call(row) for row in range(context.row_epsilon.per_sample * context.row_epsilon.samples)]
    if not all(isinstance(r, Interval) for r in results):
        raise OneEpsilonAtATime(f"{operation.describe()} answers several values that depend on ε alone")
    lower = torch.stack([r.lower for r in results])
    upper = lower if all(r.is_point for r in results) else torch.stack([r.upper for r in results])
    slack = max(r.slack for r in results)
    return Interval(lower, upper, slack, nonnegative=all(r.nonnegative for r in results), by_row=True)


def _labelled(result: Any, layout: Layout | tuple[Layout | None, ...] | None, operands: list[Interval]) -> Any:
    """The result with the samples' dimension written on it."""
    if isinstance(result, (tuple, list)):
        layouts = layout if isinstance(layout, tuple) else (layout,) * len(result)
        return tuple(_labelled(r, part, operands) for r, part in zip(result, layouts, strict=False))
    if not (isinstance(result, Interval) and isinstance(layout, Layout)):
        return result
    if result.batch != layout.batch or result.merged != layout.merged:
        if any(result is v for v in operands):
            result = replace(result)
        result.batch, result.merged = layout.batch, layout.merged
    return result


def _each(tree: Any, function: Callable[[Any], Any]) -> Any:
    """Apply to every leaf of nested tuples, lists and dictionaries."""
    if isinstance(tree, (tuple, list)):
        return type(tree)(_each(t, function) for t in tree)
    if isinstance(tree, dict):
        return {k: _each(v, function) for k, v in tree.items()}
    return function(tree)
