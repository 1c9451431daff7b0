"""The last step of a walk: margins and logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.margin import class_margins, logit_margins, row_margins
from thetabox.verify.interpreter.walk import Value, evaluate
from thetabox.verify.network.feedforward import Network
from thetabox.verify.network.graph import Graph, Operation
from thetabox.verify.network.head import Head, only_output

# Called with the time step (0 without time), the operation, its operands and its result.
StepObserver = Callable[[int, Operation, tuple[Any, ...], Any], None]


@dataclass
class Final:
    """Values in front of the last layer, and what is needed to go on from there."""

    context: Context
    graph: Graph
    values: dict[int, Value]
    head: Head | None

    def margins(self, labels: Tensor, criterion: str = "margin") -> Tensor:
        """Proven lower bounds ``[E, N]`` of the margin."""
        last = self._last_layer() if criterion == "margin" else None
        if last is not None:
            return row_margins(self.context, *last, labels)
        return logit_margins(self.context, self.logits(), labels)

    def class_margins(self, labels: Tensor) -> Tensor:
        """Lower bounds ``[E N, K]`` of the margin against each class, differentiable; the own column says nothing."""
        last = self._last_layer()
        if last is not None:
            return class_margins(self.context, *last, labels)[0]
        logits = self.logits().settled(self.context.rounding.roundoff)
        index = labels.repeat(len(logits.lower) // len(labels))[:, None]
        return logits.lower.gather(1, index) - logits.upper

    def _last_layer(self) -> tuple[Interval, Parameter, Parameter | None] | None:
        """Hidden values ``[rows, features]``, weight ``[classes, features]`` and bias, where there is such a layer."""
        if self.head is None:
            return None
        hidden, weight = self.values[self.head.hidden], self.values[self.head.weight]
        bias = None if self.head.bias is None else self.values[self.head.bias]
        if not isinstance(weight, Parameter) or not isinstance(bias, Parameter | None):
            return None
        if not isinstance(hidden, Interval) or hidden.lower.dim() != 2 or (hidden.batch, hidden.merged) != (0, 1):
            return None
        return hidden, weight.moved(lambda t: t.T) if self.head.transposed else weight, bias

    def logits(self) -> Interval:
        """Bounds of the logits, ``[E N, K]``."""
        output = only_output(self.graph)
        if output not in self.values:
            assert self.head is not None
            evaluate(self.context, self.graph, self.values, self.head.operations, keep=True)
        value = self.values[output]
        if not isinstance(value, Interval) or value.lower.dim() != 2 or (value.batch, value.merged) != (0, 1):
            raise InputError("the network must return logits of shape [samples, classes]")
        return self.context.expanded(value).both_known()


def finish(
    network: Network, context: Context, values: dict[int, Value], observe: StepObserver | None, time: int
) -> Final:
    """Evaluate the main graph up to the last layer, from the values that stand in it already."""
    graph = network.main
    withheld = [] if network.head is None else network.head.operations
    head = {o.index for o in withheld}
    wanted = {i for o in withheld for i in o.inputs}
    operations = network.ordered if observe is None else graph.operations
    body = [o for o in operations if o.index not in head and o.index not in values]
    watch = None if observe is None else lambda o, args, result: observe(time, o, args, result)
    evaluate(context, graph, values, body, observe=watch, wanted=wanted)
    if network.head is not None and isinstance(hidden := values.get(network.head.hidden), Interval):
        hidden.owned = False  # margins and logits may both be asked for
    return Final(context, graph, values, network.head)
