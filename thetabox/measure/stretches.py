"""Draws by number, some at a time, for workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.measure.batched_draws import ManyWeights
from thetabox.workers import OnlyFields, Pool

# Draws that go to a worker together: a network that is faster in batches of draws has room for its trial.
TOGETHER = 64


@dataclass
class OnSamples(OnlyFields):
    """What draws of weights are measured on, as it travels to a worker."""

    model: nn.Module
    x: Tensor
    y: Tensor
    device: torch.device
    chunk: int
    batch: int | None
    box: Box

    @cached_property
    def many(self) -> ManyWeights:
        """The network on the data."""
        return ManyWeights(self.model, self.x, self.y, self.device, self.chunk, self.batch)


def stretches(
    pool: Pool,
    function: Callable[[Any, tuple[int, int]], Any],
    total: int,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[slice, Any]]:
    """Stretches of the numbers 0 … ``total`` − 1 and the answers to them, as they come.

    Args:
        pool: with what the function reads.
        function: of that and of (first, one after the last), importable by name.
        total: how many draws.
        progress: called with (done, total).

    Example:
        >>> with Pool(None, 10) as pool:
        ...     list(stretches(pool, lambda context, which: context * which[1], 65))
        [(slice(0, 64, None), 640), (slice(64, 65, None), 650)]
    """
    away = {}
    for first in range(0, total, TOGETHER):
        which = first, min(first + TOGETHER, total)
        away[pool.add(function, which)] = which
    done = 0
    for number, answer in pool.answers():
        first, stop = away[number]
        yield slice(first, stop), answer
        done += stop - first
        if progress is not None:
            progress(done, total)
