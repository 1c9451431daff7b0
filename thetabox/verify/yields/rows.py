r"""Bounds of values and margins that hold with a given probability: backward rows whose noise is added in squares.

The proof is T1 of ``docs/yield.md``. A row is walked back as in the domain ``linear``, on parameters without their
noise; where it passes an operation whose parameters are noisy, the variance of the noise there is added up beside the
constant. With C the constant and V the variance, the row lies above :math:`C - z\sqrt V` but for an event whose
probability is the tail at z. Intervals of all values are those ends, each in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.walk import Value
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.own_rows import WALK_NUMBERS, in_parts, walk_rows
from thetabox.verify.linear.region import Frame, Region
from thetabox.verify.linear.rules import pooling
from thetabox.verify.linear.rules.window import PoolWindow
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.tighten import Tighten
from thetabox.verify.linear.walk import Stop, Walk
from thetabox.verify.network.graph import Graph, Operation
from thetabox.verify.network.operators import TWO_SLOPES
from thetabox.verify.yields.gains import with_gains
from thetabox.verify.yields.ledger import Ledger
from thetabox.verify.yields.operators import variance
from thetabox.verify.yields.plan import COARSE, Plan
from thetabox.verify.yields.tied import Derivative, derivative, mean_of_ends, readers
from thetabox.verify.yields.variance import Variance

# Standard deviations below this, relative to all sizes of a network, are lost where their squares underflow.
FLOOR = 1e-140
# Windows of more places are bounded by differences of their intervals.
MOST_PLACES = 9


class NoisyWalk(Walk):
    """A walk that adds up the variance of the noise that it passes.

    Args:
        samples, frame, rows, coarse: as for :class:`Walk`.
        z: standard deviations, of each sample, that :meth:`run` takes off.

    Attributes:
        variance: at σ = 1, ``[samples, rows]``.
        layers: operations with noise that it passed.
    """

    samples: NoisySamples

    def __init__(
        self, samples: NoisySamples, frame: Frame, rows: int, *, coarse: bool = False, z: Tensor | None = None
    ) -> None:
        super().__init__(samples, frame, rows, coarse=coarse)
        self.variance = torch.zeros_like(self.constant.value)
        self.layers, self.z = 0, z
        self.tied: dict[str, Derivative] = {}

    def step(self, operation: Operation, a: Tensor, region: Region | None) -> None:
        noise = self.samples.noise.get(operation.index)
        if noise is not None:
            self._add(noise.rows(self, a, region))
        for index in self.samples.reads_tied.get(operation.index, ()):
            name, found = self.samples.tied[index], derivative(self, operation, index, a, region)
            self.tied[name] = self.tied[name] + found if name in self.tied else found
        super().step(operation, a, region)

    def started(self, operation: Operation, places: Tensor, region: Region | None) -> None:
        noise = self.samples.noise.get(operation.index)
        if noise is not None:
            own = self.cut(noise.outputs, region).flatten(1).gather(1, places)
            self._add(torch.cat([own, own], 1))

    def run(self) -> Float[Tensor, "samples rows"]:
        """Lower bounds of the rows' means, or ``z`` standard deviations below them where that is given."""
        constant = super().run() - self._mean_lost()
        if self.z is None:
            return constant
        deviation = self.deviation()
        lost = torch.where(deviation > 0, deviation * self.z[self.frame.samples][:, None], 0.0)
        bound = constant - lost - gamma_sum(4) * (constant.abs() + lost)
        return torch.where(bound.isfinite(), bound, -torch.inf)

    def _mean_lost(self) -> Tensor:
        """What noise that meets itself takes off the mean."""
        lost = torch.zeros_like(self.variance)
        sigma = self.samples.sigma[self.frame.samples][:, None]
        for name, found in self.tied.items():
            lost = lost + found.mean_lost(self.samples.size_of[name]) * sigma
        return lost * (1.0 + gamma_sum(len(self.tied) + 4)) + gamma_sum(4) * self.constant.size if self.tied else lost

    def _add(self, variance: Tensor) -> None:
        self.variance = self.variance + variance
        self.layers += 1

    def deviation(self) -> Float[Tensor, "samples rows"]:
        """Standard deviation of the rows, rounded up; infinite where it is no number."""
        samples, sigma = self.samples, self.samples.sigma[self.frame.samples][:, None]
        total = self.variance
        for name, found in self.tied.items():
            total = total + found.variance(samples.size_of[name])
        root = total.sqrt() * (1.0 + gamma_sum(self.layers + len(self.tied) + 8))
        floor = FLOOR * (1.0 + samples.size[self.frame.samples]) * (1.0 + samples.largest)
        root = root + torch.where(sigma > 0, floor[:, None], 0.0)
        return torch.where(root.isfinite(), root * sigma * (1.0 + gamma_sum(4)), torch.inf)


class NoisySamples(Samples):
    """Intervals of every value, which hold together with the probability that the ledger allows.

    Args:
        graph, tensors, x, context: as for :class:`Samples`; the parameters' noise is none of the box of the context.
        sigma: of each sample.
        sizes: position → square roots of the variance proxies of a parameter's entries at σ = 1.
        gains: position → what all entries of a parameter share an error of, at σ = 1.
        tied: position → name of a parameter that is read more than once.
        plan: which values are bounded how.
        ledger: what the bounds may fail with.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: dict[int, Value],
        x: Interval,
        context: Context,
        sigma: Float[Tensor, " samples"],
        sizes: dict[int, Tensor],
        gains: dict[int, Tensor],
        tied: dict[int, str],
        plan: Plan,
        ledger: Ledger,
    ) -> None:
        self.sigma, self.sizes, self.gains, self.plan, self.ledger = sigma, sizes, gains, plan, ledger
        self.tied, self.reads_tied = tied, readers(graph, tied)
        self.size_of = {name: sizes[i] for i, name in tied.items()}
        self.largest = max(
            (float(size.abs().max()) for size in [*sizes.values(), *gains.values()] if size.numel()), default=0.0
        )
        self.noise: dict[int, Variance] = {}
        coarse = torch.full_like(sigma, float(plan.coarse_events))
        self.coarse = (
            ledger.deviations(COARSE, coarse, exact=not tied) if plan.coarse_events else torch.zeros_like(sigma)
        )
        super().__init__(graph, tensors, x, context, RowBounds(graph, plan))

    def evaluated(self, operation: Operation) -> None:
        """Widen a result by the noise of the operation's own parameters."""
        if operation.index not in self.plan.noisy:
            return
        noise = with_gains(variance(self, operation, self.sizes), self, operation, self.gains)
        once = {i: size for i, size in self.sizes.items() if i not in self.tied}
        if operation.index not in self.reads_tied:
            self.noise[operation.index] = noise
        elif set(once) & set(operation.inputs):
            self.noise[operation.index] = variance(self, operation, once)
        result: Any = self.values[operation.index]
        first = (result[0] if isinstance(result, tuple) else result).settled(self.rounding.own)
        z = self.coarse
        if operation.index in self.plan.unread:
            z = torch.full_like(self.sigma, torch.inf)
        elif operation.index in self.plan.first:
            count = torch.full_like(self.sigma, 2.0 * noise.outputs[0].numel())
            z = self.ledger.deviations(self.plan.group(operation), count, exact=True)
        wide = self._reach(noise.outputs.sqrt(), z.view(-1, *[1] * (noise.outputs.dim() - 1)))
        if operation.index in self.reads_tied and operation.index not in self.plan.first:
            lost = mean_of_ends(self, operation, {i: self.sizes[i] for i in self.tied})
            wide = wide + lost * self.sigma.view(-1, *[1] * (lost.dim() - 1)) * (1.0 + gamma_sum(4))
        error = gamma_sum(4) * (first.lower.abs() + first.upper.abs() + wide)
        wide = wide + torch.where(error.isfinite(), error, torch.inf)
        ends = Interval(first.lower - wide, first.upper + wide, batch=0)
        self.values[operation.index] = (ends, *result[1:]) if isinstance(result, tuple) else ends

    def settle(self, index: int, value: Any) -> None:
        """As before, but for ends that nobody asks for."""
        if index not in self.plan.unread:
            super().settle(index, value)

    def _reach(self, deviation: Tensor, z: Tensor) -> Tensor:
        """``z σ`` deviations, rounded up; nothing where there is no noise."""
        sigma = self.sigma.view(-1, *[1] * (deviation.dim() - 1))
        floor = (FLOOR * (1.0 + self.size) * (1.0 + self.largest)).view(sigma.shape)
        reach = (deviation + floor) * z * sigma * (1.0 + gamma_sum(16))
        return torch.where(sigma > 0, reach.nan_to_num(torch.inf, torch.inf), 0.0)

    def apart(self, maker: Operation, pool: PoolWindow, reference: Tensor) -> tuple[Tensor, Tensor] | None:
        """Ends of ``z_i - z_j`` for a pool's windows, by rows; infinite where none is needed."""
        if maker.index not in self.plan.depends:
            return None
        group = self.plan.differences.get(maker.index)
        if group is None or pool.kernel[0] * pool.kernel[1] > MOST_PLACES:
            nothing = torch.full_like(reference, torch.inf, dtype=torch.float64)
            return -nothing, nothing
        return Differences(self, maker, pool, reference).ends(group)


class RowBounds(Tighten):
    """Bounds of the values of the plan by rows; events are counted in the ledger.

    Args:
        graph: the network.
        plan: which values are bounded.
    """

    def __init__(self, graph: Graph, plan: Plan) -> None:
        super().__init__(graph)
        self.plan, self.targets = plan, set(plan.rows)

    def _needed(self, samples: Samples, operation: Operation) -> Tensor:
        """Where a value may be above 0, if only a ReLU reads it, and may be a window's largest, if only a pool does."""
        value = samples.interval(operation.index)
        readers = [o for o in samples.graph.operations if operation.index in o.inputs]
        alive = torch.ones_like(value.lower, dtype=torch.bool)
        if len(readers) != 1:
            return alive
        pool = self.pools.get(readers[0].index) or self.pools.get(operation.index)
        rectified = readers[0].operator in TWO_SLOPES and "leaky" not in readers[0].operator
        if rectified:
            alive = value.upper > 0
        if pool is None or (rectified and samples.graph.readers[readers[0].index] != 1):
            return alive
        try:
            window = pooling.window(pool)
        except Stop:
            return alive
        low, high = pooling.places(value.lower, window), pooling.places(value.upper, window)
        wanted = high >= low.amax(-3, keepdim=True)
        return alive & pooling.placed_back(wanted, window, value.lower)

    def _walk_rows(self, samples: Samples, operation: Operation, needed: Tensor, lower: Tensor, upper: Tensor) -> None:
        assert isinstance(samples, NoisySamples)
        count = 2.0 * needed.flatten(1).sum(1).double()
        z = samples.ledger.deviations(self.plan.group(operation), count, exact=operation.index in self.plan.single)
        kind = partial(NoisyWalk, z=z)
        if needed.dim() in (2, 4) and operation.index not in samples.reads_tied:
            walk_rows(samples, operation, needed, lower, upper, kind)
        else:
            _whole(samples, operation, lower, upper, kind)


def _whole(
    samples: NoisySamples, operation: Operation, lower: Tensor, upper: Tensor, kind: Callable[..., NoisyWalk]
) -> None:
    """Values of other shapes: rows of everything."""
    count, numbers = len(lower), lower[0].numel()
    step = max(1, WALK_NUMBERS // (2 * count * numbers))
    for part in torch.arange(numbers).split(step):
        one = torch.nn.functional.one_hot(part, numbers).double().unflatten(1, lower.shape[1:])
        walk = kind(samples, Frame(slice(None)), 2 * len(part))
        walk.give(operation.index, torch.cat([one, -one]).expand(count, *[-1] * (lower.dim())).contiguous())
        bounds = walk.run()
        low, high = lower.flatten(1), upper.flatten(1)
        low[:, part] = torch.maximum(low[:, part], bounds[:, : len(part)])
        high[:, part] = torch.minimum(high[:, part], -bounds[:, len(part) :])


class Differences:
    """Ends of ``z_i - z_j`` for the windows of a pool, ``j`` the reference of each, by rows.

    Args:
        samples: whose.
        maker: the convolution that makes z.
        pool: windows over it.
        reference: ``j`` of every window, ``[samples, channels, 1, h, w]``.
    """

    def __init__(self, samples: NoisySamples, maker: Operation, pool: PoolWindow, reference: Tensor) -> None:
        self.samples, self.maker, self.pool, self.reference = samples, maker, pool, reference
        value = samples.interval(maker.index)
        low, high = pooling.places(value.lower, pool), pooling.places(value.upper, pool)
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
        pool, places = self.pool, self.wanted.shape[2]
        here = self.wanted[n, :, :, h, w].flatten(1)
        chosen = here.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        asked = here.gather(1, chosen)
        channel, place = chosen // places, chosen % places
        against = self.reference[n, :, 0, h, w].gather(1, channel)
        channels = self.wanted.shape[1]
        a = torch.zeros(len(n), most, channels * places, dtype=torch.float64, device=n.device)
        a.scatter_add_(2, (channel * places + place)[..., None], torch.ones_like(a[..., :1]))
        a.scatter_add_(2, (channel * places + against)[..., None], -torch.ones_like(a[..., :1]))
        a = a.view(len(n), most, channels, *pool.kernel)
        walk = NoisyWalk(self.samples, Frame(n, h, w), 2 * most, coarse=True, z=z)
        walk.give(self.maker.index, torch.cat([a, -a], 1), Region(pool.stride, (0, 0), pool.kernel))
        bounds = walk.run().masked_fill(~asked.repeat(1, 2), -torch.inf)
        at = (n[:, None], channel, place, h[:, None], w[:, None])
        near[at] = torch.maximum(near[at], bounds[:, :most])
        far[at] = torch.minimum(far[at], -bounds[:, most:])
        return walk.widest
