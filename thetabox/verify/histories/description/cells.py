"""What is followed: one layer of a description as atoms, its cells in a network's state, and what these may be in."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from thetabox.models.leaky import LeakyCells
from thetabox.verify.histories.description.atoms import AtomBlock


@dataclass(frozen=True)
class Combination:
    """What a cell may be in before a step.

    Attributes:
        entries: the polynomials (numbers all) of its counters, in their order.
        side: sign of the last v − A, where the network finds its spikes from that anew.
        spike, refractory: z and r of the description.
    """

    entries: tuple[int, ...]
    side: int | None
    spike: int
    refractory: int


@dataclass
class DescribedCell:
    """A cell of the description and where it stands in the network's state.

    Attributes:
        potential, adaptation: atoms of v and b.
        counters: atoms of the rest.
        reached: every combination that it can be in, with the numbers that stand for atoms then.
    """

    potential: int
    adaptation: int | None
    counters: list[int]
    reached: dict[Combination, dict[int, int]] = field(default_factory=dict)


@dataclass
class LayerAtoms:
    """One layer of the description as atoms, and the spikes that its products hold.

    Attributes:
        weight_in, weight_rec: matrices.
        below: what the input's places hold, 0 where that is not known yet.
        before: the same for the cells' own spikes of the step before.
        alpha, rho, threshold, beta: a polynomial a cell.
        may_be_negative: whether the box moves a threshold, or one is negative.
    """

    says: LeakyCells
    weight_in: AtomBlock
    weight_rec: AtomBlock | None
    below: np.ndarray
    before: np.ndarray
    alpha: list[int]
    rho: list[int] | None
    threshold: list[int]
    beta: list[int] | None
    may_be_negative: bool
