"""Samples and batch sizes of the comparison."""

from __future__ import annotations

import torch
from torch import Tensor

from thetabox.models.running import MODES
from thetabox.verify.network import Network

# Samples that stand for all where the parameters are moved.
FEW = 2
# Batch sizes that are always tried, and how, beside those at which a trace says that the code may branch.
SIZES = {1: ("no_grad",), 2: ("no_grad", "grad"), 3: ("inference",), 5: ("no_grad",), 17: tuple(MODES)}
# Larger than most batches: behind it lies what code does with a large one, however it asks.
LARGE = 257
# Bytes of the values of one run.
MEMORY = 1 << 30


def at_once(network: Network) -> int:
    """Samples of one run."""
    return max(1, MEMORY // (8 * network.alive()))


def sizes(network: Network) -> list[int]:
    """Batch sizes to be tried: a few small ones, and those at which the trace says that the code may branch."""
    return sorted({*SIZES, min(LARGE, at_once(network)), *branching(network)})


def branching(network: Network) -> list[int]:
    """Batch sizes around which the code may branch, as far as memory holds such a batch."""
    most = at_once(network)
    return sorted({n for graph in network.graphs.values() for n in graph.batch_sizes if n <= most})


def ways(network: Network) -> list[tuple[int, str]]:
    """Batch sizes and modes of torch: all modes where the code is known to branch."""
    everywhere = branching(network)
    return [
        (size, mode)
        for size in sizes(network)
        for mode in (MODES if size in everywhere else SIZES.get(size, ("no_grad",)))
    ]


def repeated(places: Tensor, size: int) -> Tensor:
    """So many places: the given ones, again and again."""
    return places[torch.arange(size) % len(places)]
