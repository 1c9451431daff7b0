"""Pre-activations bounded by backward rows of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from thetabox.verify.effort import fan
from thetabox.verify.linear.region import Frame, Region
from thetabox.verify.linear.rules import affine, convolution, pooling
from thetabox.verify.linear.samples import Samples, first_layout
from thetabox.verify.linear.walk import Stop, Walk
from thetabox.verify.network.graph import Graph, Operation
from thetabox.verify.network.operators import CONVOLUTIONS, DENSE, MAX_POOLS_2D, TWO_SLOPES

# Numbers in the largest coefficient tensor of one walk.
WALK_NUMBERS = 1 << 21
# Rows of a walk to those that are needed, at most.
FILLED = 1.1
# Of this many numbers of a layer one sign is open where many are.
MANY = 8
# The window that is one position.
POINT = Region((1, 1), (0, 0), (1, 1))


@dataclass(frozen=True)
class _Depth:
    """What stands in front of a value: how many kinks on a path, and whether any layer shares its weights."""

    kinks: int = 0
    shared: bool = False


def targets(graph: Graph) -> set[int]:
    """Values whose intervals are looser than need be and in front of a ReLU.

    The intervals in front of the first ReLU are exact, and so are those of the second of two dense layers, whose
    inputs know nothing of each other.
    """
    depth: dict[int, _Depth] = {}
    positions = set()
    for operation in graph.operations:
        before = [depth[i] for i in operation.inputs if i in depth]
        kinks = max((d.kinks for d in before), default=0)
        shared = any(d.shared for d in before) or operation.operator in CONVOLUTIONS
        if operation.operator in TWO_SLOPES:
            if kinks >= 2 or (kinks == 1 and shared):
                positions.add(operation.inputs[0])
            kinks += 1
        depth[operation.index] = _Depth(kinks, shared)
    return positions


def narrows(graph: Graph) -> set[int]:
    """Values that everything behind them is computed from: no path leads past them."""
    order = {o.index: place for place, o in enumerate(graph.operations)}
    farthest, found = -1, set()
    for place, operation in enumerate(graph.operations):
        layout = first_layout(operation)
        if layout is None or layout.batch is None:
            continue
        if farthest <= place:
            found.add(operation.index)
        farthest = max(farthest, order.get(graph.last_use.get(operation.index, -1), place))
    return found


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
            self.prices[operation.index] = self.passes * _row(samples, operation, needed)
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
        low, high = pooling.places(lower, window), pooling.places(upper, window)
        least = low.amax(-3, keepdim=True)
        candidates = (high >= least) & (high > 0)
        settled = (least >= 0) & (candidates.sum(-3, keepdim=True) <= 1)
        return pooling.placed_back(candidates & ~settled, window, lower)


def walk_rows(
    samples: Samples,
    operation: Operation,
    needed: Tensor,
    lower: Tensor,
    upper: Tensor,
    kind: Callable[..., Walk] = Walk,
) -> None:
    """Put into ``lower`` and ``upper`` what walks of a kind find of the numbers that are needed."""
    if needed.dim() == 2:
        _dense(samples, operation, needed, lower, upper, kind)
    elif needed.dim() == 4:
        _images(samples, operation, needed, lower, upper, kind)


def _row(samples: Samples, operation: Operation, needed: Tensor) -> int:
    """Multiply-adds of one row from a value back to the input, found by walking one; the same for all rows."""
    sample, place, *position = (int(i) for i in needed.nonzero()[0])
    one = torch.tensor([sample], device=needed.device)
    places = one.new_tensor([[place]])
    if needed.dim() == 2:
        walk = _dense_walk(samples, operation, one, places)
    elif needed.dim() == 4:
        walk = _image_walk(samples, operation, Frame(one, *(one.new_tensor([p]) for p in position)), places)
    else:
        return 0
    if walk is None:
        return 0
    walk.run()
    return walk.work + fan(samples.graph, operation)


def _dense(
    samples: Samples, operation: Operation, needed: Tensor, lower: Tensor, upper: Tensor, kind: Callable[..., Walk]
) -> None:
    """Outputs of a dense layer: rows of whole images."""
    widest = max((samples.interval(i).lower[0].numel() for i in _before(samples, operation)), default=1)
    order = needed.sum(1).argsort(descending=True)
    for start, count in _groups(needed.sum(1)[order], max(1, WALK_NUMBERS // (2 * widest))):
        members = order[start : start + count]
        most = int(needed[members].sum(1).max())
        places = needed[members].to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        step = max(1, WALK_NUMBERS // (2 * widest * count))
        for part in places.split(step, 1):
            samples.meter.check_time()
            walk = _dense_walk(samples, operation, members, part, kind)
            if walk is not None:
                asked = needed[members].gather(1, part).repeat(1, 2)
                _keep(walk.run().masked_fill(~asked, -torch.inf), members[:, None], part, lower, upper)


def _dense_walk(
    samples: Samples, operation: Operation, members: Tensor, places: Tensor, kind: Callable[..., Walk] = Walk
) -> Walk | None:
    """Ready to walk back from some outputs of some samples, each and its negative."""
    walk = kind(samples, Frame(members), 2 * places.shape[1], coarse=True)
    if operation.operator in DENSE:
        try:
            affine.start_dense(walk, operation, places)
            walk.started(operation, places, None)
        except Stop:
            return None
    else:
        walk.give(operation.index, _one_hot(places, samples.interval(operation.index).shape[1]))
    return walk


def _images(
    samples: Samples, operation: Operation, needed: Tensor, lower: Tensor, upper: Tensor, kind: Callable[..., Walk]
) -> None:
    """Channels at each position: rows of one window."""
    counts = needed.sum(1)
    rows, heights, widths = counts.nonzero(as_tuple=True)
    if not len(rows):
        return
    amount = counts[rows, heights, widths]
    order = amount.argsort(descending=True)
    widest, start = 0, 0
    while start < len(order):
        most = int(amount[order[start]])
        count = 1 if not widest else max(1, WALK_NUMBERS // (2 * most * widest))
        count = alike(amount[order[start : start + count]])
        chosen = order[start : start + count]
        start += count
        n, h, w = rows[chosen], heights[chosen], widths[chosen]
        wanted = needed[n, :, h, w]
        places = wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        samples.meter.check_time()
        walk = _image_walk(samples, operation, Frame(n, h, w), places, kind)
        if walk is None:
            return
        bounds = walk.run()
        widest = max(widest, walk.widest)
        bounds = bounds.masked_fill(~wanted.gather(1, places).repeat(1, 2), -torch.inf)
        low, high = bounds[:, :most], -bounds[:, most:]
        n, h, w = n[:, None], h[:, None], w[:, None]
        lower[n, places, h, w] = torch.maximum(lower[n, places, h, w], low)
        upper[n, places, h, w] = torch.minimum(upper[n, places, h, w], high)


def _image_walk(
    samples: Samples, operation: Operation, frame: Frame, places: Tensor, kind: Callable[..., Walk] = Walk
) -> Walk | None:
    """Ready to walk back from some channels at one position of each sample, each and its negative."""
    walk = kind(samples, frame, 2 * places.shape[1], coarse=True)
    if operation.operator in CONVOLUTIONS:
        try:
            convolution.start_convolution(walk, operation, places)
            walk.started(operation, places, POINT)
        except Stop:
            return None
    else:
        one = _one_hot(places, samples.interval(operation.index).shape[1])[..., None, None]
        walk.give(operation.index, one, POINT)
    return walk


def _keep(bounds: Tensor, rows: Tensor, places: Tensor, lower: Tensor, upper: Tensor) -> None:
    most = places.shape[1]
    lower[rows, places] = torch.maximum(lower[rows, places], bounds[:, :most])
    upper[rows, places] = torch.minimum(upper[rows, places], -bounds[:, most:])


def _one_hot(places: Tensor, outputs: int) -> Tensor:
    """Rows that pick the places, then the same with their signs turned."""
    one = torch.nn.functional.one_hot(places, outputs).double()
    return torch.cat([one, -one], 1)


def _before(samples: Samples, operation: Operation) -> list[int]:
    """Values in front of an operation."""
    return [i for i in samples.values if i < operation.index and samples.plain(i)]


def alike(counts: Tensor) -> int:
    """How many of them, most first, may share a walk of the first one's rows: what fills it up is paid by nobody."""
    filled = counts[0] * torch.arange(1, len(counts) + 1, device=counts.device)
    return max(1, int((filled <= FILLED * counts.cumsum(0)).sum()))


def _groups(counts: Tensor, room: int) -> Iterator[tuple[int, int]]:
    """Runs of samples (most rows first) whose rows fit ``room`` together."""
    start, total = 0, len(counts)
    numbers = counts.tolist()
    while start < total and numbers[start]:
        count = min(max(1, room // numbers[start]), total - start)
        count = alike(counts[start : start + count])
        yield start, count
        start += count
