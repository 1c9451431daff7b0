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

import torch
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.yields.neuron import mean_relu
from thetabox.verify.yields.sobolev.convolved import FEW, Read
from thetabox.verify.yields.sobolev.ends import Ends
from thetabox.verify.yields.sobolev.patterns import Pattern
from thetabox.verify.yields.sobolev.rules import UP, Rule
from thetabox.verify.yields.sobolev.table import Table

# λL for which chances are tabulated; they grow with it.
GRID = tuple(0.1 * 1.25**n for n in range(16))
# Absolute error of a chance.
SLACK = 1e-12


class Tilted:
    """Nominal gradients of the first stage, and how they may change.

    Args:
        read: what it reads: the sample itself.
        ends: of its values.
        pattern: what they leave open.

    Attributes:
        which: of the functions below the outputs this belongs to: the one whose gradient is fixed everywhere.
    """

    which = 1

    def __init__(self, read: Read, ends: Ends, pattern: Pattern) -> None:
        self.variance = read.stage.variance
        mean, own = read.of_reference(ends.mean[0]), read.of_reference(read.spreads[0])
        on = (read.of_reference(read.means) > 0) & ~pattern.off
        live, gate = ~pattern.off, on.to(mean.dtype)
        taps = read.taps_of_reference(read.nominal)
        self.nominal = Table(taps * gate[..., None])
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
        self.most = Table(torch.maximum(size.amax(2), to_zero) * (1.0 + FEW))
        self.chances = []
        for reach in GRID:
            change = torch.einsum("cok,cokt->cot", _chance(far, reach), size)
            change = change + _chance(far_zero, reach)[..., None] * to_zero
            self.chances.append(Table(torch.minimum(change * (1.0 + gamma_sum(8)), self.most.values[:, :-1])))
        self.most_tap = torch.maximum(read.low.abs(), read.high.abs()).flatten(0, 1).amax(0)

    def values(
        self, rising: Tensor, falling: Tensor, index: Tensor, sup: tuple[Tensor, Tensor], own: Tensor, rule: Rule
    ) -> Tensor:
        """Minus what variances take off of rows' constants, ``[owns, groups, rows]``, the best of several λ.

        Args:
            rising, falling: positive and negative coefficients, ``[groups, channels, rows, positions]``.
            index: places.
            sup: squares of derivatives over all patterns, ``[groups, channels, rows, taps]``, and their sums.
            own: variances that come on top.
            rule: of λ.
        """
        squares, parts = sup
        a = rising + falling
        error = 2.0 * gamma_sum(a.shape[3]) * a.abs().sum(-1)[..., None] * self.most_tap
        nominal = (a @ self.nominal.at(index)).abs() + error
        # Only outputs of negative coefficients keep their patterns open.
        most = -falling @ self.most.at(index) + error
        variances = [parts]
        for chances in self.chances:
            change = -falling @ chances.at(index) + error
            mean = torch.minimum(squares, nominal.square() + (2.0 * nominal + most) * change)
            part = (mean @ self.variance[None, :, :, None])[..., 0] * (1.0 + gamma_sum(mean.shape[-1]))
            variances.append(torch.minimum(part, parts))
        # [grid, groups, channels, rows]; the last where λL is beyond the grid.
        table = torch.stack([*variances[1:], parts])
        lipschitz = parts.sqrt() * UP
        total = own + parts.sum(1) * UP
        grid = torch.tensor(GRID, dtype=parts.dtype)
        best = torch.full_like(total, -torch.inf)
        for rate in rule.rates(total):
            place = torch.bucketize(rate[:, :, None] * lipschitz * UP, grid)
            chosen = table.expand(len(rate), *table.shape).gather(1, place[:, None])[:, 0]
            variance = own + chosen.sum(2) * (1.0 + gamma_sum(chosen.shape[2]))
            best = torch.maximum(best, -rule.at(variance, rate))
        return best


def _chance(far: Tensor, reach: float) -> Tensor:
    """Upper bounds of the mean chance, over tilts up to ``reach``, that a coordinate exceeds ``far``."""
    far = far.nan_to_num(-40.0).clamp(-40.0, 1e3)
    one = torch.ones_like(far)
    rise = mean_relu(reach - far, one)[1] - mean_relu(-far, one)[0]
    return (rise / reach + SLACK).clamp(max=1.0)
