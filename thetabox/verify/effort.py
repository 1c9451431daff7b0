r"""Work, counted in forward passes of a sample, and the time that a run may take.

What a stage costs follows from shapes and numbers of rows alone: it is the same on every machine, under any load, with
any number of threads and in chunks of any size, and it is known before the work is done. One forward pass is the
multiply-adds of all layers and one more operation for every number that anything else makes.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from thetabox.verify.network import Network, RecurrentNetwork
from thetabox.verify.network.graph import Graph, Operation, Ref
from thetabox.verify.network.operators import RECURRENT, SUMMED_OPERAND, is_convolution

# Forward passes that each sample and ε may take beyond plain intervals, unless asked otherwise.
DEFAULT = 300.0
# What a second a sample is read as, for those who still give a budget in seconds: the default was a quarter of one.
PASSES_A_SECOND = 4.0 * DEFAULT


class OutOfTime(Exception):
    """The time that the user gave is over; what was proven before stands."""


class Deadline:
    """When to stop, if ever."""

    def __init__(self, seconds: float | None = None) -> None:
        self.end = math.inf if seconds is None else time.monotonic() + seconds

    # Clocks that count from a start are a process's own; what one of the world says is the same time in another.
    def __getstate__(self) -> tuple[float | None, float]:
        return self.left, time.time()

    def __setstate__(self, state: tuple[float | None, float]) -> None:
        left, then = state
        passed = max(0.0, time.time() - then)
        self.end = math.inf if left is None else time.monotonic() + left - passed

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return self.end != math.inf and time.monotonic() >= self.end

    @property
    def left(self) -> float | None:
        """Seconds that are left; ``None`` for no limit."""
        return None if self.end == math.inf else max(0.0, self.end - time.monotonic())

    def check(self) -> None:
        """Raise :class:`OutOfTime` when the time is over."""
        if self.passed:
            raise OutOfTime


@dataclass(frozen=True)
class Meter:
    """What each (sample, ε) of one call may still cost, and until when.

    Attributes:
        left: forward passes, float64, written over by :meth:`pay`; ``None`` for no limit.
        deadline: looked at inside a stage.
        indices: of this call's pairs in ``left``; all in order where ``None``.
    """

    left: Tensor | None = None
    deadline: Deadline | None = None
    indices: Tensor | None = None

    @property
    def limited(self) -> bool:
        """Whether there is anything to count."""
        return self.left is not None

    def part(self, pairs: Tensor) -> Meter:
        """The meter of some of the pairs."""
        pairs = pairs.cpu()
        return Meter(self.left, self.deadline, pairs if self.indices is None else self.indices[pairs])

    def pay(self, passes: Tensor) -> Tensor:
        """Charge every pair; returns which could pay. One that could not pays nothing."""
        if self.left is None:
            return torch.ones(len(passes), dtype=torch.bool)
        passes = passes.to("cpu", torch.float64)
        indices = torch.arange(len(self.left)) if self.indices is None else self.indices
        left = self.left[indices]
        can = passes <= left
        self.left[indices] = torch.where(can, left - passes, left)
        return can

    def check_time(self) -> None:
        """Raise :class:`OutOfTime` when the time is over."""
        if self.deadline is not None:
            self.deadline.check()


FREE = Meter()


def fan(graph: Graph, operation: Operation) -> int:
    """Multiply-adds for each number of a result; 1 for what is no product."""
    name, shape = operation.operator, None
    if name in SUMMED_OPERAND:
        shape = _shape(graph, operation, SUMMED_OPERAND[name])
        return max(1, shape[-1] or 1) if shape else 1
    if name == "aten.scaled_dot_product_attention.default":
        # Every number is a mean over the keys, and so is every score behind it a sum.
        shape = _shape(graph, operation, 1)
        return 2 * max(1, shape[-2] or 1) if shape else 1
    if is_convolution(name):
        shape = _shape(graph, operation, 1)
        # The first dimension counts outputs, or inputs of a transposed one, which then reads as many of the others.
        return max(1, math.prod(s or 1 for s in shape[1:])) if shape else 1
    if name in RECURRENT:
        layout = operation.layout[0] if isinstance(operation.layout, tuple) else operation.layout
        shapes = [graph.layouts[i].shape for i in operation.inputs if i in graph.layouts]
        weights = sum(math.prod(s or 1 for s in shape) for shape in shapes if len(shape) == 2 and None not in shape)
        return max(1, weights // (1 if layout is None else layout.shape[-1] or 1))  # every one once for every step
    return 1


def work(graph: Graph) -> int:
    """Multiply-adds of one sample, and one operation for every other number; what all samples share counts nothing."""
    total = 0
    for operation in graph.operations:
        layouts = operation.layout if isinstance(operation.layout, tuple) else (operation.layout,)
        first = next((layout for layout in layouts if layout is not None), None)
        if first is not None and first.batch is not None:
            total += math.prod(s or 1 for s in first.shape) * first.merged * fan(graph, operation)
    return max(1, total)


def forward_pass(network: Network) -> int:
    """The work of one forward pass of a sample."""
    total = work(network.main)
    if isinstance(network, RecurrentNetwork):
        total += work(network.initial) + network.steps * work(network.step)
    return total


def _shape(graph: Graph, operation: Operation, index: int) -> tuple[int | None, ...] | None:
    argument = operation.args[index] if len(operation.args) > index else None
    layout = graph.layouts.get(argument.index) if isinstance(argument, Ref) else None
    return None if layout is None else layout.shape
