"""Ends of the differences within a pool's windows, by rows of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from thetabox.verify.linear.own_rows import in_parts
from thetabox.verify.linear.region import Frame, Region
from thetabox.verify.linear.rules import pooling
from thetabox.verify.linear.rules.window import PoolWindow
from thetabox.verify.network.graph import Operation
from thetabox.verify.yields.noisy_walk import Noisy, NoisyWalk

# Windows of more places are bounded by differences of their intervals.
MOST_PLACES = 9


class Differences:
    """Ends of ``z_i - z_j`` for the windows of a pool, ``j`` the reference of each, by rows.

    Args:
        samples: whose.
        maker: the convolution that makes z.
        pool: windows over it.
        reference: ``j`` of every window, ``[samples, channels, 1, h, w]``.
    """

    def __init__(self, samples: Noisy, maker: Operation, pool: PoolWindow, reference: Tensor) -> None:
        self.samples, self.maker, self.pool, self.reference = samples, maker, pool, reference
        value = samples.interval(maker.index)
        low, high = pooling.by_window(value.lower, pool), pooling.by_window(value.upper, pool)
        self.wanted = high > low.gather(-3, reference)
        self.wanted.scatter_(-3, reference, False)

    def ends(self, group: str) -> tuple[Tensor, Tensor]:
        """``[samples, channels, places, h, w]`` twice; infinite where no row was walked."""
        samples, wanted = self.samples, self.wanted
        near = torch.full(wanted.shape, -torch.inf, dtype=torch.float64, device=wanted.device)
        far = -near
        count = 2.0 * wanted.flatten(1).sum(1).double()
        z = samples.ledger.deviations(group, count, exact=self.maker.index in samples.plan.single)
        counts = wanted.sum((1, 2))
        n, h, w = counts.nonzero(as_tuple=True)

        def walk_some(chosen: Tensor, most: int) -> int:
            return self._walk(n[chosen], h[chosen], w[chosen], most, z, near, far)

        in_parts(counts[n, h, w], walk_some)
        return near, far

    def _walk(self, n: Tensor, h: Tensor, w: Tensor, most: int, z: Tensor, near: Tensor, far: Tensor) -> int:
        """Rows of the windows ``(n, h, w)``, ``most`` of each; how wide they became."""
        pool, window_size = self.pool, self.wanted.shape[2]
        here = self.wanted[n, :, :, h, w].flatten(1)
        chosen = here.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        asked = here.gather(1, chosen)
        channel, place = chosen // window_size, chosen % window_size
        against = self.reference[n, :, 0, h, w].gather(1, channel)
        channels = self.wanted.shape[1]
        a = torch.zeros(len(n), most, channels * window_size, dtype=torch.float64, device=n.device)
        a.scatter_add_(2, (channel * window_size + place)[..., None], torch.ones_like(a[..., :1]))
        a.scatter_add_(2, (channel * window_size + against)[..., None], -torch.ones_like(a[..., :1]))
        a = a.view(len(n), most, channels, *pool.kernel)
        walk = NoisyWalk(self.samples, Frame(n, h, w), 2 * most, coarse=True, z=z)
        walk.give(self.maker.index, torch.cat([a, -a], 1), Region(pool.stride, (0, 0), pool.kernel))
        bounds = walk.run().masked_fill(~asked.repeat(1, 2), -torch.inf)
        at = (n[:, None], channel, place, h[:, None], w[:, None])
        near[at] = torch.maximum(near[at], bounds[:, :most])
        far[at] = torch.minimum(far[at], -bounds[:, most:])
        return walk.widest
