"""Membrane potentials of a spiking network: how close to the threshold its neurons sit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thetabox.deep_copy import deep_copy
from thetabox.errors import InputError
from thetabox.models.lsnn import LSNN, LSNNState
from thetabox.models.recurrent import check_sequence

WITHIN = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class MembraneResult:
    """Distances u = (v − A)/A of all (sample, unit, step) from the threshold; a unit above 0 spikes unless refractory.

    Attributes:
        edges: [B + 1], of the bins, rising.
        counts: [B], in bin i: edges[i] ≤ u < edges[i + 1] (the last bin with its upper edge).
        below, above: counts outside the edges.
        within: [W], distances asked about.
        share: [W], share of all (sample, unit, step) with |u| ≤ within.
        rate: mean spikes of a unit and step.
    """

    edges: Float[Tensor, " edge"]
    counts: Int[Tensor, " bin"]
    below: int
    above: int
    within: Float[Tensor, " within"]
    share: Float[Tensor, " within"]
    rate: float

    @property
    def total(self) -> int:
        """Number of (sample, unit, step)."""
        return int(self.counts.sum()) + self.below + self.above

    @property
    def density(self) -> Float[Tensor, " bin"]:
        """Probability per unit of u, in each bin."""
        return self.counts / (self.total * self.edges.diff())

    def to_json(self) -> dict[str, Any]:
        """The result, for a report or a file."""
        return {
            "edges": self.edges.tolist(),
            "counts": self.counts.tolist(),
            "below": self.below,
            "above": self.above,
            "within": [{"distance": float(d), "share": float(s)} for d, s in zip(self.within, self.share, strict=True)],
            "rate": self.rate,
        }


@torch.no_grad()
def membrane(
    model: nn.Module,
    x: Tensor | np.ndarray,
    *,
    within: Sequence[float] = WITHIN,
    edges: Sequence[float] | Tensor | None = None,
    chunk: int = 500,
) -> MembraneResult:
    r"""Distances of all membrane potentials from the threshold, over samples, units and time steps.

    .. math:: u = (v - A)/A, \qquad A = thr + \beta b

    at the moment at which the spike is decided, in float64. A unit with A ≤ 0 has no such distance and is refused.

    Args:
        model: an :class:`~thetabox.models.LSNN`; it stays as it is.
        x: inputs [N, T, inputs].
        within: distances whose share is asked for, each at least 0.
        edges: of the bins, rising; 80 from −3 to 1 when omitted.
        chunk: samples at once.

    Raises:
        InputError: another network, inputs that do not fit, edges that do not rise, thresholds that are not positive.

    Source: Fig. S10 of Büchel, Faber, Muir (ICLR 2022).
    """
    if not isinstance(model, LSNN):
        raise InputError(f"membrane potentials are measured on an LSNN, not on {type(model).__name__}")
    inputs = torch.as_tensor(x).detach().cpu().double()
    check_sequence(inputs, model.inputs)
    if not len(inputs) or chunk < 1:
        raise InputError(f"there are {len(inputs)} samples and chunk is {chunk}; both must be at least 1")
    if not torch.isfinite(inputs).all():
        raise InputError("x holds NaN or infinite values")
    bins = torch.linspace(-3, 1, 81, dtype=torch.float64) if edges is None else torch.as_tensor(edges).double()
    if bins.ndim != 1 or len(bins) < 2 or not torch.isfinite(bins).all() or not (bins.diff() > 0).all():
        raise InputError("edges must hold at least two finite numbers, each larger than the one before")
    distances = torch.as_tensor(within, dtype=torch.float64).reshape(-1)
    if not (distances >= 0).all():
        raise InputError("distances in within must be at least 0")
    precise = deep_copy(model).cpu().double().eval()
    counts = torch.zeros(len(bins) - 1, dtype=torch.int64)
    near = torch.zeros(len(distances), dtype=torch.int64)
    below = above = total = 0
    spikes = 0.0
    for part in inputs.split(chunk):
        state: LSNNState = precise.initial_state(len(part))
        for frame in part.unbind(1):
            z, state = precise.step(frame, state)
            threshold = precise.threshold + precise.beta * state.b
            if (threshold <= 0).any():
                raise InputError("a threshold of the network is not positive: (v − A)/A has no meaning")
            u = ((state.v - threshold) / threshold).flatten()
            under, over = u < bins[0], u > bins[-1]
            below, above = below + int(under.sum()), above + int(over.sum())
            counts += torch.histogram(u[~(under | over)], bins).hist.long()
            near += (u.abs()[:, None] <= distances).sum(0)
            total, spikes = total + u.numel(), spikes + float(z.sum())
    return MembraneResult(bins, counts, below, above, distances, near.double() / total, spikes / total)
