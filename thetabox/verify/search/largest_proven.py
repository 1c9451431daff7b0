"""The search of one domain for the largest ε that it proves, all samples at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox import checks
from thetabox.errors import InputError
from thetabox.verify.effort import OutOfTime

# Places of the samples, their ε → their proven margins.
Margins = Callable[[Tensor, Tensor], Tensor]

FLOOR = 1e-9
# First step of the search for a bracket; every further step is the square of the one before.
STEP = 1.5


def searched_range(what: str, top: Any, rtol: Any) -> tuple[float, float]:
    """Where a search for the largest proven size ends, and how finely it goes.

    Raises:
        InputError: the end lies below the least size, or the resolution outside of 1e-6 to 1.
    """
    end, step = checks.number(top, what), checks.number(rtol, "rtol")
    if end < FLOOR:
        raise InputError(f"{what} must be at least {FLOOR}")
    if not 1e-6 <= step <= 1.0:
        raise InputError(f"rtol must lie between 1e-6 and 1, not {step}")
    return end, step


def largest_proven(
    margins: Margins,
    start: Float[Tensor, " samples"],
    proven: Float[Tensor, " samples"],
    top: float,
    rtol: float,
) -> Float[Tensor, " samples"]:
    """The largest ε proven of each sample: r (1 + rtol) was tried and not proven, or r is ``top``.

    A bracket is grown or shrunk around the start by ever larger factors; inside, trials are placed where the two
    margins would meet zero, and halfway (in the logarithm) every other time. Bounds need not be monotone in ε: only
    what was itself proven counts, and r (1 + rtol) is always tried last.

    Args:
        margins: evaluates open samples only.
        start: first trial; NaN for anywhere.
        proven: ε that are proven already, 0 for none; nothing at or below is tried.
        top: where the search ends.
        rtol: relative resolution.

    Returns:
        r, at least ``proven``; 0 where nothing at or above the floor 1e-9 could be proven. Where the time is over
        (:class:`~thetabox.verify.effort.OutOfTime`), what was proven before.
    """
    middle = float((FLOOR * top) ** 0.5)
    first = torch.where(start.isnan(), middle, start).clamp(FLOOR, top)
    state = _State(proven.clone(), top, rtol)
    trial = torch.where(proven > 0, torch.maximum(first, state.last), first)
    open_ = (proven < top).nonzero().squeeze(1)
    while len(open_):
        tried = trial[open_]
        try:
            finished = state.note(open_, tried, margins(open_, tried))
        except OutOfTime:
            break
        open_ = open_[~finished]
        trial[open_] = state.next_trial(open_)
    return state.low


# What a trial inside the bracket is: halfway, where the margins cross zero, r (1 + rtol).
HALFWAY, CROSSING, LAST = 0, 1, 2


class _State:
    """The brackets of all samples.

    Attributes:
        low: proven, 0 for nothing.
        high: tried and not proven, above ``low``; infinite for none.
        least, most: margins at the two, infinite where not known.
    """

    def __init__(self, low: Tensor, top: float, rtol: float) -> None:
        self.low, self.top, self.rtol = low, top, rtol
        self.high, self.least = torch.full_like(low, torch.inf), torch.full_like(low, torch.inf)
        self.most, self.step = torch.full_like(low, -torch.inf), torch.full_like(low, STEP)
        self.kind = torch.full(low.shape, HALFWAY)

    @property
    def last(self) -> Tensor:
        """What is tried last: r (1 + rtol), or where the search ends."""
        return (self.low * (1.0 + self.rtol)).clamp(max=self.top)

    def note(self, open_: Int[Tensor, " open"], tried: Tensor, margin: Tensor) -> Tensor:
        """Take in what a trial of the open samples gave; return which of them are finished."""
        holds, last = margin > 0, self.last[open_]
        nothing = self.low[open_] <= 0
        low = torch.where(holds, tried, self.low[open_])
        high, fails = self.high[open_], ~holds
        self.least[open_] = torch.where(holds, margin, self.least[open_])
        self.most[open_] = torch.where(fails, margin, self.most[open_])
        high = torch.where(fails, tried, high)
        # Where bounds are not monotone, more may be proven than failed before.
        self.low[open_], self.high[open_] = low, torch.where(high > low, high, torch.inf)
        before = self.kind[open_]
        after = torch.where(before == HALFWAY, CROSSING, HALFWAY)
        self.kind[open_] = torch.where((before == CROSSING) & holds, LAST, after)
        return (fails & torch.where(nothing, tried <= FLOOR, tried <= last)) | (low >= self.top)

    def next_trial(self, open_: Int[Tensor, " open"]) -> Tensor:
        """Outside a bracket by ever larger steps, inside by the margins and by halves in turn."""
        low, high, last, kind = self.low[open_], self.high[open_], self.last[open_], self.kind[open_]
        step = self.step[open_]
        shrinking, growing = low <= 0, high.isinf()
        self.step[open_] = torch.where(growing | shrinking, step * step, step).clamp(max=1e6)
        halfway = (low * high).sqrt()
        least, most = self.least[open_], self.most[open_]
        # A little below the crossing: a success there and a failure a little above end the search.
        crossing = (low + (high - low) * least / (least - most)) / (1.0 + self.rtol) ** 0.5
        inside = torch.where((kind == CROSSING) & crossing.isfinite(), crossing, halfway)
        narrow = high <= low * (1.0 + self.rtol) ** 2
        inside = torch.where((kind == LAST) | narrow | (inside >= high), last, torch.maximum(inside, last))
        outside = torch.where(shrinking, (high / step).clamp(min=FLOOR), torch.maximum(low * step, last))
        return torch.where(shrinking | growing, outside.clamp(max=self.top), inside)
