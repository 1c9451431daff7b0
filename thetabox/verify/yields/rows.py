r"""Bounds of values and margins that hold with a given probability: backward rows whose noise is added in squares.

The proof is T1 of ``docs/yield.md``. A row is walked back as in the domain ``linear``, on parameters without their
noise; where it passes an operation whose parameters are noisy, the variance of the noise there is added up beside the
constant. With C the constant and V the variance, the row lies above :math:`C - z\sqrt V` but for an event whose
probability is the tail at z. Intervals of all values are those ends, each in the ledger.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.walk import Value
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.rules.window import PoolWindow
from thetabox.verify.network.graph import Graph, Operation
from thetabox.verify.yields.differences import MOST_PLACES, Differences
from thetabox.verify.yields.gains import with_gains
from thetabox.verify.yields.ledger import Ledger
from thetabox.verify.yields.noisy_walk import FLOOR, Noisy
from thetabox.verify.yields.operators import refusal, variance
from thetabox.verify.yields.plan import COARSE, NoisePlan
from thetabox.verify.yields.row_bounds import RowBounds
from thetabox.verify.yields.tied import mean_of_ends, readers


class NoisySamples(Noisy):
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
        plan: NoisePlan,
        ledger: Ledger,
    ) -> None:
        self.sigma, self.sizes, self.gains, self.plan, self.ledger = sigma, sizes, gains, plan, ledger
        self.tied, self.reads_tied = tied, readers(graph, tied)
        self.size_of = {name: sizes[i] for i, name in tied.items()}
        self.largest = max(
            (float(size.abs().max()) for size in [*sizes.values(), *gains.values()] if size.numel()), default=0.0
        )
        self.noise = {}
        coarse = torch.full_like(sigma, float(plan.coarse_events))
        self.coarse = (
            ledger.deviations(COARSE, coarse, exact=not tied) if plan.coarse_events else torch.zeros_like(sigma)
        )
        super().__init__(graph, tensors, x, context, RowBounds(graph, plan))

    def evaluated(self, operation: Operation) -> None:
        """Widen a result by the noise of the operation's own parameters."""
        if operation.index not in self.plan.noisy:
            return
        if not self._of_samples(operation):
            raise refusal(operation)
        noise = with_gains(variance(self, operation, self.sizes), self, operation, self.gains)
        # (Σ_k a_k)² ≤ k Σ a_k² where one parameter stands at k places of an operation: scale and shift of a norm.
        places = Counter(self.tied[i] for i in operation.operands if i in self.tied)
        outputs = noise.outputs * max(places.values(), default=1)
        once = {i: size for i, size in self.sizes.items() if i not in self.tied}
        if operation.index not in self.reads_tied:
            self.noise[operation.index] = noise
        elif set(once) & set(operation.inputs):
            self.noise[operation.index] = variance(self, operation, once)
        result: Any = self.values[operation.index]
        first = (result[0] if isinstance(result, tuple) else result).settled(self.rounding.roundoff)
        z = self.coarse
        if operation.index in self.plan.unread:
            z = torch.full_like(self.sigma, torch.inf)
        elif operation.index in self.plan.first:
            count = torch.full_like(self.sigma, 2.0 * outputs[0].numel())
            z = self.ledger.deviations(self.plan.group(operation), count, exact=True)
        wide = self._deviation_bound(outputs.sqrt(), z.view(-1, *[1] * (outputs.dim() - 1)))
        if operation.index in self.reads_tied and operation.index not in self.plan.first:
            lost = mean_of_ends(self, operation, {i: self.sizes[i] for i in self.tied})
            wide = wide + lost * self.sigma.view(-1, *[1] * (lost.dim() - 1)) * (1.0 + gamma_sum(4))
        error = gamma_sum(4) * (first.lower.abs() + first.upper.abs() + wide)
        wide = wide + torch.where(error.isfinite(), error, torch.inf)
        ends = Interval(first.lower - wide, first.upper + wide, batch=0)
        self.values[operation.index] = (ends, *result[1:]) if isinstance(result, tuple) else ends

    def _of_samples(self, operation: Operation) -> bool:
        """Whether result and operands hold the samples in their first dimension alone, and more behind it."""
        mine = [operation.index, *(i for i in operation.inputs if self.depends(i))]
        return all(self.plain(i) and self.interval(i).lower.dim() > 1 for i in mine)

    def settle(self, index: int, value: Any) -> None:
        """As before, but for ends that nobody asks for."""
        if index not in self.plan.unread:
            super().settle(index, value)

    def _deviation_bound(self, deviation: Tensor, z: Tensor) -> Tensor:
        """``z σ`` deviations, rounded up; nothing where there is no noise."""
        sigma = self.sigma.view(-1, *[1] * (deviation.dim() - 1))
        floor = (FLOOR * (1.0 + self.size) * (1.0 + self.largest)).view(sigma.shape)
        bound = (deviation + floor) * z * sigma * (1.0 + gamma_sum(16))
        return torch.where(sigma > 0, bound.nan_to_num(torch.inf, torch.inf), 0.0)

    def apart(self, maker: Operation, pool: PoolWindow, reference: Tensor) -> tuple[Tensor, Tensor] | None:
        """Ends of ``z_i - z_j`` for a pool's windows, by rows; infinite where none is needed."""
        if maker.index not in self.plan.depends:
            return None
        group = self.plan.differences.get(maker.index)
        if group is None or pool.kernel[0] * pool.kernel[1] > MOST_PLACES:
            nothing = torch.full_like(reference, torch.inf, dtype=torch.float64)
            return -nothing, nothing
        return Differences(self, maker, pool, reference).ends(group)
