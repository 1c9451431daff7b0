"""Means and variances of rows on a stage's outputs, given what it reads, for several functions below the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.yields.sobolev.patterns import DerivativeRange

# Taps of a small table.
SMALL = 64
# More than what squares of small derivatives lose.
UNDERFLOW = 1e-200


class RowParts(NamedTuple):
    """Rows, channel by channel: of the positions whose outputs are not always 0.

    Attributes:
        rising, falling: coefficients ``[rows, live]``, at least 0 and at most 0.
        at: the positions, ``[live]``.
        places: which places they are.
    """

    rising: Tensor
    falling: Tensor
    at: Tensor
    places: Tensor


def parts_of(
    a: Float[Tensor, "channels rows positions"],
    index: Int[Tensor, " positions"],
    alive: Bool[Tensor, "channels places"],
) -> list[RowParts]:
    """Of each channel, for coefficients of the places ``index``; outputs beyond the edge are not alive."""
    parts = []
    # Positions first, so that they are picked as a whole.
    for part, mask in zip(a.transpose(1, 2).contiguous(), alive[:, index], strict=True):
        at = mask.nonzero()[:, 0]
        chosen = part.index_select(0, at)
        parts.append(RowParts(chosen.clamp(min=0.0).T, chosen.clamp(max=0.0).T, at, index[at]))
    return parts


class RowSums(NamedTuple):
    """What a stage makes of rows, by functions below its outputs (sides).

    Attributes:
        constants: lower bounds of the mean but for forms, ``[sides, rows]``.
        variances: upper bounds of the channels' parts of the variance, ``[sides, channels, rows]``.
        squares: of the first side, squared derivatives by taps, each times the tap's variance, ``[channels, rows,
            taps]``; without channels where they were not asked for.
    """

    constants: Tensor
    variances: Tensor
    squares: Tensor


class StageMoments:
    """Constants and gradients of a stage's outputs, in units of the noise.

    Args:
        variance: of the taps, ``[channels, taps]``.
        most_tap: upper bounds of |tap|, ``[taps]``.
        size: upper bounds of what constants and forms consist of, ``[channels, places]``.
        above: constants of the upper bound, ``[channels, places]``, and the range of its gradient.
        below: the same of each function below.
        terms: how often sizes count in forms.
    """

    def __init__(
        self,
        variance: Tensor,
        most_tap: Tensor,
        size: Tensor,
        above: tuple[Tensor, DerivativeRange],
        below: Sequence[tuple[Tensor, DerivativeRange]],
        terms: int,
    ) -> None:
        self.scale, self.terms = variance.sqrt(), terms
        self.most = most_tap * self.scale * (1.0 + 1e-12)
        # [channels, places, sides, middle, radius, constant, size]; all but middles and constants by |a|.
        self.above = self._table(above, size, -1.0)
        self.below = torch.stack([self._table(b, size, 1.0) for b in below], 2)

    def _table(
        self, values: tuple[Tensor, DerivativeRange], size: Tensor, sign: float
    ) -> Float[Tensor, "channels places all"]:
        constant, range_ = values
        half = 0.5 * self.scale[:, None]
        middle, radius = (range_.low + range_.high) * half, (range_.high - range_.low) * (sign * half)
        rest = torch.stack([constant, sign * size], -1)
        return torch.cat([middle, radius, rest], -1)

    def of(self, rows: Sequence[RowParts], sides: int, *, squares: bool = False) -> RowSums:
        """Of rows, by the first so many functions below."""
        channels, count, taps = len(rows), len(rows[0].rising), self.scale.shape[1]
        constants, sizes = self.scale.new_zeros(2, count, sides)
        variances = self.scale.new_zeros(channels, count, sides)
        kept = self.scale.new_zeros(channels if squares else 0, count, taps)
        positions = max(len(part.at) for part in rows)
        # Of sums, of tables, and of the middle and the radius.
        error = 2.0 * gamma_sum(2 * positions + 32)
        # Small tables of all sides at once.
        step = sides if taps <= SMALL else 1
        for c, part in enumerate(rows):
            if not len(part.at):
                continue
            start = part.falling @ self.above[c].index_select(0, part.places)
            whole = part.rising.sum(1) - part.falling.sum(1)
            start[:, taps : 2 * taps] += torch.outer(whole * error, self.most[c])
            below = self.below[c].index_select(0, part.places)
            for n in range(0, sides, step):
                some = slice(n, n + step)
                if step == 1:
                    sums = torch.addmm(start, part.rising, below[:, n])[:, None]
                else:
                    sums = (part.rising @ below[:, some].flatten(1)).view(count, step, -1)
                    sums += start[:, None]
                largest = sums[..., :taps].abs_()
                largest += sums[..., taps : 2 * taps]
                largest.square_()
                torch.sum(largest, -1, out=variances[c, :, some])
                constants[:, some] += sums[..., -2]
                sizes[:, some] += sums[..., -1]
                if squares and n == 0:
                    kept[c] = largest[:, 0]
        # What rounding loses in constants, and in the forms that go with them.
        lost = sizes * (self.terms * gamma_sum(8 * channels * positions + 64))
        variances = variances.permute(2, 0, 1) * (1.0 + gamma_sum(taps + 16)) + UNDERFLOW
        return RowSums((constants - lost).T, variances, kept)

    def guess(self, rows: Sequence[RowParts]) -> Float[Tensor, " rows"]:
        """About the variance of rows by the first function below; no bound."""
        taps = self.scale.shape[1]
        variance = self.scale.new_zeros(len(rows[0].rising))
        for part, below in zip(rows, self.below, strict=True):
            a, middle = part.rising + part.falling, below[:, 0, :taps].index_select(0, part.places)
            variance += (a @ middle).square_().sum(1)
        return variance
