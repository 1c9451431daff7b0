r"""Variances under the tilted measure: a gradient is the nominal one but where few places change their activity.

Herbst's argument keeps the measure: with :math:`P_s \propto e^{-sf} dP`,

.. math:: -\tfrac1\lambda \ln E e^{-\lambda f} \ge E f - \tfrac12 \int_0^\lambda E_s |\nabla f|^2\, ds .

f has Lipschitz constant L, so a standard normal coordinate u of n has, under :math:`P_s`, a density whose ratio to that
of :math:`N(sL, 1)` falls: :math:`P_s(u \ge r) \le \Phi(sL - r)`, in the mean over s at most
:math:`p = (R(\lambda L - r) - R(-r)) / \lambda L`, :math:`R(x) = E\max(x + u, 0)`.

A derivative by tap t is :math:`Y_t` in the nominal pattern, and differs from it by at most
:math:`\Delta_t = \sum_o |a_o| \sum_k d_{o,k,t} 1\{o \text{ changes to } k\} \le D_t`. A change to k needs a coordinate
to be r standard deviations away. Hence :math:`E_s Y^2 \le Y_t^2 + (2|Y_t| + D_t) E_s\Delta_t`.

Channels are independent under :math:`P_s` too, so all of this is done for each channel's own L.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.yields.neuron import mean_relu
from thetabox.verify.yields.sobolev.convolved import FEW, StageInputs
from thetabox.verify.yields.sobolev.ends import Ends
from thetabox.verify.yields.sobolev.moments import RowParts
from thetabox.verify.yields.sobolev.patterns import Pattern
from thetabox.verify.yields.sobolev.rules import UP, Rule

# λL for which chances are tabulated; they grow with it.
GRID = tuple(0.1 * 1.25**n for n in range(16))
# Absolute error of a chance.
SLACK = 1e-12


class Tilted:
    """Nominal gradients of the first stage, and how they may change: of the function below whose gradient is fixed.

    Args:
        read: what it reads: the sample itself.
        ends: of its values. All candidates' means are read, which are known here; in a later stage they would be events
            (:func:`~thetabox.verify.yields.sobolev.patterns.used`).
        pattern: what they leave open.
    """

    def __init__(self, read: StageInputs, ends: Ends, pattern: Pattern) -> None:
        self.variance = read.stage.variance
        mean, own = read.of_reference(ends.mean[0]), read.of_reference(read.spreads[0])
        on = (read.of_reference(read.means) > 0) & ~pattern.off
        live, gate = ~pattern.off, on.to(mean.dtype)
        taps = read.taps_of_reference(read.nominal)
        # In units of the noise, as the squares that they are compared to.
        scale = self.variance.sqrt()[:, None]
        nominal = taps * gate[..., None] * scale
        # To another candidate: it must exceed the reference, or 0 where the ReLU is off.
        others = pattern.open & (read.reference == 0)
        candidates = torch.where(on[..., None], others, pattern.open & live[..., None]).to(mean.dtype)
        size = torch.where(on[..., None, None], (read.nominal[None] - taps[:, :, None]).abs(), read.nominal[None].abs())
        size = size * candidates[..., None]
        own_all, between = read.spreads
        far = torch.where(on[..., None], -ends.distance[1] / between, -ends.mean[1] / own_all)
        # To 0: the reference must fall below it.
        to_zero = taps.abs() * (on & ~pattern.on).to(mean.dtype)[..., None]
        far_zero = mean / own
        most = torch.maximum(size.amax(2), to_zero) * (1.0 + FEW)
        # [channels, places, grid, taps]
        chances = _chances(far).transpose(2, 3) @ size + _chances(far_zero)[..., None] * to_zero[:, :, None]
        chances = torch.minimum(chances * (1.0 + gamma_sum(8)), most[:, :, None]) * -scale[:, None]
        # [channels, places, taps]; nominal ones, largest changes, and chances of the grid one after the other.
        self.table = torch.cat([nominal, -(most * scale), chances.flatten(2)], -1)
        most_tap = read.most.flatten(0, 1).amax(0)
        self.most_tap = most_tap * scale[:, 0] * (1.0 + FEW)

    def values(self, rows: Sequence[RowParts], sup: tuple[Tensor, Tensor], own: Tensor, rule: Rule) -> Tensor:
        """Minus what variances take off of rows' constants, ``[owns, groups, rows]``, the best of several λ.

        Args:
            rows: coefficients; one group.
            sup: squares of derivatives over all patterns times the taps' variances, ``[channels, rows, taps]``, and
                their sums.
            own: variances that come on top.
            rule: of λ.
        """
        squares, parts = sup
        lipschitz = parts.sqrt() * UP
        total = own + parts.sum(0) * UP
        grid = torch.tensor(GRID, dtype=parts.dtype)
        rates = rule.rates(total)
        # [channels, rates * owns, rows]; the last where λL is beyond the grid.
        places = torch.bucketize(torch.stack(rates) * lipschitz * UP, grid).flatten(0, 1).transpose(0, 1).contiguous()
        chosen = torch.zeros(places.shape, dtype=parts.dtype)
        first, last = places.amin((1, 2)).tolist(), places.amax((1, 2)).tolist()
        for c, part in enumerate(rows):
            low, high = first[c], min(last[c] + 1, len(GRID))
            some = self._variances(part, c, low, max(high, low), squares[c])
            table = torch.cat([torch.minimum(some, parts[c]), parts[c, None]])
            torch.gather(table, 0, places[c] - low, out=chosen[c])
        best = torch.full_like(total, -torch.inf)
        whole = chosen.sum(0).view(len(rates), *total.shape) * (1.0 + gamma_sum(len(rows)))
        for rate, variances in zip(rates, whole, strict=True):
            best = torch.maximum(best, -rule.at(own + variances, rate))
        return best

    def _variances(
        self, part: RowParts, channel: int, first: int, end: int, squares: Float[Tensor, "rows taps"]
    ) -> Float[Tensor, "grid rows"]:
        """Of one channel, for a part of the grid."""
        count, taps = squares.shape
        if first == end or not len(part.at):
            return squares.new_zeros(end - first, count)
        table = self.table[channel].index_select(0, part.places)
        # Only outputs of negative coefficients keep their patterns open.
        sums = part.falling @ table[:, : 2 * taps]
        change = (part.falling @ table[:, (2 + first) * taps : (2 + end) * taps]).view(count, -1, taps)
        size = part.rising.sum(1) - part.falling.sum(1)
        error = torch.outer(2.0 * gamma_sum(len(part.at) + 16) * size, self.most_tap[channel])
        nominal = torch.addmm(sums[:, :taps], part.rising, table[:, :taps]).abs_() + error
        further = sums[:, taps:] + error + 2.0 * nominal
        change += error[:, None]
        mean = change.mul_(further[:, None]).add_(nominal.square_()[:, None])
        torch.minimum(mean, squares[:, None], out=mean)
        return mean.sum(-1).T * (1.0 + gamma_sum(taps + 16))


def _chances(far: Float[Tensor, "*places"]) -> Float[Tensor, "*places grid"]:
    """Upper bounds of the mean chance, over tilts up to each reach of the grid, that a coordinate exceeds ``far``."""
    far = far.nan_to_num(-40.0).clamp(-40.0, 1e3)[..., None]
    tilts = torch.tensor(GRID, dtype=far.dtype)
    least = mean_relu(-far, torch.ones_like(far))[0]
    further = tilts - far
    rise = mean_relu(further, torch.ones_like(further))[1] - least
    return (rise / tilts + SLACK).clamp(max=1.0)
