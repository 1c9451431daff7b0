r"""Values of a batch of samples inside balls: a table from operator to rule beside that of intervals.

For every choice of the parameters a sample's value lies within ``radius`` of ``centre`` in the Euclidean norm. A layer
multiplies that by its spectral norm, where an interval's radius is multiplied by the sums of sizes :math:`\| |W|
\|_\infty`, and a ReLU by at most 1, whatever its signs (Szegedy et al., Intriguing properties of neural networks, ICLR
2014, section 4.3); the noise and rounding of a layer itself are added, number by number from intervals. A single output
:math:`\langle w, x \rangle` moves by :math:`\|w\|_2` times the radius, so that balls give intervals back: behind some
eight layers tighter ones, and behind thirty the only ones that say anything.

Not from the papers: balls and intervals of the same values bound each other at every step, and the noise of weights is
what is added anew in each layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import ROUNDOFF
from thetabox.verify.linear.norms.spectral import ROUNDED_UP
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop, flat
from thetabox.verify.network.graph import Graph, Operation
from thetabox.verify.network.kinds import kinds
from thetabox.verify.network.operators import PIECEWISE_LINEAR

# Of fewer kinks in a row intervals are tighter, and nothing is gained.
DEEP = 8
# Below this ε rounding is what is bounded.
ROUNDING_ONLY = 1e-13


@dataclass
class Ball:
    """``||v - centre|| <= radius`` for every sample.

    Attributes:
        centre: ``[samples, *shape]``.
        low: added to the centre, below its last digit; ``None`` for nothing.
        radius: ``[samples]``.
        apart: how far each number of the value may lie from the centre's.
        local: how far each may move by noise and rounding of the operator alone.
        source: value that the operator reads, where it is a product with parameters.
    """

    centre: Tensor
    radius: Float[Tensor, " samples"]
    low: Tensor | None = None
    apart: Tensor | None = None
    local: Tensor | None = None
    source: int | None = None


BallRule = Callable[["Balls", Samples, Operation], Ball]

BALLS: dict[str, BallRule] = {}


def ball_rule(*operators: str) -> Callable[[BallRule], BallRule]:
    """Register a function as the rule of operators such as ``"aten.relu.default"``.

    It raises :class:`~thetabox.verify.linear.walk.Stop` where it does not apply: the result's interval stands then.
    """

    def register(function: BallRule) -> BallRule:
        for operator in operators:
            BALLS[operator] = function
        return function

    return register


def deep(graph: Graph) -> bool:
    """Whether some path passes so many kinks that intervals are lost."""
    kinks: dict[int, int] = {}
    for operation in graph.operations:
        before = max((kinks.get(i, 0) for i in operation.inputs), default=0)
        kinks[operation.index] = before + (operation.operator in PIECEWISE_LINEAR)
    return max(kinks.values(), default=0) >= DEEP


class Norms:
    """Spectral norms of a network's layers, which depend on no sample: computed once each."""

    def __init__(self) -> None:
        self._known: dict[object, float] = {}
        self._pairs: dict[object, tuple[Tensor, Tensor]] = {}

    def once(self, key: object, compute: Callable[[], float]) -> float:
        """What ``compute`` returned the first time."""
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def pairs(self, key: object, compute: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """As :meth:`once`, of numbers given as sums of two."""
        if key not in self._pairs:
            self._pairs[key] = compute()
        return self._pairs[key]


class Balls:
    """Balls of a batch's values, made as its intervals are.

    Args:
        norms: of the network's layers.

    Attributes:
        made: balls as the rules made them.
    """

    def __init__(self, norms: Norms) -> None:
        self.norms = norms
        self.made: dict[int, Ball] = {}
        self._trimmed: dict[int, Ball] = {}

    def __call__(self, samples: Samples, operation: Operation) -> tuple[Tensor, Tensor] | None:
        """Ends of the operator's result that its ball gives, or ``None``."""
        rule = BALLS.get(operation.operator)
        if rule is None or not samples.plain(operation.index) or not kinds(samples.graph)[operation.index].plain:
            return None
        try:
            ball = rule(self, samples, operation)
        except Stop:
            return None
        lost = ~flat(ball.centre if ball.low is None else ball.centre + ball.low, 1).isfinite().all(1)
        ball.radius = ball.radius.nan_to_num(torch.inf, torch.inf).masked_fill(lost, torch.inf)
        self.made[operation.index] = ball
        if ball.apart is None:
            return None
        radius = ball.apart * ROUNDED_UP + ball.centre.abs() * (2.0 * ROUNDOFF)
        lower, upper = ball.centre - radius, ball.centre + radius
        unknown = ~(lower.isfinite() & upper.isfinite())
        return lower.masked_fill(unknown, -torch.inf), upper.masked_fill(unknown, torch.inf)

    @staticmethod
    def rounding_only(samples: Samples) -> bool:
        """Whether all samples' ε are so small that more digits are worth their cost."""
        return bool((samples.epsilon <= ROUNDING_ONLY).all())

    def ball(self, samples: Samples, index: int) -> Ball:
        """The ball of a value whose interval is final, its centre inside that and no larger than its own.

        Raises:
            Stop: the samples do not stand in the value's first dimension.
        """
        if index in self._trimmed:
            return self._trimmed[index]
        if not samples.plain(index):
            raise Stop
        value, made = samples.interval(index), self.made.get(index)
        # Where an end is infinite so is the radius: nothing is known.
        centre = (value.lower + value.upper).nan_to_num() / 2 if made is None else made.centre
        # The point of the interval next to the centre is no farther from anything inside.
        low = None if made is None else made.low
        if low is not None:
            beyond = (centre <= value.lower) & (low < 0) | (centre >= value.upper) & (low > 0)
            beyond |= (centre < value.lower) | (centre > value.upper)
            low = low.masked_fill(beyond, 0.0)
        centre = torch.minimum(torch.maximum(centre, value.lower), value.upper)
        radius = self._farthest(value, centre, low)
        radius = radius if made is None else torch.minimum(made.radius, radius)
        self._trimmed[index] = Ball(centre, radius, low)
        return self._trimmed[index]

    @staticmethod
    def _farthest(value: Interval, centre: Tensor, low: Tensor | None) -> Tensor:
        if value.is_point:
            return torch.zeros(len(centre), dtype=torch.float64, device=centre.device)
        away = torch.maximum(value.upper - centre, centre - value.lower)
        return norm(away if low is None else away + low.abs())


def norm(t: Tensor) -> Float[Tensor, " samples"]:
    """Upper bound of each sample's Euclidean norm; infinite where that is not a number."""
    # What underflows when it is squared is less than the last term.
    size = torch.linalg.vector_norm(flat(t, 1), dim=1) * ROUNDED_UP + 1e-150 * t[0].numel()
    return size.nan_to_num(torch.inf, torch.inf)


def shaped(values: Float[Tensor, " samples"], like: Tensor) -> Tensor:
    """One number a sample, to multiply ``like``."""
    return values.view(-1, *[1] * (like.dim() - 1))
