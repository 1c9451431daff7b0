r"""The proof of yield for spiking networks in which some spikes differ from chip to chip.

As in the domain ``histories`` each neuron keeps a few alternative histories, and the others see the hull
:math:`h_j(t) \in c_j(t) \pm r_j(t)` of its output trace. All of these ends are numbers, whatever a chip's errors N are.
At every (unit, step)

.. math:: \sum_q N_{qi} g_q + \sum_j N_{ji} h_j \in \Bigl(\sum_q N_{qi} g_q + \sum_j N_{ji} c_j\Bigr) \pm
    \sum_j |N_{ji}| r_j ,

where the first part is linear in the errors with known coefficients: it stays within z standard deviations but for two
tails. The second is small, and is bounded where no single error is larger than k standard deviations. On these events
each potential lies where the walk takes it to lie, so by induction over steps every chip follows one of the histories
that are kept, and its mean spikes lie in the hull of their counts. The margins, linear in the errors at the middle of
that hull, have the rest of the failure probability.

Beside a box of k standard deviations, a neuron's own errors add up in squares: that box is some ten times as wide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.noise import Noise
from thetabox.verify.histories.errors import Errors, errors
from thetabox.verify.histories.leaky import AdaptiveCells
from thetabox.verify.histories.potential import Bounds
from thetabox.verify.histories.records import Exact
from thetabox.verify.histories.state import LayerState
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.problem import Problem
from thetabox.verify.yields.failure import MARGINS, Failure
from thetabox.verify.yields.ledger import Ledger
from thetabox.verify.yields.spikes_history import trace_errors
from thetabox.verify.yields.spikes_matrix import NoisyMatrix, NoisySums, margins
from thetabox.verify.yields.spikes_network import SpikingNetwork
from thetabox.verify.yields.tails import tail

# Histories of a neuron.
HISTORIES = 8
# Of what may be spent: potentials' errors, and single errors of weights.
SHARES = {"potentials": 0.9, "weights": 0.1}
# Bytes of the neurons' histories that are walked together.
SLOT_BYTES = 48 << 20


class SpikeHistories:
    """Failure probabilities of a network of leaky cells by the histories that its neurons may have.

    Args:
        problem, sizes, noise: as for :class:`~thetabox.verify.yields.spikes_network.SpikingNetwork`.

    Raises:
        InputError: a network that the proof does not fit.
    """

    name: ClassVar[str] = "histories"
    dear: ClassVar[bool] = False

    def __init__(self, problem: Problem, sizes: Mapping[str, Tensor], noise: Noise) -> None:
        self.network = SpikingNetwork(problem, sizes, noise)
        self.kind = noise.kind

    def failure(
        self,
        x: Tensor,
        y: Int[Tensor, " samples"],
        sigma: Float[Tensor, " samples"],
        spent: Float[Tensor, " samples"],
    ) -> Failure:
        """Upper bounds of the probability that a chip misclassifies each sample; a tie counts as wrong.

        Args:
            x: inputs ``[samples, time, inputs]``.
            y: labels.
            sigma: of each sample.
            spent: probability that all potentials and weights of a sample together may leave their ends with.
        """
        parts = []
        rows = max(1, SLOT_BYTES // (self.network.cells.units * HISTORIES * 16 * 8))
        with torch.no_grad(), sound_kernels():
            for part in torch.arange(len(x)).split(rows):
                batch = (t[part].to(self.network.device) for t in (x.double(), y, sigma.double(), spent.double()))
                parts.append(self._of(*batch))
        events = {
            group: (torch.cat([p[group][0] for p in parts]).cpu(), torch.cat([p[group][1] for p in parts]).cpu())
            for group in parts[0]
        }
        total = torch.stack([share for _, share in events.values()]).sum(0) * (1.0 + gamma_sum(8))
        return Failure(total.clamp(max=1.0), events)

    def _of(self, x: Tensor, y: Tensor, sigma: Tensor, spent: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Groups of events: their numbers, and the probability that any of them fails."""
        network, steps = self.network, x.shape[1] + self.network.cells.extra_steps
        ledger = Ledger(spent, SHARES, self.kind)
        ones = torch.ones_like(sigma)
        z = ledger.deviations("potentials", ones * (2.0 * steps * network.cells.units), exact=True)
        weights = network.potentials.errors + network.readout.errors
        error_limit = ledger.deviations("weights", ones * (2.0 * weights), exact=True) * sigma * (1.0 + gamma_sum(1))
        inputs = Inputs.of(network.cells, network.potentials, x)
        walk = _NoisyWalk(network.cells, inputs, z * sigma * (1.0 + gamma_sum(1)), error_limit)
        least, most = walk.run(errors(network.cells.circuit(), inputs.largest, steps))
        time = torch.full_like(least[:, :1], float(x.shape[1]))
        # T times the logits.
        a, rest = torch.cat([(least + most) * 0.5, time], 1), torch.cat([(most - least) * 0.5, 0.0 * time], 1)
        low, length = margins(network.readout, a, rest, error_limit, y)
        wrong = tail(network.tail, low / (length * sigma[:, None])).scatter(1, y[:, None], 0.0)
        events = {group: (count, share) for group, count, share in ledger.entries()}
        margin = (wrong.sum(1) * (1.0 + gamma_sum(wrong.shape[1]))).clamp(max=1.0)
        return {**events, MARGINS: (ones * (wrong.shape[1] - 1.0), margin)}


@dataclass(frozen=True)
class Inputs:
    """What the inputs leave in potentials.

    Attributes:
        weights: of the units of each decay.
        traces: g for each decay, ``[samples, steps, inputs]``.
        off: how far traces of inputs and spikes may be off, for each decay ``[steps, terms]``.
        largest: input.
    """

    weights: list[NoisyMatrix]
    traces: list[Tensor]
    off: list[Tensor]
    largest: float

    @classmethod
    def of(cls, cells: AdaptiveCells, weights: NoisyMatrix, x: Float[Tensor, "samples time inputs"]) -> Inputs:
        """Of some samples."""
        steps = torch.cat([x, x.new_zeros(len(x), cells.extra_steps, x.shape[2])], 1).unbind(1)
        largest = x.new_ones(len(weights.theta))
        largest[: x.shape[2]] = x.abs().amax()
        traces = []
        for decay in cells.decays:
            g, by_step = torch.zeros_like(x[:, 0]), []
            for x_t in steps:
                g = decay.value * g + (1.0 - decay.value) * x_t
                by_step.append(g)
            traces.append(torch.stack(by_step, 1))
        off = [trace_errors(cells, decay, largest, len(steps)) for decay in cells.decays]
        return cls([weights.columns(d.units) for d in cells.decays], traces, off, float(largest[0]))


class _NoisyWalk:
    """The walk of the domain ``histories``, whose potentials are within their errors' reach.

    Args:
        cells: constants.
        inputs: of the samples, one a row.
        deviation: z σ of each row.
        error_limit: k σ of each row.
    """

    def __init__(self, cells: AdaptiveCells, inputs: Inputs, deviation: Tensor, error_limit: Tensor) -> None:
        self.cells, self.rows = cells, len(error_limit)
        self.layer = LayerState(cells.cells, HISTORIES, Exact.silence(len(error_limit), cells.cells), len(error_limit))
        self.inputs, self.deviation, self.error_limit = inputs, deviation[:, None], error_limit[:, None]

    def run(self, by_step: list[list[Errors]]) -> tuple[Tensor, Tensor]:
        """All steps; least and most spikes of every unit, ``[rows, units]``."""
        nothing = torch.zeros(self.rows, dtype=torch.bool, device=self.error_limit.device)
        for time, (errors_of_step,) in enumerate(by_step):
            self.layer.advance(self.rows)
            self.layer.fire(self.potential(time), errors_of_step, None, nothing)
        return self.layer.counts()

    def potential(self, time: int) -> Bounds:
        """Bounds of W_in g + W_rec h for every neuron."""
        cells, inputs = self.cells, self.inputs
        centre = torch.empty_like(self.layer.now.z)
        radius = torch.empty_like(self.layer.now.z)
        for index, decay in enumerate(cells.decays):
            g, weights = inputs.traces[index][:, time], inputs.weights[index]
            a, rest = g, torch.zeros_like(g)
            if len(weights.theta) > g.shape[1]:
                low, high = self.layer.hull(index, False)
                half = (high - low) * 0.5 + 4.0 * cells.rounding.roundoff * high
                a, rest = torch.cat([g, (low + high) * 0.5], 1), torch.cat([rest, half], 1)
            sums = NoisySums(weights, a, torch.zeros_like(a[:1]))
            lost = sums.product_error() + sums.around() + sums.beyond(rest + inputs.off[index][time], self.error_limit)
            centre[:, decay.units] = a @ weights.theta
            radius[:, decay.units] = (self.deviation * sums.length() + lost) * (1.0 + gamma_sum(4))
        return Bounds(centre - radius, centre + radius)
