"""Ends of a later convolution stage, by rows through the stages before."""

from __future__ import annotations

import torch

from thetabox.verify.yields.sobolev.convolved import FEW, TINY, Read
from thetabox.verify.yields.sobolev.ends import Ends
from thetabox.verify.yields.sobolev.rules import Quantile
from thetabox.verify.yields.sobolev.walk import Passed, lower_bounds
from thetabox.verify.yields.sobolev.windows import Rows


def walked(read: Read, before: list[Passed], probability: float) -> Ends:
    """Of a later stage, by rows through the stages before; each fails with at most ``probability``."""
    channels, places, candidates = read.means.shape
    kernels, reference = read.stage.kernels, read.reference
    others = (reference.argmax(-1, keepdim=True) + torch.arange(1, candidates)) % candidates
    origin, extent = read.stage.windows.of_places()
    rule = Quantile(probability)
    own, between = (s.square() * (1.0 + FEW) for s in read.spreads)
    # Kernels that are averages, and differences of kernels, are rounded.
    lost = read.reach * (2.0 * FEW)
    lost_between = lost + read.of_reference(lost)[..., None]
    mean, distance = read.means.new_empty(2, 2, *read.means.shape), read.means.new_zeros(2, 2, *read.means.shape)
    for n in range(places):
        rest = others[:, n]
        chosen = kernels[torch.arange(channels), reference[:, n].argmax(-1)]
        apart = kernels.gather(1, rest[..., None].expand(-1, -1, kernels.shape[2])) - chosen[:, None]
        forms = torch.cat([kernels.flatten(0, 1), apart.flatten(0, 1)])
        variance = torch.cat([own[:, n].flatten(), between[:, n].gather(1, rest).flatten()])
        both = torch.cat([forms, -forms]).unflatten(-1, (read.stage.windows.inputs[0], -1)).permute(1, 0, 2)[None]
        twice = torch.stack([torch.zeros_like(variance), variance]).repeat(1, 2)[:, None]
        value = lower_bounds(before, Rows(both, origin[n : n + 1], extent), twice, rule)[:, 0]
        # [mean or value, lower or minus upper, rows]
        ends = value.unflatten(-1, (2, -1))
        alone = ends[..., : channels * candidates].unflatten(-1, (channels, candidates)) - lost[:, n]
        mean[..., n, :] = alone
        if candidates > 1:
            far = ends[..., channels * candidates :].unflatten(-1, (channels, -1))
            far = far - lost_between[:, n].gather(1, rest)
            distance[..., n, :].scatter_(-1, rest.expand(2, 2, -1, -1), far)
    bias = read.stage.bias[:, None, None]
    lower, upper = mean[:, 0] + bias, -mean[:, 1] + bias
    slack = FEW * (mean.abs().amax(1) + bias.abs()) + TINY
    lower, upper = lower - slack, upper + slack
    return Ends(
        (lower[0], upper[0]), (distance[0, 0], -distance[0, 1]), read.of_reference(lower[1]), upper[1], -distance[1, 1]
    )
