r"""The proof of yield for spiking networks (T3 of ``docs/yield.md``): potentials along one history are Gaussian.

Let :math:`\hat z` be the spikes of the network at the centre of its parameters' errors, and

.. math:: V_i(t) = \sum_q \hat g_q(t) W'_{qi} + \sum_j \hat h_j(t) W'_{ji} - \hat R_i(t)

with traces and resets of :math:`\hat z` and the weights W' of a chip. These are random variables on all chips, linear
in the errors, whatever the chip's own spikes are. If :math:`H(V_i(t) - \hat A_i(t)) = \hat z_i(t)` for all steps at
which a unit of the centre's run is not refractory, then the chip's spikes are :math:`\hat z`: by induction over steps
(and layers), as long as no spike differs the chip's potentials and thresholds are V and :math:`\hat A`. Its logits are
then :math:`\overline{\hat z} W'_{out} + b'_{out}`, linear too. So

.. math:: P(\text{wrong}) \le \sum_{(i,t)\ \text{free}} \Phi\Bigl(-\frac{|\hat v_i(t) - \hat A_i(t)|}{\sigma
    \|\tau_i \circ \mathrm{trace}\|}\Bigr) + \sum_{k \ne y} \Phi\Bigl(-\frac{margin_k}{\sigma \|\cdot\|}\Bigr) ,

and :math:`e^{-z^2/2}` in place of :math:`\Phi(-z)` for sub-Gaussian errors. This is one union bound over linear
functions of the errors: nothing needs to be independent but the errors. That a weight is read at every step does not
matter either, for its coefficient is a number.

Neuron parameters must be exact: potentials are not linear in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.errors import InputError
from thetabox.noise import Noise
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.problem import Problem
from thetabox.verify.yields.failure import MARGINS, Failure
from thetabox.verify.yields.spikes_history import History, history
from thetabox.verify.yields.spikes_matrix import margins
from thetabox.verify.yields.spikes_network import SpikingNetwork
from thetabox.verify.yields.tails import tail

# Numbers of the largest temporary tensors of one batch of samples.
NUMBERS = 1 << 21


class Spikes:
    """Failure probabilities of a network of leaky cells whose spikes are all the same on most chips.

    Args:
        problem, sizes, noise: as for :class:`~thetabox.verify.yields.spikes_network.SpikingNetwork`.

    Raises:
        InputError: a network that the proof does not fit.
    """

    name: ClassVar[str] = "spikes"
    dear: ClassVar[bool] = False

    def __init__(self, problem: Problem, sizes: Mapping[str, Tensor], noise: Noise) -> None:
        self.network = SpikingNetwork(problem, sizes, noise)

    @classmethod
    def fits(cls, problem: Problem, sizes: Mapping[str, Tensor], noise: Noise) -> bool:
        """Whether there is such a proof of a network."""
        try:
            cls(problem, sizes, noise)
        except InputError:
            return False
        return True

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
            spent: of no use here, for nothing is bounded beside the events themselves.
        """
        cells, device = self.network.cells, self.network.device
        each = (x.shape[1] + cells.extra_steps) * max(len(self.network.potentials.theta), cells.units)
        parts = []
        with torch.no_grad(), sound_kernels():
            for part in torch.arange(len(x)).split(max(1, NUMBERS // each)):
                inputs, labels, errors = (t[part].to(device) for t in (x, y, sigma.double()))
                parts.append(self._of(inputs.double(), labels, errors).cpu())
        count, crossings, margin, total = torch.cat(parts).unbind(1)
        classes = torch.full_like(margin, self.network.readout.theta.shape[1] - 1.0)
        return Failure(total, {"spikes": (count, crossings), MARGINS: (classes, margin)})

    def _of(self, x: Tensor, y: Tensor, sigma: Tensor) -> Float[Tensor, "samples 4"]:
        """Number of spikes that may differ, probabilities that one does and that a margin fails, and that of both."""
        run = history(self.network.cells, self.network.potentials, x)
        count = (run.spike & run.free).sum(1).double()
        a = torch.cat([count, torch.full_like(count[:, :1], float(x.shape[1]))], 1)  # T times the logits
        low, length = margins(self.network.readout, a, torch.zeros_like(a), torch.zeros_like(sigma), y)
        crossing = tail(self.network.tail, _crossings(run) / sigma[:, None, None]).masked_fill(~run.free, 0.0)
        wrong = tail(self.network.tail, low / (length * sigma[:, None])).scatter(1, y[:, None], 0.0)
        crossings, margin = (t.flatten(1).sum(1) * (1.0 + gamma_sum(t[0].numel())) for t in (crossing, wrong))
        total = (crossings + margin) * (1.0 + gamma_sum(1))
        return torch.stack(
            [run.free.flatten(1).sum(1).double(), *(t.clamp(max=1.0) for t in (crossings, margin, total))], 1
        )


def _crossings(run: History) -> Float[Tensor, "samples steps units"]:
    """Mean over standard deviation of each v − A at σ = 1, at most: how far it is from crossing 0."""
    distances = torch.empty_like(run.difference)
    for decay, sums in run.potentials:
        units = decay.units
        distance = run.difference[..., units].abs() - run.error[..., units] - sums.around()
        distances[..., units] = distance / sums.length()
    return distances
