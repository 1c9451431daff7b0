"""Branch and bound over spikes: a proof that fails is split in two where its first neuron forks.

Up to its first fork everything in a row is exact. Its two children go on from there, one without that spike and one
with it (of cells of several spikes a step: with as few as may be, and with more), and hold both or neither is a proof;
each child in turn is exact up to its own first fork. Rows that are proven need no more. (Bunel et al. 2018, A unified
view of piecewise linear neural network verification, for ReLUs.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thetabox.verify.effort import Meter
from thetabox.verify.histories.records import GivenSpikes, State, all_joined, taken
from thetabox.verify.histories.walk import Walked

# Rows that are walked through time together, and those among them of one tree: fixed, so that a tree grows in the same
# order whatever stands beside it.
TOGETHER, OF_A_TREE = 48, 8
# After so many rows a proof is given up whose tree, by the share that is closed, would outgrow the limit by far.
TRIAL, OUTGROWN = 48, 16.0


@dataclass
class Leaf:
    """A part of a row that is still open: spikes up to ``time`` and ``given`` ones in that step."""

    time: int
    state: tuple[State, int]
    given: GivenSpikes
    depth: int
    margin: float


@dataclass
class Tree:
    """The parts of one (sample, ε).

    Attributes:
        open: leaves to be split.
        margin: least margin of all leaves that are closed.
        walked: rows so far.
        closed: share of the tree that is proven, a leaf of depth d counting 2⁻ᵈ.
        hopeless: more rows would prove nothing.
        unpaid: the next row could not be paid for.
    """

    open: list[Leaf]
    margin: float = float("inf")
    walked: int = 1
    closed: float = 0.0
    hopeless: bool = False
    unpaid: bool = False

    def alive(self, most: int) -> bool:
        """Whether it is worth going on."""
        return bool(self.open) and not self.hopeless and self.walked < most

    def promise(self, most: int) -> float:
        """Share that is proven, where more effort may prove the rest; below 0 where it cannot, or need not."""
        return self.closed if self.alive(most) else -1.0

    def bound(self) -> float:
        """What is proven of the whole."""
        return min([self.margin, *(leaf.margin for leaf in self.open)])


# (places of the (sample, ε) pairs, first step, state in front of it, given spikes) → where that ends, and margins.
Run = Callable[[Tensor, Tensor, State, GivenSpikes], tuple[Walked, Tensor]]


def split(trees: list[Tree], most: int, run: Run, meter: Meter, passes: float, steps: int) -> None:
    """Walk the open leaves of all trees until each is proven, given up, has had ``most`` rows, or cannot pay for one.

    Args:
        trees: one for each pair of the meter.
        most: rows of a tree.
        run: walks rows.
        meter: is charged for every step of a row.
        passes: forward passes that a step counts as.
        steps: of time.
    """
    while True:
        chosen = _next(trees, most, meter, passes, steps)
        if not chosen:
            return
        chosen.sort(key=lambda pair: pair[1].time)
        indices = torch.tensor([pair for pair, _ in chosen])
        since = torch.tensor([leaf.time for _, leaf in chosen])
        start = all_joined([taken(leaf.state[0], torch.tensor([leaf.state[1]])) for _, leaf in chosen])
        walked, margins = run(indices, since, start, GivenSpikes.stacked([leaf.given for _, leaf in chosen]))
        for row, ((pair, leaf), margin) in enumerate(zip(chosen, margins.tolist(), strict=True)):
            grow(trees[pair], walked, row, margin, leaf.depth, most)


def grow(tree: Tree, walked: Walked, row: int, margin: float, depth: int, most: int) -> None:
    """Close a leaf that is proven, or put its two children in its place."""
    tree.walked += depth > 0
    if margin > 0:
        tree.margin = min(tree.margin, margin)
        tree.closed += 2.0**-depth
        return
    assert walked.fork is not None
    if row not in walked.fork.before:
        # Not one uncertain spike: nothing is left to split.
        tree.margin, tree.hopeless = min(tree.margin, margin), True
        return
    fork = walked.fork
    for above in (False, True):
        given = fork.given.with_row(row, int(fork.unit[row]), int(fork.cut[row]), above=above)
        tree.open.append(Leaf(int(fork.time[row]), fork.before[row], given, depth + 1, margin))
    if tree.walked >= TRIAL and tree.walked > tree.closed * OUTGROWN * most:
        tree.hopeless = True


def _next(trees: list[Tree], most: int, meter: Meter, passes: float, steps: int) -> list[tuple[int, Leaf]]:
    """The deepest leaves of trees that are worth it, as many of each."""
    chosen: list[tuple[int, Leaf]] = []
    for pair, tree in enumerate(trees):
        if len(chosen) + OF_A_TREE > TOGETHER:
            break
        if tree.unpaid or not tree.alive(most):
            continue
        for _ in range(min(OF_A_TREE, len(tree.open), most - tree.walked)):
            cost = torch.tensor([passes * (steps - tree.open[-1].time)], dtype=torch.float64)
            if not bool(meter.part(torch.tensor([pair])).pay(cost)):
                # What is open stays so: the whole is not proven.
                tree.unpaid = True
                break
            chosen.append((pair, tree.open.pop()))
    return chosen


__all__ = ["Tree", "grow", "split"]
