"""Which candidates of a place may be its largest, whether its ReLU is on, and the inputs that its gradient can be."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.yields.sobolev.convolved import StageInputs
from thetabox.verify.yields.sobolev.ends import Ends


class DerivativeRange(NamedTuple):
    """Ends of the derivatives of places by the noise of their taps, ``[channels, places, taps]``."""

    low: Tensor
    high: Tensor

    def where(self, condition: Bool[Tensor, "channels places"], other: DerivativeRange) -> DerivativeRange:
        """This one there, the other elsewhere."""
        inside = condition[..., None]
        return DerivativeRange(torch.where(inside, self.low, other.low), torch.where(inside, self.high, other.high))

    def times(self, gate: Tensor) -> DerivativeRange:
        """Zero where the gate ``[channels, places]`` is."""
        return DerivativeRange(self.low * gate[..., None], self.high * gate[..., None])

    def with_zero(self) -> DerivativeRange:
        """And zero in between."""
        return DerivativeRange(self.low.clamp(max=0.0), self.high.clamp(min=0.0))


class Pattern(NamedTuple):
    """What the events of a stage leave open of its places.

    Attributes:
        on: the reference is at least 0, ``[channels, places]``.
        off: all values are at most 0.
        open: candidates that may be the largest; the reference always, ``[channels, places, candidates]``.
        least, most: ends of the output.
    """

    on: Tensor
    off: Tensor
    open: Tensor
    least: Tensor
    most: Tensor

    @classmethod
    def of(cls, read: StageInputs, ends: Ends) -> Pattern:
        """By the ends of values."""
        on = ends.least >= 0.0
        open_ = ~((ends.beyond <= 0.0) | (ends.most <= 0.0)) | (read.reference > 0)
        most = torch.where(open_, ends.most, -torch.inf).amax(-1)
        # A candidate that is not open is at most the reference, or at most 0.
        off = (most <= 0.0) & ~on
        return cls(on, off, open_, ends.least.clamp(min=0.0), most.clamp(min=0.0))


class Used(NamedTuple):
    """The events of a stage on which something was built.

    Attributes:
        events: how many.
        probability: that any of them fails, at most.
    """

    events: int
    probability: float


def used(read: StageInputs, ends: Ends, pattern: Pattern) -> Used:
    """The events behind a pattern, and behind the means of which the upper bounds of the outputs are made.

    Those are: that a candidate which is not open is at most 0, or at most the reference, whichever is likelier; that
    the reference is at most 0 where the place is off, and above its lower end where it is on; the upper ends of what
    may be the output elsewhere; and two ends of each mean behind a chord: the reference's where the ReLU may be off,
    another open candidate's, or its distance's.
    """
    closed = torch.minimum(
        torch.where(ends.most <= 0.0, ends.positive, torch.inf), torch.where(ends.beyond <= 0.0, ends.above, torch.inf)
    )
    off = pattern.off[..., None] & (read.reference > 0)
    shut = torch.where(~pattern.open, closed, torch.where(off, ends.positive, 0.0))
    live = pattern.open & ~pattern.off[..., None]
    values = int(pattern.on.sum() + live.sum())
    means = 2 * int((live & ~(pattern.on[..., None] & (read.reference > 0))).sum()) if ends.each_mean else 0
    total = shut.sum() * (1.0 + gamma_sum(shut.numel())) + values * ends.each + means * ends.each_mean
    return Used(int((shut > 0).sum()) + values + means, float(total) * (1.0 + 1e-12))


def of_reference(read: StageInputs) -> DerivativeRange:
    """If the reference is the output."""
    return DerivativeRange(read.taps_of_reference(read.low), read.taps_of_reference(read.high))


def of_all(read: StageInputs, pattern: Pattern) -> DerivativeRange:
    """Of the largest of the open candidates and, where the ReLU may be off, 0; 0 where it is off."""
    shape = (*pattern.on.shape, read.low.shape[-1])
    low, high = read.low.new_full(shape, torch.inf), read.low.new_full(shape, -torch.inf)
    for k in range(read.low.shape[1]):
        inside = pattern.open[..., k, None]
        low = torch.minimum(low, torch.where(inside, read.low[:, k], torch.inf))
        high = torch.maximum(high, torch.where(inside, read.high[:, k], -torch.inf))
    whole = DerivativeRange(low, high)
    whole = whole.where(pattern.on, whole.with_zero())
    return whole.times((~pattern.off).to(low.dtype))
