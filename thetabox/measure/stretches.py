"""Draws by number, some at a time, for workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from thetabox.workers import Pool

# Draws that go to a worker together: a network that is faster in batches of draws has room for its trial.
TOGETHER = 64


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
