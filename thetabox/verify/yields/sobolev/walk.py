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

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.yields.sobolev.convolved import TINY, StageInputs
from thetabox.verify.yields.sobolev.expectations import FIXED, Below, OutputForm
from thetabox.verify.yields.sobolev.forms import TERMS, Forms
from thetabox.verify.yields.sobolev.moments import StageMoments, parts_of
from thetabox.verify.yields.sobolev.patterns import DerivativeRange
from thetabox.verify.yields.sobolev.rules import Rule
from thetabox.verify.yields.sobolev.tilted import Tilted
from thetabox.verify.yields.sobolev.windows import LinearForms

# Numbers of the largest temporary tensors, and of those that are gone through again and again.
NUMBERS, CACHED = 1 << 21, 1 << 17
# Functions below the outputs, so that each differs little from the one before; the first is looked at first.
ORDER = (FIXED, 2, 3, 0)


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
        self,
        read: StageInputs,
        above: OutputForm,
        pattern: DerivativeRange,
        below: Sequence[Below],
        tilted: Tilted | None = None,
    ) -> None:
        self.windows = read.stage.windows
        below = [below[n] for n in ORDER]
        self.tilted = tilted
        self.outputs = read.stage.outputs
        first = tilted is not None
        # The first stage's input is known: its forms are numbers.
        constants = [_constant(read, f, sign if first else 0.0) for f, sign in _signed(above, below)]
        sizes = torch.stack([above.size, *(b.form.size for b in below)]).amax(0)
        self.moments = StageMoments(
            read.stage.variance,
            torch.maximum(read.low.abs(), read.high.abs()).flatten(0, 1).amax(0),
            sizes * (1.0 + 1e-9) + TINY,
            (constants[0], pattern),
            [(constant, b.range) for constant, b in zip(constants[1:], below, strict=True)],
            1 if first else TERMS,
        )
        slopes = [] if first else [above.slopes, *(b.form.slopes for b in below)]
        self.forms = None if first else Forms(self.windows, slopes[0], slopes[1:])
        ends = [t for b in (pattern, *(b.range for b in below)) for t in b]
        alive = torch.stack([(t != 0).any(-1) for t in (*ends, *slopes)] + [t != 0 for t in constants]).any(0)
        # And none beyond the edge.
        self.alive = torch.cat([alive, torch.zeros_like(alive[:, :1])], 1)

    def values(
        self, before: Sequence[Passed], rows: LinearForms, own: Tensor, rule: Rule, *, quick: bool = False
    ) -> Float[Tensor, "owns groups rows"]:
        """Lower bounds by a rule.

        Args:
            before: the stages in front of this one.
            rows: on this stage's outputs; one group.
            own: variances that come on top, ``[owns, groups, rows]``.
            rule: what constants and variances become.
            quick: whether to look at one function below the outputs alone.
        """
        index = self.windows.index(rows)[0]
        parts = parts_of(rows.coefficients[0], index, self.alive)
        sides = 1 if quick else len(ORDER)
        tilted = None if quick else self.tilted
        sums = self.moments.of(parts, sides, squares=tilted is not None)
        variances = torch.stack([_added(own, part) for part in sums.variances])
        if self.forms is not None:
            forms = self.forms.of(rows.coefficients[0], rows, index, self.alive, sides)
            return _through(before, list(zip(sums.constants, variances, forms, strict=True)), rule, quick=quick)
        best = (sums.constants[:, None, None] - rule.fixed(variances.flatten(0, 1)).view_as(variances)).amax(0)
        if tilted is not None:
            gained = tilted.values(parts, (sums.squares, sums.variances[0]), own, rule)
            best = torch.maximum(best, sums.constants[0] + gained)
        return best

    def guess(self, before: Sequence[Passed], rows: LinearForms) -> Tensor:
        """About the variance of rows, ``[groups, rows]``; no bound."""
        index = self.windows.index(rows)[0]
        variance = self.moments.guess(parts_of(rows.coefficients[0], index, self.alive))[None]
        if self.forms is None:
            return variance
        forms = self.forms.of(rows.coefficients[0], rows, index, self.alive, 1)
        return variance + before[-1].guess(before[:-1], forms[0])


def lower_bounds(
    passed: Sequence[Passed],
    rows: LinearForms,
    own: Float[Tensor, "owns groups rows"],
    rule: Rule,
    *,
    quick: bool = False,
) -> Float[Tensor, "owns groups rows"]:
    """Lower bounds of rows on the last of several stages, a part of the rows at a time; lower ones if ``quick``."""
    stage = passed[-1]
    _, channels, count, positions = rows.coefficients.shape
    each = channels * positions
    if stage.forms is not None:
        _, (height, width) = stage.windows.region(rows)
        each = max(each, stage.windows.inputs[0] * height * width)
    some = max(1, min(NUMBERS // each, CACHED // stage.moments.scale.shape[1]))
    parts_of_ends = []
    for start in range(0, count, some):
        part = slice(start, start + some)
        chosen = LinearForms(rows.coefficients[:, :, part], rows.origin, rows.extent)
        parts_of_ends.append(
            stage.values(passed[:-1], chosen, own[:, :, part], rule.part(slice(0, 1), part), quick=quick)
        )
    return torch.cat(parts_of_ends, -1)


def _through(
    before: Sequence[Passed], sides: Sequence[tuple[Tensor, Tensor, LinearForms]], rule: Rule, *, quick: bool
) -> Tensor:
    """Each row by the function below the outputs that looks best: constants, variances and forms of each are given."""
    stage, rest = before[-1], before[:-1]
    forms = [side[2] for side in sides]
    count = len(sides)
    # All at once, as more rows.
    totals = torch.stack([side[0] for side in sides])
    variances = torch.stack([side[1] for side in sides])
    whole = forms[0]._replace(coefficients=torch.cat([f.coefficients for f in forms], 2))
    own = variances.permute(1, 2, 0, 3).flatten(2)
    gained = stage.values(rest, whole, own, rule.repeat(count), quick=True)
    value = totals[:, None, None] + gained.unflatten(-1, (count, -1)).permute(2, 0, 1, 3)
    if quick:
        return value[0]
    best = value.sum((1, 2)).argmax(0)
    each = torch.arange(len(best))
    total, variance = totals[best, each], variances[best, :, :, each].permute(1, 2, 0)
    coefficients = forms[0].coefficients.clone()
    for n in range(1, count):
        members = (best == n).nonzero()[:, 0]
        coefficients[:, :, members] = forms[n].coefficients[:, :, members]
    return total + stage.values(rest, forms[0]._replace(coefficients=coefficients), variance, rule)


def _added(own: Tensor, parts: Float[Tensor, "channels rows"]) -> Float[Tensor, "owns groups rows"]:
    """Variances with those of all channels."""
    return own + parts.sum(0) * (1.0 + gamma_sum(len(parts)))


def _signed(above: OutputForm, below: Sequence[Below]) -> list[tuple[OutputForm, float]]:
    """Forms, and the sign of the coefficients' that they serve."""
    return [(above, -1.0), *((b.form, 1.0) for b in below)]


def _constant(read: StageInputs, form: OutputForm, sign: float) -> Float[Tensor, "channels places"]:
    """Of the form, or of its value where the input is known (``sign`` is not 0), rounded down for that sign."""
    if sign == 0.0:
        return form.constant
    return form.at(read) - sign * (form.size * gamma_sum(form.slopes.shape[-1]) + TINY)
