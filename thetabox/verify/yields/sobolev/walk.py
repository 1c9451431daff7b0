r"""Backward rows through convolution stages: constants, and variances that add up.

**Log-Sobolev step.** Given the layers before, the outputs of channel c depend on its kernel's noise
:math:`n_c` alone, and channels are independent. A row :math:`\sum_{c,o} a_{c,o} h_{c,o}` is, on the events, at least
:math:`\sum_c f_c(n_c)`: for :math:`a \ge 0` of any function below the output, for :math:`a < 0` of the largest of the
open candidates. With :math:`L_c^2 = \sum_t \tau_{c,t}^2 \sup (\partial_t f_c)^2`,

.. math:: -\tfrac1\lambda \ln E e^{-\lambda \sum f_c} \ge \sum_c E f_c - \tfrac\lambda2 \sum_c L_c^2

(Herbst's argument), the means have lower bounds that are linear in what the stage reads, and these are rows on the
stage before. See :mod:`.rules` for what becomes of constants and variances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.yields.sobolev.convolved import TINY, Read
from thetabox.verify.yields.sobolev.expectations import Below, Form
from thetabox.verify.yields.sobolev.patterns import Range
from thetabox.verify.yields.sobolev.rules import Rule
from thetabox.verify.yields.sobolev.table import Table
from thetabox.verify.yields.sobolev.tilted import Tilted
from thetabox.verify.yields.sobolev.windows import Rows

# Numbers of the largest temporary tensors.
NUMBERS = 1 << 22
# Of the functions below the outputs, the one that is looked at first.
QUICK = 1


@dataclass
class Side:
    """Bounds of outputs for coefficients of one sign, ready to be looked up."""

    slopes: Table | None
    constant: Table
    low: Table
    high: Table


class Passed:
    """A stage whose events are known.

    Args:
        read: what it reads.
        above: upper bound of the mean of each output.
        pattern: range of the gradient that belongs to it.
        below: lower bounds with their ranges.
        tilted: variances under the tilted measure; of the first stage only, whose input is the sample itself.
    """

    def __init__(
        self, read: Read, above: Form, pattern: Range, below: Sequence[Below], tilted: Tilted | None = None
    ) -> None:
        self.windows = read.stage.windows
        self.variance = read.stage.variance
        self.tilted = tilted
        self.outputs = read.stage.outputs
        first = tilted is not None
        # The first stage's input is known: its forms are numbers.
        self.above = _side(read, Below(above, pattern), -1.0 if first else None)
        self.below = [_side(read, b, 1.0 if first else None) for b in below]
        sizes = torch.stack([above.size, *(b.form.size for b in below)]).amax(0)
        self.size = Table(sizes * (1.0 + 1e-9) + TINY)
        self.most_tap = torch.maximum(read.low.abs(), read.high.abs()).flatten(0, 1).amax(0)

    def values(
        self, before: Sequence[Passed], rows: Rows, own: Tensor, rule: Rule, *, quick: bool = False
    ) -> Float[Tensor, "owns groups rows"]:
        """Lower bounds by a rule.

        Args:
            before: the stages in front of this one.
            rows: on this stage's outputs.
            own: variances that come on top, ``[owns, groups, rows]``.
            rule: what constants and variances become.
            quick: whether to look at one function below the outputs alone.
        """
        walk = _Walk(self, rows)
        sides = self.below[QUICK : QUICK + 1] if quick else self.below
        if self.tilted is None:
            return self._through(before, walk, sides, own, rule, quick)
        best = torch.full_like(own, -torch.inf)
        for side in sides:
            squares, parts = walk.gradient(side)
            total = walk.constant(side)
            best = torch.maximum(best, total - rule.fixed(_added(own, parts)))
            if not quick and side is self.below[self.tilted.which]:
                found = self.tilted.values(walk.rising, walk.falling, walk.index, (squares, parts), own, rule)
                best = torch.maximum(best, total + found)
        return best

    def _through(
        self, before: Sequence[Passed], walk: _Walk, sides: Sequence[Side], own: Tensor, rule: Rule, quick: bool
    ) -> Tensor:
        """Each row by the function below the outputs that looks best."""
        best: Tensor | None = None
        for side in sides:
            total, variance, forms = walk.constant(side), _added(own, walk.gradient(side)[1]), walk.forms(side)
            if len(sides) > 1 or quick:
                value = total + before[-1].values(before[:-1], forms, variance, rule, quick=True)
                looks = value.sum(0)
            else:
                looks = total
            if best is None:
                best, chosen = looks, (total, variance, forms)
                continue
            better = looks > best
            best = torch.where(better, looks, best)
            coefficients = torch.where(better[:, None, :, None], forms.coefficients, chosen[2].coefficients)
            chosen = (
                torch.where(better, total, chosen[0]),
                torch.where(better, variance, chosen[1]),
                forms._replace(coefficients=coefficients),
            )
        if quick:
            return value
        total, variance, forms = chosen
        return total + before[-1].values(before[:-1], forms, variance, rule)

    def guess(self, before: Sequence[Passed], rows: Rows) -> Tensor:
        """About the variance of rows, ``[groups, rows]``; no bound."""
        index, a = self.windows.index(rows), rows.coefficients
        side = self.below[min(1, len(self.below) - 1)]
        gradient = a @ (side.high.at(index) + side.low.at(index)) / 2.0
        variance = (gradient.square() @ self.variance[None, :, :, None])[..., 0].sum(1)
        if side.slopes is None:
            return variance
        return variance + before[-1].guess(before[:-1], self.windows.fold(_forms(a, side.slopes.at(index)), rows))


def lower_bounds(
    passed: Sequence[Passed], rows: Rows, own: Float[Tensor, "owns groups rows"], rule: Rule
) -> Float[Tensor, "owns groups rows"]:
    """Lower bounds of rows on the last of several stages, a part of the rows at a time."""
    stage = passed[-1]
    groups, channels, count, positions = rows.coefficients.shape
    each = channels * max(stage.variance.shape[1], positions)
    if stage.above.slopes is not None:
        each = max(each, positions * stage.above.slopes.values.shape[-1])
    some = max(1, NUMBERS // each)
    whole = slice(0, groups)
    found = []
    for start in range(0, count, some):
        part = slice(start, start + some)
        chosen = Rows(rows.coefficients[:, :, part], rows.origin, rows.extent)
        found.append(stage.values(passed[:-1], chosen, own[:, :, part], rule.part(whole, part)))
    return torch.cat(found, -1)


class _Walk:
    """Rows on their way through a stage."""

    def __init__(self, stage: Passed, rows: Rows) -> None:
        self.stage, self.rows = stage, rows
        self.index = stage.windows.index(rows)
        a = rows.coefficients
        self.rising, self.falling = a.clamp(min=0.0), a.clamp(max=0.0)
        above = stage.above
        self.high = self.falling @ above.low.at(self.index)
        self.low = self.falling @ above.high.at(self.index)
        # What rounding loses in a gradient, and in a constant with the forms that go with it.
        self.error = a.abs().sum(-1)[..., None] * stage.most_tap * gamma_sum(a.shape[3])
        lost = _constant(a.abs(), stage.size.at(self.index)) * gamma_sum(a.shape[1] * a.shape[3] + 64)
        self.start = _constant(self.falling, above.constant.at(self.index)) - lost
        self.above = None if above.slopes is None else _forms(self.falling, above.slopes.at(self.index))

    def gradient(self, side: Side) -> tuple[Tensor, Tensor]:
        """Upper bounds of squared derivatives, ``[groups, channels, rows, taps]``, and of their sums by variance."""
        high = self.high + self.rising @ side.high.at(self.index)
        low = self.low + self.rising @ side.low.at(self.index)
        squares = (torch.maximum(high.abs_(), low.abs_()) + self.error).square_()
        parts = (squares @ self.stage.variance[None, :, :, None])[..., 0]
        return squares, parts * (1.0 + gamma_sum(squares.shape[-1]))

    def constant(self, side: Side) -> Float[Tensor, "groups rows"]:
        """Lower bounds of the mean of the rows, but for the forms."""
        return self.start + _constant(self.rising, side.constant.at(self.index))

    def forms(self, side: Side) -> Rows:
        """Rows on what the stage reads."""
        assert self.above is not None
        assert side.slopes is not None
        whole = self.above + _forms(self.rising, side.slopes.at(self.index))
        return self.stage.windows.fold(whole, self.rows)


def _added(own: Tensor, parts: Tensor) -> Float[Tensor, "owns groups rows"]:
    """Variances with those of all channels."""
    return own + parts.sum(1) * (1.0 + gamma_sum(parts.shape[1]))


def _side(read: Read, bound: Below, known: float | None) -> Side:
    form = bound.form
    if known is None:
        return Side(Table(form.slopes), Table(form.constant), Table(bound.range.low), Table(bound.range.high))
    lost = form.size * gamma_sum(form.slopes.shape[-1]) + TINY
    return Side(None, Table(form.at(read) - known * lost), Table(bound.range.low), Table(bound.range.high))


def _constant(a: Tensor, values: Tensor) -> Float[Tensor, "groups rows"]:
    """``Σ a values`` over channels and positions."""
    return (a @ values[..., None])[..., 0].sum(1)


def _forms(a: Tensor, slopes: Tensor) -> Float[Tensor, "groups positions rows patch"]:
    """``Σ a slopes`` over channels, for each position's patch."""
    return a.permute(0, 3, 2, 1) @ slopes.transpose(1, 2)
