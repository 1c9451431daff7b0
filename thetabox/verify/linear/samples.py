"""Values of a batch of samples, each at its own ε: intervals, and what backward walks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.effort import FREE, Meter
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.walk import Value, evaluate
from thetabox.verify.network.graph import Graph, Layout, Operation
from thetabox.verify.network.kinds import kinds

# Called with each operation after its interval is known; may return tighter ends for it.
Tighten = Callable[["Samples", Operation], tuple[Tensor, Tensor] | None]


class Samples:
    """Intervals of every value of the graph for ``samples`` samples.

    Args:
        graph: the traced network.
        tensors: position → parameter.
        x: inputs ``[samples, ...]``.
        context: ε of each sample, and rounding: of the bounds (float64) and of the network.
        tighten: asked for tighter ends of each value, before anything that reads it is bounded.
        meter: of the samples, charged by ``tighten``.
        norms: asked before that, for what balls around the values know of their ends.

    Attributes:
        stopped: samples that could not pay for tighter ends; nothing more is spent on them.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: dict[int, Value],
        x: Interval,
        context: Context,
        tighten: Tighten | None = None,
        meter: Meter = FREE,
        norms: Tighten | None = None,
    ) -> None:
        self.graph, self.context, self.rounding = graph, context, context.rounding
        self.epsilon: Float[Tensor, " samples"] = context.row_epsilon.values[0]
        epsilon = self.epsilon
        self.values: dict[int, Value] = {**tensors, graph.inputs[0]: x}
        self.makers: dict[int, Operation] = {o.index: o for o in graph.operations}
        self.cache: dict[Any, Any] = {}
        self.meter, self.stopped = meter, torch.zeros(len(epsilon), dtype=torch.bool)
        self.finite = torch.ones(len(epsilon), dtype=torch.bool, device=epsilon.device)
        # Sizes of all parameters and values so far.
        held = [v for v in tensors.values() if isinstance(v, Parameter)]
        self.size = torch.full_like(epsilon, sum(float(p.magnitude.sum()) for p in held))
        self.settle(graph.inputs[0], x)
        for operation in graph.operations:
            evaluate(self.context, graph, self.values, [operation], keep=True)
            self.evaluated(operation)
            self.settle(operation.index, self.values[operation.index])
            for tighter in (norms, tighten):
                better = None if tighter is None else tighter(self, operation)
                if better is not None:
                    self._narrow(operation.index, *better)

    def evaluated(self, operation: Operation) -> None:
        """Called after the interval rule of an operation, before anything reads its result."""

    def apart(self, maker: Operation, pool: Any, reference: Tensor) -> tuple[Tensor, Tensor] | None:
        """Ends of ``z_i - z_j`` for windows of a convolution, where something is known of it by other ways."""
        return None

    def _narrow(self, index: int, lower: Tensor, upper: Tensor) -> None:
        """Put tighter ends into a value (the first, where an operator returns several)."""
        old, value = self.interval(index), self.values[index]
        ends = torch.maximum(lower, old.lower), torch.minimum(upper, old.upper)
        narrow = Interval(*ends, nonnegative=old.nonnegative, batch=0)
        self.values[index] = (narrow, *value[1:]) if isinstance(value, tuple) else narrow

    def settle(self, index: int, value: Any) -> None:
        """Put the slack of a value into its ends; note where nothing is known of it."""
        if isinstance(value, tuple):
            self.values[index] = tuple(self._settled(v) if _by_item(v) else v for v in value)
        elif _by_item(value):
            self.values[index] = self._settled(value)

    def _settled(self, value: Interval) -> Interval:
        value = value.settled(self.rounding.roundoff)
        assert value.batch is not None
        for end in (value.lower,) if value.is_point else (value.lower, value.upper):
            # Minus infinity at both ends is what a mask filled in.
            masked = value.upper == -torch.inf
            finite = (end.isfinite() | masked).movedim(value.batch, 0)
            self.finite &= finite.reshape(len(self.epsilon), -1).all(1)
            size = end.abs().masked_fill(masked, 0.0)
            self.size += size.movedim(value.batch, 0).reshape(len(self.epsilon), -1).sum(1)
        return value

    def interval(self, index: int) -> Interval:
        """Bounds of a value (of the first, where an operator returns several)."""
        value = self.values[index]
        value = value[0] if isinstance(value, tuple) else value
        assert isinstance(value, Interval)
        return value

    def plain(self, index: int) -> bool:
        """Whether a value holds the samples in its first dimension, one position each."""
        value = self.values.get(index)
        value = value[0] if isinstance(value, tuple) and value else value
        return isinstance(value, Interval) and (value.batch, value.merged, value.by_row) == (0, 1, False)

    def depends(self, index: int) -> bool:
        """Whether a value differs from sample to sample."""
        value = self.values.get(index)
        value = value[0] if isinstance(value, tuple) and value else value
        return _by_item(value) or (isinstance(value, Interval) and value.by_row)

    def factor(self, parameter: Parameter) -> Float[Tensor, " samples"]:
        """ε of the parameter in every sample, rounded up."""
        if parameter.factor == 0.0:
            return torch.zeros_like(self.epsilon)
        return self.context.epsilon(parameter.factor).reshape(-1)

    def shape(self, index: int) -> tuple[int, ...]:
        """Shape of a value, without the samples."""
        return tuple(self.interval(index).shape[1:])

    @contextmanager
    def at(self, operation: Operation) -> Iterator[Context]:
        """The context with an operation whose interval rule, or a part of it, is asked again."""
        context = self.context
        before = context.operation, context.kind
        context.operation, context.kind = operation, kinds(self.graph)[operation.index]
        try:
            yield context
        finally:
            context.operation, context.kind = before

    def once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """What ``compute`` returned the first time."""
        if key not in self.cache:
            self.cache[key] = compute()
        return self.cache[key]


def _by_item(value: Any) -> bool:
    return isinstance(value, Interval) and value.batch is not None


def first_layout(operation: Operation) -> Layout | None:
    """Layout of the (first) result."""
    layout = operation.layout
    return layout[0] if isinstance(layout, tuple) and layout else layout  # type: ignore[return-value]  # no longer a tuple
