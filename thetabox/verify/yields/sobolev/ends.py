r"""The ends of a convolution stage: means given the layers before, and values, each an event of its own.

For a place with candidates k, reference r and :math:`z_k = \mu_k + ⟨n, h_k⟩` (:math:`\mu_k` and :math:`h_k` are decided
by the layers before): lower and upper ends of every :math:`\mu_k` and of every :math:`\mu_k - \mu_r`; a lower end of
:math:`z_r`; upper ends of every :math:`z_k` and :math:`z_k - z_r`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.yields.sobolev.convolved import FEW, StageInputs
from thetabox.verify.yields.tails import quantile, tail


@dataclass(frozen=True)
class Ends:
    """Ends of one stage; ``[channels, places, candidates]`` but for ``least``.

    Attributes:
        mean: of each candidate, lower and upper.
        distance: of its mean to the reference's, lower and upper; 0 for the reference.
        least: of the reference's value, lower, ``[channels, places]``.
        most: of each candidate's value, upper.
        beyond: of each candidate's value minus the reference's, upper; 0 for the reference.
        each, each_mean: probability that one of these ends fails, of a value and of a mean.
        positive: that a candidate's value exceeds 0, at most, where its upper end does not.
        above: the same of its value minus the reference's.
    """

    mean: tuple[Tensor, Tensor]
    distance: tuple[Tensor, Tensor]
    least: Tensor
    most: Tensor
    beyond: Tensor
    each: float
    each_mean: float
    positive: Tensor
    above: Tensor


def count(candidates: int, *, first: bool) -> int:
    """Events of one place: means of the first stage are known."""
    values = 1 + candidates + candidates - 1
    return values if first else values + 2 * candidates + 2 * (candidates - 1)


def known(read: StageInputs, probability: float) -> Ends:
    """Of the first stage, which reads the sample: its values are Gaussian; each fails with at most ``probability``."""
    z = float(quantile("exact", torch.tensor(probability, dtype=torch.float64)))
    lost = read.term_sizes * (gamma_sum(read.sizes.shape[1]) + read.stage.kernel_error)
    apart = read.means - read.of_reference(read.means)[..., None]
    lost_apart = torch.where(read.reference > 0, 0.0, lost + read.of_reference(lost)[..., None])
    own, between = read.spreads
    far, far_between = z * own * (1.0 + FEW), torch.where(read.reference > 0, 0.0, z * between * (1.0 + FEW))
    mean = (read.means - lost, read.means + lost)
    distance = (apart - lost_apart, apart + lost_apart)
    least, most, beyond = read.of_reference(mean[0] - far), mean[1] + far, distance[1] + far_between
    positive, above = tail("exact", -mean[1] / own), tail("exact", -distance[1] / between)
    return Ends(mean, distance, least, most, beyond, probability, 0.0, positive, above)
