r"""The run of a spiking network at the centre of its parameters' errors, step by step, with what rounding may add.

Potentials are linear in the weights: with :math:`g \leftarrow \alpha g + (1-\alpha) x`,
:math:`h \leftarrow \alpha h + (1-\alpha) z` and :math:`R \leftarrow \alpha R + z A\,dt`

.. math:: v_i(t) = \sum_q g_q(t) W^{in}_{qi} + \sum_j h_j(t) W^{rec}_{ji} - R_i(t) ,

where α, R and A (:class:`thetabox.models.LeakyCells`) are those of unit i, and g, h, R follow from the inputs and the
spikes alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.histories.equations import silent_left
from thetabox.verify.histories.errors import errors
from thetabox.verify.histories.leaky import AdaptiveCells, Decay
from thetabox.verify.yields.spikes_matrix import NoisyMatrix, NoisySums


@dataclass(frozen=True)
class History:
    """What every unit does at every step; of several layers, layer d is d steps late.

    Attributes:
        potentials: v + R of the units that have each decay, as sums over their weights ``[samples, steps, units]``.
        difference: v − A as computed.
        error: how far that may be off.
        spike: z.
        free: where a spike depends on v: steps of the network at which the unit is not refractory.
    """

    potentials: list[tuple[Decay, NoisySums]]
    difference: Float[Tensor, "samples steps units"]
    error: Float[Tensor, "samples steps units"]
    spike: Bool[Tensor, "samples steps units"]
    free: Bool[Tensor, "samples steps units"]


def history(cells: AdaptiveCells, weights: NoisyMatrix, x: Float[Tensor, "samples time inputs"]) -> History:
    """Run a network.

    Args:
        cells: its constants, at ε = 0.
        weights: W_in and below it, where there is one, W_rec without its diagonal.
        x: inputs, float64.
    """
    samples, time, inputs = x.shape
    recurrent = len(weights.theta) > inputs
    beyond = x.new_zeros(samples, cells.extra_steps, inputs)
    of = cells.cells
    trace = [x.new_zeros(samples, len(weights.theta)) for _ in cells.decays]
    z = b = reset = x.new_zeros(samples, cells.units)
    delay = torch.zeros_like(of.alpha[0]) if of.delay is None else of.delay
    silent = delay.expand(samples, -1)
    traces: list[list[Tensor]] = [[] for _ in cells.decays]
    difference, spike, free = [], [], []
    for t, x_t in enumerate(torch.cat([x, beyond], 1).unbind(1)):
        read = torch.cat([x_t, z], 1) if recurrent else x_t
        level = of.threshold.lower
        if of.adaptation is not None:
            rho, beta = of.adaptation.rho.lower, of.adaptation.beta.lower
            b = rho * b + (1.0 - rho) * z
            level = level + beta * b
        reset = of.alpha * reset + z * level * cells.dt
        v = torch.zeros_like(reset)
        for index, decay in enumerate(cells.decays):
            trace[index] = decay.value * trace[index] + (1.0 - decay.value) * read
            traces[index].append(trace[index])
            v[:, decay.units] = trace[index] @ weights.theta[:, decay.units]
        difference.append(v - reset - level)
        awake = silent == 0
        z = (awake & (difference[-1] > 0)).to(x.dtype)
        silent = silent if of.silent_steps is None else silent_left(z, silent, of.silent_steps)
        spike.append(z > 0)
        free.append(awake & (t - delay < time))
    largest = x.new_ones(len(weights.theta))
    largest[:inputs] = x.abs().amax()
    by_step = errors(cells.circuit(), float(largest[0]), len(difference))
    error = torch.stack([e.potential for (e,) in by_step], 1).repeat(samples, 1, 1)
    potentials = []
    for index, decay in enumerate(cells.decays):
        off = trace_errors(cells, decay, largest, len(difference))
        sums = NoisySums(weights.columns(decay.units), torch.stack(traces[index], 1), off)
        error[..., decay.units] += sums.product_error()
        potentials.append((decay, sums))
    return History(potentials, torch.stack(difference, 1), error * SAFETY, torch.stack(spike, 1), torch.stack(free, 1))


def trace_errors(
    cells: AdaptiveCells, decay: Decay, largest: Float[Tensor, " terms"], steps: int
) -> Float[Tensor, "steps terms"]:
    """How far the traces of numbers of at most ``largest`` in size may be off, as in :func:`errors`."""
    rounding = cells.rounding
    each = (2.0 * decay.error + 6.0 * rounding.roundoff) * largest + 64.0 * rounding.subnormal
    error, by_step = torch.zeros_like(largest), []
    for _ in range(steps):
        error = ((decay.value + decay.error) * error + each) * SAFETY
        by_step.append(error)
    return torch.stack(by_step)
