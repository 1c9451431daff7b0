"""Pre-activations bounded by backward rows of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from thetabox.verify.linear.own_rows import walk_rows, work_of_row
from thetabox.verify.linear.rules import pooling
from thetabox.verify.linear.samples import Samples, first_layout
from thetabox.verify.linear.targets import narrows, targets
from thetabox.verify.linear.walk import Stop
from thetabox.verify.network.graph import Graph, Operation
from thetabox.verify.network.operators import MAX_POOLS_2D

# Of this many numbers of a layer one sign is open where many are.
MANY = 8


class Tighten:
    """Tighter ends of the values in front of ReLUs, where the sign is open.

    Two rows for each number that needs them, and no use of those that fill up a batch: what is found of a sample does
    not depend on the others. What a row costs follows from shapes, so that a sample that cannot pay for all of a
    layer's is left out before any is walked.

    Args:
        graph: the traced network.
        passes: forward passes for each multiply-add of a row.
        deep: bound all numbers, stable ones too, of a value that the rest of the network hangs on, where many signs
            are open: looseness that is left there grows from layer to layer.
    """

    def __init__(self, graph: Graph, passes: float = 0.0, *, deep: bool = False) -> None:
        self.targets, self.passes = targets(graph), passes
        self.deep = deep
        self.narrows = narrows(graph) & self.targets if deep else set()
        self.prices: dict[int, float] = {}
        self.pools: dict[int, Operation] = {}
        for operation in graph.operations:
            if operation.operator in MAX_POOLS_2D:
                self.pools[operation.inputs[0]] = operation

    def __call__(self, samples: Samples, operation: Operation) -> tuple[Tensor, Tensor] | None:
        """Better ends of a value, or ``None``."""
        index = operation.index
        layout = first_layout(operation)
        if index not in self.targets or layout is None or not samples.plain(index):
            return None
        value = samples.interval(index)
        needed = self._needed(samples, operation)
        wider = needed
        if index in self.narrows:
            many = needed.flatten(1).sum(1) * MANY > needed[0].numel()
            wider = needed | ((value.upper > 0) & many.view(-1, *[1] * (needed.dim() - 1)))
        if samples.meter.limited and bool(needed.any()):
            wider = self._paid(samples, operation, wider, needed)
        needed = wider
        if not bool(needed.any()):
            return None
        lower, upper = value.lower.clone(), value.upper.clone()
        self._walk_rows(samples, operation, needed, lower, upper)
        return lower, upper

    def _walk_rows(self, samples: Samples, operation: Operation, needed: Tensor, lower: Tensor, upper: Tensor) -> None:
        """Put the bounds that rows find into ``lower`` and ``upper``."""
        walk_rows(samples, operation, needed, lower, upper)

    def _paid(self, samples: Samples, operation: Operation, wider: Tensor, needed: Tensor) -> Tensor:
        """What is wanted of the samples that can pay for it, or what is needed of those that can pay for that.

        The others stop here; in a deep network they go on with what they have, for the last layers may cost less.
        """
        if operation.index not in self.prices:
            self.prices[operation.index] = self.passes * work_of_row(samples, operation, needed)
        shape = (-1, *[1] * (needed.dim() - 1))
        bought = torch.zeros_like(needed)
        for wanted in (wider, needed) if self.deep else (needed,):
            rows = 2.0 * (wanted & ~bought).flatten(1).sum(1).double().cpu()
            without = ~bought.flatten(1).any(1).cpu() & ~samples.stopped
            can = samples.meter.pay(torch.where(without, rows * self.prices[operation.index], 0.0))
            bought |= wanted & (can & without).to(needed.device).view(shape)
            if not self.deep:
                samples.stopped |= ~can
        return bought

    def _needed(self, samples: Samples, operation: Operation) -> Tensor:
        """Where the bounds matter: open signs, and places of a pool's window that may be the largest."""
        value = samples.interval(operation.index)
        lower, upper = value.lower, value.upper
        readers = [o for o in samples.graph.operations if operation.index in o.inputs]
        pool = self.pools.get(readers[0].index) if len(readers) == 1 else None
        if pool is None or samples.graph.readers[readers[0].index] != 1:
            return (lower < 0) & (upper > 0)
        try:
            window = pooling.window(pool)
        except Stop:
            return (lower < 0) & (upper > 0)
        low, high = pooling.by_window(lower, window), pooling.by_window(upper, window)
        least = low.amax(-3, keepdim=True)
        candidates = (high >= least) & (high > 0)
        settled = (least >= 0) & (candidates.sum(-3, keepdim=True) <= 1)
        return pooling.placed_back(candidates & ~settled, window, lower)
