r"""Ends of a later convolution stage, by rows through the stages before.

A first look, by one function below the outputs of each stage before, bounds all values from above; most places are off
then, and most candidates closed. Those are most of a stage's events, and a lower probability of each costs little. The
others' ends are found by all that a row can try. Ends that no longer matter are
those that always hold: :math:`|\mu_k|` is at most its reach.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from thetabox.verify.yields.sobolev.convolved import FEW, TINY, StageInputs
from thetabox.verify.yields.sobolev.ends import Ends
from thetabox.verify.yields.sobolev.rules import Quantile
from thetabox.verify.yields.sobolev.walk import Passed, lower_bounds
from thetabox.verify.yields.sobolev.windows import LinearForms

# The probability of an end of the first look in units of the others'.
FIRST_LOOK = 1.0 / 32.0


def walked(read: StageInputs, before: list[Passed], probability: float) -> Ends:
    """Of a later stage; each fails with at most ``probability``."""
    whole = torch.where(read.reference > 0, 0.0, read.term_sizes + read.of_reference(read.term_sizes)[..., None])
    whole = whole * (1.0 + FEW)
    mean, distance = (-read.term_sizes, read.term_sizes.clone()), (-whole, whole.clone())
    most, beyond = torch.full_like(whole, torch.inf), torch.where(read.reference > 0, 0.0, torch.inf)
    least = torch.full_like(most[..., 0], -torch.inf)
    positive, above = (torch.full_like(whole, FIRST_LOOK * probability) for _ in range(2))
    rule, first = Quantile(probability), Quantile(FIRST_LOOK * probability)
    for n in range(read.means.shape[1]):
        place = _Place(read, before, n)
        reference = read.reference[:, n] > 0
        none = torch.zeros_like(reference)
        high = -place.ends(~none, none, (-1.0,), first, first_look=True)[0][0, 1]
        live = (high > 0).any(-1)
        far = -place.ends(none, live[:, None] & (high > 0) & ~reference, (-1.0,), first, first_look=True)[1][0, 1]
        open_ = live[:, None] & (high > 0) & (far > 0) & ~reference
        wanted = open_ | (live[:, None] & reference)
        (low, minus), (near, minus_far) = place.ends(wanted, open_, (1.0, -1.0), rule)
        mean[0][:, n] = torch.where(wanted, low[0], mean[0][:, n])
        mean[1][:, n] = torch.where(wanted, -minus[0], mean[1][:, n])
        most[:, n] = torch.where(wanted, -minus[1], high)
        least[:, n] = torch.where(wanted & reference, low[1], -torch.inf).amax(-1)
        distance[0][:, n] = torch.where(open_, near[0], distance[0][:, n])
        distance[1][:, n] = torch.where(open_, -minus_far[0], distance[1][:, n])
        beyond[:, n] = torch.where(open_, -minus_far[1], torch.where(reference, 0.0, far))
        positive[:, n] = torch.where(wanted, probability, positive[:, n])
        above[:, n] = torch.where(open_, probability, above[:, n])
    return Ends(mean, distance, least, most, beyond, probability, probability, positive, above)


class _Place(NamedTuple):
    """One place of all channels."""

    read: StageInputs
    before: list[Passed]
    n: int

    def ends(
        self, values: Tensor, distances: Tensor, signs: tuple[float, ...], rule: Quantile, *, first_look: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Lower ends of candidates' values, and of their distances to the reference, each times all signs.

        Args:
            values: which ones, ``[channels, candidates]``.
            distances: of which ones.
            signs: by which they are multiplied.
            rule: how far each of them may be off.
            first_look: whether to look at few functions.

        Returns:
            Each ``[signs, mean or value, channels, candidates]``; minus infinity of what was not asked for.
        """
        read, n = self.read, self.n
        kernels, reference, term_sizes = read.stage.kernels, read.reference[:, n], read.term_sizes[:, n]
        chosen = kernels[torch.arange(len(kernels)), reference.argmax(-1)]
        forms = torch.cat([kernels[values], (kernels - chosen[:, None])[distances]])
        spreads = torch.cat([read.spreads[0][:, n][values], read.spreads[1][:, n][distances]])
        # Kernels that are averages, and differences of kernels, are rounded.
        between = term_sizes + (term_sizes * reference).sum(-1, keepdim=True)
        lost = torch.cat([term_sizes[values], between[distances]]) * (2.0 * FEW + 2.0 * read.stage.kernel_error)
        bias = torch.cat([read.stage.bias[:, None].expand_as(values)[values], torch.zeros_like(term_sizes[distances])])
        sign = torch.tensor(signs, dtype=bias.dtype)[:, None]
        bounds = self._bounds(
            (sign[..., None] * forms).flatten(0, 1), spreads.repeat(len(signs)), rule, first_look=first_look
        )
        bounds = bounds.unflatten(-1, (len(signs), -1)).transpose(0, 1) - lost
        bounds = bounds + (sign * bias)[:, None]
        # What is no number is no bound.
        bounds = (bounds - (FEW * (bounds.abs() + 2.0 * bias.abs()) + TINY)).nan_to_num(
            -torch.inf, torch.inf, -torch.inf
        )
        count = int(values.sum())
        return _spread_out(bounds[..., :count], values), _spread_out(bounds[..., count:], distances)

    def _bounds(self, forms: Tensor, spread: Tensor, rule: Quantile, *, first_look: bool) -> Tensor:
        """Lower ends of forms over the patch, and of those with their own noise, ``[2, rows]``."""
        if not len(forms):
            return forms.new_zeros(2, 0)
        windows = self.read.stage.windows
        origin, extent = windows.of_places()
        a = forms.unflatten(-1, (windows.inputs[0], -1)).transpose(0, 1)[None]
        variance = spread.square() * (1.0 + FEW)
        own = torch.stack([torch.zeros_like(variance), variance])[:, None]
        rows = LinearForms(a, origin[self.n : self.n + 1], extent)
        return lower_bounds(self.before, rows, own, rule, quick=first_look)[:, 0]


def _spread_out(ends: Tensor, wanted: Tensor) -> Tensor:
    whole = torch.full((*ends.shape[:-1], *wanted.shape), -torch.inf, dtype=ends.dtype)
    whole[..., wanted] = ends
    return whole
