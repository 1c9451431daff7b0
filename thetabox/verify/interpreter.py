"""Walks a graph with intervals for values and boxes for parameters; knows no operator and no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from thetabox.errors import OneEpsilonAtATime, UnsupportedOperator
from thetabox.verify import rules  # noqa: F401  # fills the table
from thetabox.verify.context import Context
from thetabox.verify.graph import BatchSize, Graph, Layout, Operation, Ref, map_arg_refs
from thetabox.verify.interval import Interval
from thetabox.verify.parameter import Parameter
from thetabox.verify.rules.table import TABLE, Rule

Value = Interval | Parameter | Any
Observer = Callable[[Operation, tuple[Any, ...], Any], None]


def check_rules(graph: Graph) -> None:
    """Raise for the first operator that has no rule, by name and place."""
    for operation in graph.operations:
        if operation.operator not in TABLE:
            raise UnsupportedOperator(
                f"no rule for operator {operation.describe()}; replace it, or add a rule with thetabox.verify.rule"
            )


def evaluate(
    context: Context,
    graph: Graph,
    values: dict[int, Value],
    operations: Iterable[Operation] | None = None,
    *,
    observe: Observer | None = None,
    keep: bool = False,
) -> dict[int, Value]:
    """Evaluate operations in order.

    Args:
        context: ε, rounding.
        graph: the traced module.
        values: position → value of inputs and tensors (and of what was evaluated before); written to.
        operations: a part of the graph's operations; all by default.
        observe: called with every operation, its operands and its result.
        keep: keep values that no later operation uses.

    Returns:
        ``values``, with the results in it.
    """
    for operation in graph.operations if operations is None else operations:
        if operation.flat:
            args = tuple([values[a.index] if isinstance(a, Ref) else a for a in operation.args])
            kwargs = operation.kwargs
        else:
            args = map_arg_refs(operation.args, lambda ref: values[ref.index])
            kwargs = map_arg_refs(operation.kwargs, lambda ref: values[ref.index])
        context.operation = operation
        result = apply(context, operation, args, kwargs)
        if keep or observe is not None or graph.readers[operation.index] != 1:
            _share(result)
        values[operation.index] = result
        if observe is not None:
            observe(operation, args, result)
        if not keep:
            for index in operation.inputs:
                if graph.last_use.get(index) == operation.index:
                    values.pop(index, None)
    context.operation = None
    return values


def _share(result: Any) -> None:
    """Several will read this: nobody may write over it."""
    for part in result if isinstance(result, tuple) else (result,):
        if isinstance(part, Interval):
            part.owned = False


def apply(context: Context, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One rule on operands prepared the way it asks for."""
    found = TABLE.get(operation.operator)
    if found is None:
        raise UnsupportedOperator(f"no rule for operator {operation.describe()}")
    intervals: list[Interval] = []
    if operation.flat:
        if not found.parameters:
            args = tuple([context.interval(v) if isinstance(v, Parameter) else v for v in args])
        intervals += [v for v in args if isinstance(v, Interval)]
    else:
        if not found.parameters:
            args, kwargs = _each((args, kwargs), lambda v: context.interval(v) if isinstance(v, Parameter) else v)
        _each((args, kwargs), lambda v: intervals.append(v) if isinstance(v, Interval) else None)
    by_row = any(v.by_row for v in intervals)
    if by_row and not found.rows:
        layout = operation.layout
        if isinstance(layout, Layout) and layout.batch is not None:
            args, kwargs = _align(context, layout, intervals, args, kwargs)
        else:
            return _row_by_row(context, operation, found, args, kwargs)
    elif (by_row or context.sweep.sweeps > 1) and len(intervals) > 1:
        if found.elementwise and isinstance(operation.layout, Layout):
            args, kwargs = _align(context, operation.layout, intervals, args, kwargs)
        elif len({context.rows(v) for v in intervals if v.batch is not None}) > 1:
            args = _each(args, lambda v: context.expanded(v) if isinstance(v, Interval) else v)
    if not found.slack and any(v.slack for v in intervals):
        own = context.rounding.own
        args, kwargs = _each((args, kwargs), lambda v: v.settled(own) if isinstance(v, Interval) else v)
    result = _labelled(found.function(context, *args, **kwargs), operation.layout, intervals)
    if by_row and isinstance(result, Interval) and result.batch is None and not result.by_row:
        result = replace(result, by_row=True)
    return result


def _align(
    context: Context, layout: Layout, intervals: list[Interval], args: Any, kwargs: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    changed = iter(context.aligned(intervals, layout))
    return _each((args, kwargs), lambda v: next(changed) if isinstance(v, Interval) else v)


def _row_by_row(context: Context, operation: Operation, found: Rule, args: Any, kwargs: Any) -> Any:
    """A value that depends on ε but on no sample: the rule once for every row."""

    def call(row: int) -> Any:
        def one(v: Any) -> Any:
            if not isinstance(v, Interval):
                return v
            if v.by_row:
                at = 0 if v.shape[0] == 1 else row
                v = replace(v.map(lambda t: t[at]), by_row=False)
            return v if found.slack else v.settled(context.rounding.own)

        return found.function(context, *_each(args, one), **_each(kwargs, one))

    results = [call(row) for row in range(context.sweep.sweeps * context.sweep.samples)]
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


def output_of(graph: Graph, values: Mapping[int, Value]) -> Any:
    """The graph's output as a tree of values."""
    return map_arg_refs(graph.output, lambda ref: values[ref.index])


def dependants(graph: Graph, roots: Iterable[int]) -> set[int]:
    """Positions of everything that depends on one of the given positions."""
    found = set(roots)
    for operation in graph.operations:
        if any(i in found for i in operation.inputs):
            found.add(operation.index)
    return found


__all__ = ["BatchSize", "Ref", "apply", "check_rules", "dependants", "evaluate", "output_of"]
