"""How many standard deviations the losses for yield allow for: δ divided among the bounds that are asked of a chip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from thetabox.train.yields.graph import AFFINE, Traced

MARGINS = 0.5
"""Share of δ that the margins may spend; the layers' ends have the rest."""


@dataclass(frozen=True)
class Spent:
    """Standard deviations of one margin and of one end of a layer's values; a margin's share as ln(1/probability)."""

    margin: float
    end: float
    exponent: float


def spent(net: Traced, classes: int, delta: float) -> Spent:
    """Each of two ends of every layer's values, and each margin, fails with probability 2Φ(-z) at most."""
    inner = [o for o in net.graph.operations if o.operator in AFFINE and o.index != net.output]
    events = 2 * sum(math.prod(s or 1 for s in net.graph.layouts[o.index].shape) for o in inner)
    rows = max(classes - 1, 1)
    share = MARGINS if events else 1.0
    return Spent(
        margin=_tail(share * delta / rows),
        end=_tail((1 - share) * delta / events) if events else 0.0,
        exponent=math.log(rows / (share * delta)),
    )


def _tail(probability: float) -> float:
    return -NormalDist().inv_cdf(min(probability, 1.0) / 2)
