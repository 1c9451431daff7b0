"""Rows of a spiking network that know nothing of their outputs any more, left out of the larger ε of a sweep.

What is said of a row once it is left out, that each of its outputs is 0 or 1, holds whatever the weights are. Nothing
is lost by it either: bounds only widen with ε, so outputs that are all unknown from some step on at one ε are so at
every larger one.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interpreter.context import Context, RowEpsilons

# Rows are left out once they are this share of those still computed: to leave some out copies the state.
LEAST_SHARE = 0.1


def unknown_rows(x: Interval) -> Bool[Tensor, " rows"]:
    """Which rows of truth values, the first dimension, are nothing but [0, 1], to the last bit."""
    return ((x.lower == 0.0) & (x.upper == 1.0)).flatten(1).all(1)


class Remaining:
    """The samples whose steps are still computed, at the ε of one group of a sweep.

    Attributes:
        context: of these samples.
        samples: their places; ``None`` while they are all.
        left, stay: the samples that :meth:`leaves_some` left out last, and places of the others among those before.

    Args:
        context: of all samples.
        steps: of the network.
        truths: whether outputs are truth values, and nobody looks on at what is computed: else all samples remain. So
            they do where no smaller ε was walked before.
    """

    def __init__(self, context: Context, steps: int, *, truths: bool) -> None:
        self.whole = self.context = context
        self.samples: Int[Tensor, " samples"] | None = None
        self.memo = context.memo if truths and context.row_epsilon.shared else None
        values = context.row_epsilon.values
        self.left = self.stay = torch.empty(0, dtype=torch.long, device=values.device)
        # The step from which on a smaller ε knew nothing; and the same at the largest one here, as far as it has come.
        self.leaves = torch.full(values.shape[1:], steps, device=values.device)
        if self.memo is not None and self.memo.known_until is not None:
            smallest, leaves = self.memo.known_until
            if smallest <= float(values.min()):
                self.leaves = leaves
        self.known_until = torch.zeros_like(self.leaves)

    @property
    def none_left(self) -> bool:
        """Whether nothing is computed any more."""
        return self.samples is not None and len(self.samples) == 0

    @property
    def rows(self) -> Int[Tensor, " rows"] | None:
        """Rows of the samples that are still computed; ``None`` while they are all."""
        return None if self.samples is None else self.rows_of(self.samples)

    def rows_of(self, samples: Int[Tensor, " samples"]) -> Int[Tensor, " rows"]:
        """Rows of some samples, at every ε."""
        first = torch.arange(self.whole.row_epsilon.per_sample, device=samples.device) * self.whole.row_epsilon.samples
        return (first[:, None] + samples).flatten()

    def leaves_some(self, time: int) -> bool:
        """Leave out samples that need no more, if they are enough; never at the first step, which all walk."""
        if time == 0 or self.memo is None:
            return False
        if self.samples is None:
            indices = torch.arange(len(self.leaves), device=self.leaves.device)
        else:
            indices = self.samples
        goes_on = self.leaves[indices] > time
        count = int(goes_on.sum())
        if count == len(indices) or (count and len(indices) - count < LEAST_SHARE * len(indices)):
            return False
        self.before = len(indices)
        self.left, self.stay, self.samples = indices[~goes_on], goes_on.nonzero().squeeze(1), indices[goes_on]
        # Without the memo: the products there are those of all samples.
        self.context = Context(RowEpsilons(self.whole.row_epsilon.values[:, self.samples]), self.whole.rounding)
        return True

    def stayed(self, x: Interval) -> Interval:
        """Of a value of the samples before :meth:`leaves_some`, that of those that stayed."""
        return taken(x, self.stay, self.before)

    def of_all(self, x: Interval) -> Interval:
        """Of a value of all samples, that of those that remain."""
        return taken(x, self.samples, self.whole.row_epsilon.samples)

    def note(self, outputs: Interval, time: int) -> None:
        """Note which samples know something of their outputs, at the largest ε."""
        if self.memo is None:
            return
        bounded = ~unknown_rows(outputs).view(self.context.row_epsilon.per_sample, -1)
        bounded = bounded[int(self.context.row_epsilon.values[:, 0].argmax())]
        self.known_until[bounded if self.samples is None else self.samples[bounded]] = time + 1

    def remember(self) -> None:
        """For the next ε of the sweep."""
        if self.memo is not None:
            self.memo.known_until = (self.whole.row_epsilon.largest, self.known_until)


def taken(x: Interval, indices: Int[Tensor, " places"] | None, samples: int) -> Interval:
    """Some of ``samples`` samples, at every ε that the value tells apart; all where ``indices`` is ``None``."""
    if indices is None or (x.batch is None and not (x.by_row and x.shape[0] > 1)):
        return x
    dim, each = (0, (-1, samples, 1)) if x.batch is None else (x.batch, (-1, samples, x.merged))
    return x.moved(lambda t: t.unflatten(dim, each).index_select(dim + 1, indices).flatten(dim, dim + 2))
