"""Bounds of the values of a plan by rows, whose events are counted in the ledger."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.linear.own_rows import WALK_NUMBERS, walk_rows
from thetabox.verify.linear.region import Frame
from thetabox.verify.linear.rules import pooling
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.tighten import Tighten
from thetabox.verify.linear.walk import Stop
from thetabox.verify.network.graph import Graph, Operation
from thetabox.verify.network.operators import TWO_SLOPES
from thetabox.verify.yields.noisy_walk import Noisy, NoisyWalk
from thetabox.verify.yields.plan import NoisePlan


class RowBounds(Tighten):
    """Bounds of the values of the plan by rows; events are counted in the ledger.

    Args:
        graph: the network.
        plan: which values are bounded.
    """

    def __init__(self, graph: Graph, plan: NoisePlan) -> None:
        super().__init__(graph)
        self.plan, self.targets = plan, set(plan.rows)

    def __call__(self, samples: Samples, operation: Operation) -> tuple[Tensor, Tensor] | None:
        # A single number a sample keeps the ends that it has.
        value = samples.values[operation.index]
        if isinstance(value, Interval) and value.lower.dim() < 2:
            return None
        return super().__call__(samples, operation)

    def _needed(self, samples: Samples, operation: Operation) -> Tensor:
        """Where a value may be above 0, if only a ReLU reads it, and may be a window's largest, if only a pool does."""
        value = samples.interval(operation.index)
        readers = [o for o in samples.graph.operations if operation.index in o.inputs]
        alive = torch.ones_like(value.lower, dtype=torch.bool)
        if len(readers) != 1:
            return alive
        pool = self.pools.get(readers[0].index) or self.pools.get(operation.index)
        rectified = readers[0].operator in TWO_SLOPES and "leaky" not in readers[0].operator
        if rectified:
            alive = value.upper > 0
        if pool is None or (rectified and samples.graph.readers[readers[0].index] != 1):
            return alive
        try:
            window = pooling.window(pool)
        except Stop:
            return alive
        low, high = pooling.by_window(value.lower, window), pooling.by_window(value.upper, window)
        wanted = high >= low.amax(-3, keepdim=True)
        return alive & pooling.placed_back(wanted, window, value.lower)

    def _walk_rows(self, samples: Samples, operation: Operation, needed: Tensor, lower: Tensor, upper: Tensor) -> None:
        assert isinstance(samples, Noisy)
        count = 2.0 * needed.flatten(1).sum(1).double()
        z = samples.ledger.deviations(self.plan.group(operation), count, exact=operation.index in self.plan.single)
        kind = partial(NoisyWalk, z=z)
        if needed.dim() in (2, 4) and operation.index not in samples.reads_tied:
            walk_rows(samples, operation, needed, lower, upper, kind)
        else:
            _whole(samples, operation, lower, upper, kind)


def _whole(samples: Noisy, operation: Operation, lower: Tensor, upper: Tensor, kind: Callable[..., NoisyWalk]) -> None:
    """Values of other shapes: rows of everything."""
    count, numbers = len(lower), lower[0].numel()
    step = max(1, WALK_NUMBERS // (2 * count * numbers))
    for part in torch.arange(numbers).split(step):
        one = torch.nn.functional.one_hot(part, numbers).double().unflatten(1, lower.shape[1:])
        walk = kind(samples, Frame(slice(None)), 2 * len(part))
        walk.give(operation.index, torch.cat([one, -one]).expand(count, *[-1] * (lower.dim())).contiguous())
        bounds = walk.run()
        low, high = lower.flatten(1), upper.flatten(1)
        low[:, part] = torch.maximum(low[:, part], bounds[:, : len(part)])
        high[:, part] = torch.minimum(high[:, part], -bounds[:, len(part) :])
