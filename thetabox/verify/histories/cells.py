r"""Constants of one layer of leaky cells, in the dtype of the bounds, and how far they may be off.

Traces are deferred: what a train z leaves in a potential is its filter :math:`g \leftarrow \alpha g + \gamma z`, and
with :math:`R \leftarrow \alpha R + d z` the potential is :math:`v = \sum g W - R`. Weights stand outside of all time:
their box is met once a step, not once more for every step that the potential remembers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from thetabox.verify.arithmetic.rounding import Rounding


@dataclass(frozen=True)
class Trace:
    r"""A filter :math:`g \leftarrow \alpha g + \gamma s` of one pole, s being a train or another trace's new value.

    Attributes:
        value: α, in [0, 1].
        error: of α, absolute.
        gain: γ.
        gain_error: of γ, absolute.
        parent: which trace s is, ``None`` for the train itself.
    """

    value: float
    error: float
    gain: float = 1.0
    gain_error: float = 0.0
    parent: int | None = None


@dataclass
class UnitConstant:
    """A per-unit constant ``[1 or rows, units]``; one tensor twice where it is exact."""

    lower: Tensor
    upper: Tensor

    @property
    def exact(self) -> bool:
        """Whether both ends are one tensor."""
        return self.lower is self.upper

    def first(self, rows: int) -> UnitConstant:
        """Of the first rows alone."""
        if len(self.lower) == 1:
            return self
        lower = self.lower[:rows]
        return UnitConstant(lower, lower if self.exact else self.upper[:rows])

    def size(self) -> float:
        """Largest absolute value."""
        return max(float(self.lower.abs().max()), float(self.upper.abs().max()))

    def at(self, rows: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """Both ends of some (row, unit) pairs, as columns."""
        # A place in a row-major list is found in a third of the time that a pair of indices takes.
        places = units if len(self.lower) == 1 else rows * self.lower.shape[1] + units
        lower = self.lower.take(places)[:, None]
        return lower, lower if self.exact else self.upper.take(places)[:, None]


@dataclass(frozen=True)
class Adaptation:
    r"""Thresholds that rise with a cell's own spikes: :math:`b \leftarrow \rho b + (1-\rho) z`, A = thr + β b.

    Attributes:
        rho, beta: ρ and β.
        rho_error: how far ρ may be off beside its ends.
    """

    rho: UnitConstant
    rho_error: float
    beta: UnitConstant


@dataclass(frozen=True)
class Cells:
    """One layer of cells.

    Attributes:
        rounding: of the bounds.
        units: how many.
        traces: filters of their trains that others read; a parent comes before its children.
        alpha: decay of what a spike takes, and of the potential.
        alpha_error: of any of them, absolute.
        threshold: A, without what adaptation adds.
        drop: what a spike takes of the next potential; ``None`` for A dt with the A of the next step.
        dt: factor of that A.
        value: what a spike sets the potential to; ``None`` where spikes are subtracted.
        start: the potential before the first step, both ends, of cells that spikes set to a value.
        most: spikes a step.
        adaptation: of thresholds, ``None`` for none.
        silent_steps: steps in which a unit is silent after a spike.
        delay: steps in which it is silent at the beginning.
        influence: how much of others hangs on each unit: its forks are split first.
        key: which trace histories are ordered by, ``None`` for none.
        largest: whether the largest of several currents reaches them.
        late: whether spikes set the potential to the value in the step behind them, and what enters then is lost.
        twice: whether a potential that is still above A behind a spike's reset takes another A of the next comparison.
    """

    rounding: Rounding
    units: int
    traces: tuple[Trace, ...]
    alpha: Float[Tensor, "1 units"]
    alpha_error: float
    threshold: UnitConstant
    drop: UnitConstant | None
    dt: float
    value: UnitConstant | None
    start: tuple[Tensor, Tensor]
    most: int
    adaptation: Adaptation | None
    silent_steps: Float[Tensor, " units"] | None
    delay: Float[Tensor, " units"] | None
    influence: Float[Tensor, " units"]
    key: int | None
    largest: bool = False
    late: bool = False
    twice: bool = False

    @property
    def levels(self) -> int:
        """Whole numbers of thresholds that the potential is compared with."""
        return 2 if self.twice else self.most

    @property
    def keeps_pending(self) -> bool:
        """Whether what a spike does to the potential is still to come behind its step."""
        return self.late or self.twice

    @property
    def never_silent(self) -> bool:
        """Whether no unit ever has to be."""
        return self.silent_steps is None

    @property
    def resets(self) -> bool:
        """Whether spikes change the potential at all."""
        return self.drop is not None or self.value is not None or self.dt != 0.0

    @cached_property
    def instant(self) -> bool:
        """Whether a potential forgets everything in a step."""
        return bool((self.alpha == 0).any())

    @cached_property
    def hardest_reset(self) -> float:
        """What reset sums are measured by where histories are compared."""
        return max(self.threshold.size() * self.dt if self.drop is None else self.drop.size(), 1e-30)
