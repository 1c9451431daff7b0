"""Layers that run on all time steps at once without merging the steps with the samples.

Code that runs a layer on ``[time, samples, features]`` often flattens the first two dimensions, applies it, and takes
them apart again. A tracer then sees samples and steps mixed in one dimension. The layer says the same of each row
either way, so between such a merge and the view that undoes it the dimensions are left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from thetabox.models.program import Reference, Step

VIEWS = ("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default")
MERGES, SPLITS = (*VIEWS, "aten.flatten.using_ints"), (*VIEWS, "aten.unflatten.int")
# What is done to each number by itself, or to each row of the last dimension.
ALONE = frozenset(f"aten.{name}" for name in (
    "relu.default", "tanh.default", "sigmoid.default", "neg.default", "exp.default", "abs.default", "gelu.default",
    "silu.default", "elu.default", "leaky_relu.default", "hardtanh.default", "clamp.default", "dropout.default",
    "add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "rsub.Scalar", "softplus.default", "add.Scalar",
    "mul.Scalar",
))  # words, several to a line  # fmt: skip
ROWS = ("aten.matmul.default", "aten.mm.default", "aten.linear.default")

Sizes = Mapping[str, Sequence[Any]]


def unmerged(steps: Sequence[Step], sizes: Sizes, operators: Sequence[str]) -> list[Step]:
    """The steps without merges that are undone.

    Args:
        steps: of a graph.
        sizes: of every value, by name, as the file says them: numbers or expressions.
        operators: of the steps, by name.
    """
    changed: dict[int, Step | None] = {}
    renamed: dict[str, Reference] = {}
    for i, step in enumerate(steps):
        if operators[i] in MERGES and i not in changed:
            undone = _undone(i, steps, sizes, operators)
            if undone is not None:
                inside, splits = undone
                renamed |= {s.results[0] or "": s.args[0] for s in [step, *(steps[j] for j in splits)]}
                changed |= dict.fromkeys([i, *splits], None)
                changed |= {j: _on_rows(steps[j]) for j in inside if operators[j] == "aten.mm.default"}
    kept = [changed.get(i, step) for i, step in enumerate(steps)]
    return [_renamed(step, renamed) for step in kept if step is not None]


def _undone(
    start: int, steps: Sequence[Step], sizes: Sizes, operators: Sequence[str]
) -> tuple[list[int], list[int]] | None:
    """What lies between a merge and the views that undo it; ``None`` where that is not all that is done with it."""
    merge = steps[start]
    operand = merge.args[0]
    before = list(sizes.get(operand.name, ())) if isinstance(operand, Reference) else []
    after = list(sizes.get(merge.results[0] or "", ()))
    if len(before) < 3 or len(after) != len(before) - 1 or before[2:] != after[1:]:
        return None
    merged, inside, splits = {merge.results[0]}, list[int](), list[int]()
    for j in range(start + 1, len(steps)):
        step, operator = steps[j], operators[j]
        if not merged.intersection(step.reads):
            continue
        result = list(sizes.get(step.results[0] or "", ()))
        operand_sizes = list(sizes.get(step.args[0].name, ())) if isinstance(step.args[0], Reference) else []
        undone = before[:2] + operand_sizes[1:]
        if operator in SPLITS and result == undone:
            splits.append(j)
        elif len(result) == len(after) and result[0] == after[0] and _keeps_rows(step, operator, merged, sizes):
            inside.append(j)
            merged.add(step.results[0])
        else:
            return None
    return (inside, splits) if splits else None


def _keeps_rows(step: Step, operator: str, merged: set[str | None], sizes: Sizes) -> bool:
    others = [name for name in step.reads if name not in merged]
    if operator in ROWS:
        ranks = {"aten.linear.default": (2, 1)}.get(operator, (2,))
        first = isinstance(step.args[0], Reference) and step.args[0].name in merged
        return first and all(len(sizes.get(n, ())) == rank for n, rank in zip(others, ranks, strict=False))
    return operator in ALONE and all(n in sizes and len(sizes[n]) <= 1 for n in others)


def _on_rows(step: Step) -> Step:
    return replace(step, function=torch.ops.aten.matmul.default)


def _renamed(step: Step, renamed: Mapping[str, Reference]) -> Step:
    if not renamed.keys() & set(step.reads):
        return step
    return replace(step, args=_replaced(step.args, renamed), kwargs=_replaced(dict(step.kwargs), renamed))


def _replaced(tree: Any, renamed: Mapping[str, Reference]) -> Any:
    if isinstance(tree, Reference):
        while isinstance(tree, Reference) and tree.name in renamed:
            tree = renamed[tree.name]
        return tree
    if isinstance(tree, list | tuple):
        return type(tree)(_replaced(part, renamed) for part in tree)
    if isinstance(tree, dict):
        return {key: _replaced(part, renamed) for key, part in tree.items()}
    return tree
