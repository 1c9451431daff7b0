"""A traced graph on polynomials instead of numbers: what it computes, in a normal form.

All arithmetic is that of real numbers, as everywhere in proofs (:mod:`thetabox.verify.arithmetic.rounding`): casts
between float32 and float64 change nothing, but where a network in float64 computes in float32, of which nothing is
known. What is not known here becomes an unknown of its own, which matters only where the equations would have something
else in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from thetabox.verify.histories.description.algebra import Algebra
from thetabox.verify.histories.description.atoms import WHOLE
from thetabox.verify.histories.description.operands import WHOLES
from thetabox.verify.histories.description.operators import RULES
from thetabox.verify.histories.description.symbolic import ROWS, Symbolic, Unknown
from thetabox.verify.network.graph import Graph, Operation, map_arg_refs


class Evaluation(Symbolic):
    """Values of one graph, computed when they are asked for.

    Args:
        algebra: makes the polynomials.
        graph: traced.
        values: position → polynomials of inputs and parameters.
    """

    def __init__(self, algebra: Algebra, graph: Graph, values: Mapping[int, Callable[[], Tensor]]) -> None:
        super().__init__(algebra, graph)
        self.leaves = values
        self.operations = {o.index: o for o in graph.operations}
        self.values: dict[int, Any] = {}

    def outputs(self) -> list[Tensor]:
        """Of the graph, in order."""
        return [self.value(index) for index in self.graph.outputs]

    def value(self, index: int) -> Any:
        """Of one position, and of all that it needs."""
        stack = [index]
        while stack:
            top = stack[-1]
            if top in self.values:
                stack.pop()
                continue
            if top not in self.operations:
                self.values[top] = self.leaves[top]()
                continue
            missing = [i for i in self.operations[top].inputs if i not in self.values]
            if missing:
                stack += missing
            else:
                self.values[top] = self._compute(self.operations[top])
        return self.values[index]

    def _compute(self, o: Operation) -> Any:
        args = map_arg_refs(o.args, lambda ref: self.values[ref.index])
        kwargs = map_arg_refs(o.kwargs, lambda ref: self.values[ref.index])
        kind = o.operator.split(".")[1] if o.operator.startswith("aten.") else o.operator
        rule = RULES.get(kind)
        try:
            if rule is None:
                raise Unknown
            result = rule(self, o, *args, **kwargs)
            sizes = None if not hasattr(o.layout, "sizes") else o.layout.sizes(ROWS)  # type: ignore[union-attr]  # asked for in front
            if isinstance(result, Tensor) and sizes is not None and list(result.shape) != sizes:
                raise Unknown
        except (Unknown, TypeError, ValueError, ArithmeticError, RuntimeError, IndexError, AttributeError):
            return self._unknown(o)  # also where torch's own operator does not take what stands here
        if isinstance(result, Tensor) and o.dtype in WHOLES:
            limits = torch.iinfo(o.dtype)
            return self.each(lambda p: self.algebra.function(WHOLE, (p,), (limits.min, limits.max)), result)
        return result

    def _unknown(self, o: Operation) -> Any:
        lost = self.algebra.unknown(o.describe())
        layouts = o.layout if isinstance(o.layout, tuple) else (o.layout,)
        made = [None if layout is None else torch.full(layout.sizes(ROWS), lost) for layout in layouts]
        return tuple(made) if isinstance(o.layout, tuple) else made[0]
