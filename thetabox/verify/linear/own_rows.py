"""Bounds of the numbers of a value by backward rows of their own: whole images, or one window at each position."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from thetabox.verify.effort import fan
from thetabox.verify.linear.region import Frame, Region
from thetabox.verify.linear.rules import affine, convolution
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop, Walk
from thetabox.verify.network.graph import Operation
from thetabox.verify.network.operators import CONVOLUTIONS, DENSE

# Numbers in the largest coefficient tensor of one walk.
WALK_NUMBERS = 1 << 21
# Rows of a walk to those that are needed, at most.
FILLED = 1.1
# The window that is one position.
POINT = Region((1, 1), (0, 0), (1, 1))


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


def work_of_row(samples: Samples, operation: Operation, needed: Tensor) -> int:
    """Multiply-adds of one row from a value back to the input, found by walking one; the same for all rows."""
    sample, place, *position = (int(i) for i in needed.nonzero()[0])
    one = torch.tensor([sample], device=needed.device)
    neurons = one.new_tensor([[place]])
    if needed.dim() == 2:
        walk = _dense_walk(samples, operation, one, neurons)
    elif needed.dim() == 4:
        walk = _image_walk(samples, operation, Frame(one, *(one.new_tensor([p]) for p in position)), neurons)
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
        neurons = needed[members].to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        step = max(1, WALK_NUMBERS // (2 * widest * count))
        for part in neurons.split(step, 1):
            samples.meter.check_time()
            walk = _dense_walk(samples, operation, members, part, kind)
            if walk is not None:
                asked = needed[members].gather(1, part).repeat(1, 2)
                _keep(walk.run().masked_fill(~asked, -torch.inf), members[:, None], part, lower, upper)


def _dense_walk(
    samples: Samples, operation: Operation, members: Tensor, neurons: Tensor, kind: Callable[..., Walk] = Walk
) -> Walk | None:
    """Ready to walk back from some outputs of some samples, each and its negative."""
    walk = kind(samples, Frame(members), 2 * neurons.shape[1], coarse=True)
    if operation.operator in DENSE:
        try:
            affine.start_dense(walk, operation, neurons)
            walk.started(operation, neurons, None)
        except Stop:
            return None
    else:
        walk.give(operation.index, _one_hot(neurons, samples.interval(operation.index).shape[1]))
    return walk


def _images(
    samples: Samples, operation: Operation, needed: Tensor, lower: Tensor, upper: Tensor, kind: Callable[..., Walk]
) -> None:
    """Channels at each position: rows of one window."""
    counts = needed.sum(1)
    rows, heights, widths = counts.nonzero(as_tuple=True)

    def walk_some(chosen: Tensor, most: int) -> int | None:
        n, h, w = rows[chosen], heights[chosen], widths[chosen]
        wanted = needed[n, :, h, w]
        neurons = wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        samples.meter.check_time()
        walk = _image_walk(samples, operation, Frame(n, h, w), neurons, kind)
        if walk is None:
            return None
        bounds = walk.run().masked_fill(~wanted.gather(1, neurons).repeat(1, 2), -torch.inf)
        low, high = bounds[:, :most], -bounds[:, most:]
        n, h, w = n[:, None], h[:, None], w[:, None]
        lower[n, neurons, h, w] = torch.maximum(lower[n, neurons, h, w], low)
        upper[n, neurons, h, w] = torch.minimum(upper[n, neurons, h, w], high)
        return walk.widest

    in_parts(counts[rows, heights, widths], walk_some)


def in_parts(counts: Tensor, walk_some: Callable[[Tensor, int], int | None]) -> None:
    """Walk windows together whose rows fit the memory of one walk, those with most rows first.

    Args:
        counts: rows of each window.
        walk_some: called with places of windows in ``counts`` and the most rows that one of them has; returns how wide
            the walk became, or ``None`` where nothing can be walked.
    """
    order = counts.argsort(descending=True)
    widest, start = 0, 0
    while start < len(order):
        most = int(counts[order[start]])
        count = 1 if not widest else max(1, WALK_NUMBERS // (2 * most * widest))
        count = alike(counts[order[start : start + count]])
        chosen = order[start : start + count]
        start += count
        width = walk_some(chosen, most)
        if width is None:
            return
        widest = max(widest, width)


def _image_walk(
    samples: Samples, operation: Operation, frame: Frame, neurons: Tensor, kind: Callable[..., Walk] = Walk
) -> Walk | None:
    """Ready to walk back from some channels at one position of each sample, each and its negative."""
    walk = kind(samples, frame, 2 * neurons.shape[1], coarse=True)
    if operation.operator in CONVOLUTIONS:
        try:
            convolution.start_convolution(walk, operation, neurons)
            walk.started(operation, neurons, POINT)
        except Stop:
            return None
    else:
        one = _one_hot(neurons, samples.interval(operation.index).shape[1])[..., None, None]
        walk.give(operation.index, one, POINT)
    return walk


def _keep(bounds: Tensor, rows: Tensor, neurons: Tensor, lower: Tensor, upper: Tensor) -> None:
    most = neurons.shape[1]
    lower[rows, neurons] = torch.maximum(lower[rows, neurons], bounds[:, :most])
    upper[rows, neurons] = torch.minimum(upper[rows, neurons], -bounds[:, most:])


def _one_hot(neurons: Tensor, outputs: int) -> Tensor:
    """Rows that pick the places, then the same with their signs turned."""
    one = torch.nn.functional.one_hot(neurons, outputs).double()
    return torch.cat([one, -one], 1)


def _before(samples: Samples, operation: Operation) -> list[int]:
    """Values in front of an operation."""
    return [i for i in samples.values if i < operation.index and samples.plain(i)]


def alike(counts: Tensor) -> int:
    """How many of them, most first, may share a walk of the first one's rows: what fills it up is paid by nobody."""
    filled = counts[0] * torch.arange(1, len(counts) + 1, device=counts.device)
    return max(1, int((filled <= FILLED * counts.cumsum(0)).sum()))


def _groups(counts: Tensor, capacity: int) -> Iterator[tuple[int, int]]:
    """Runs of samples (most rows first) whose rows fit ``capacity`` together."""
    start, total = 0, len(counts)
    numbers = counts.tolist()
    while start < total and numbers[start]:
        count = min(max(1, capacity // numbers[start]), total - start)
        count = alike(counts[start : start + count])
        yield start, count
        start += count
