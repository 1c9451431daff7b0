"""A spiking network run forward at the middle of its boxes, by its equations alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.histories.neurons import Neurons, Readout, Spiking, Weights


@dataclass(frozen=True)
class Ran:
    """What a run returned.

    Attributes:
        logits: of every sample.
        counts: spikes of every cell, one tensor a layer.
        nearest: how near any potential of a sample came to where its spikes change, relative to the size of what is
            summed up there.
    """

    logits: Float[Tensor, "samples classes"]
    counts: list[Float[Tensor, "samples units"]]
    nearest: Float[Tensor, " samples"]


def run(net: Spiking, x: Float[Tensor, "samples time inputs"]) -> Ran:
    """All steps of a network in double precision."""
    layers = [_Layer(says, x) for says in net.layers]
    says = net.readout
    read, largest = layers[says.layer], None
    for x_t in x.double().unbind(1):
        before = [layer.z for layer in layers]
        for layer in layers:
            layer.step(x_t, [other.z for other in layers], before)
        if says.over == "largest":
            now = _logits(says, read.p)
            largest = now if largest is None else torch.maximum(largest, now)
    logits = _logits(says, read.sum if says.over == "sum" else read.p) if largest is None else largest
    return Ran(logits, [layer.count for layer in layers], torch.stack([layer.nearest for layer in layers]).amin(0))


def _logits(says: Readout, value: Tensor) -> Tensor:
    return value @ says.weights.centre + says.bias.centre


def _read(says: Neurons, x_t: Tensor, now: list[Tensor], before: list[Tensor]) -> list[tuple[Tensor, Weights]]:
    """What a layer reads in a step, with its weights."""
    read = [] if says.inputs is None else [(x_t, says.inputs)]
    read += [(now[layer], weights) for layer, weights in says.below.items()]
    return read + [(before[layer], weights) for layer, weights in says.before.items()]


class _Layer:
    """One layer through time."""

    def __init__(self, says: Neurons, x: Tensor) -> None:
        self.says, samples = says, len(x)
        self.j = says.current.value.expand(samples, -1)
        self.decayed = says.decay.value * says.start.value.expand(samples, -1)
        self.z = x.new_zeros(samples, says.units, dtype=torch.float64)
        self.p, self.sum, self.count, self.size, self.above = self.z, self.z, self.z, self.z, self.z
        self.nearest = torch.full((samples,), torch.inf, dtype=torch.float64, device=x.device)

    def step(self, x_t: Tensor, now: list[Tensor], before: list[Tensor]) -> None:
        """One step, of inputs, spikes of this step and of the step before."""
        says = self.says
        u, size = says.bias.centre.expand_as(self.z), says.bias.centre.abs().expand_as(self.z)
        for source, weights in _read(says, x_t, now, before):
            u, size = u + source @ weights.centre, size + source.abs() @ weights.centre.abs()
        if says.largest is not None:
            currents = says.largest.currents
            several, sizes = (t.expand(len(u), -1) for t in (currents.bias.centre, currents.bias.centre.abs()))
            for source, weights in _read(currents, x_t, now, before):
                several, sizes = several + source @ weights.centre, sizes + source.abs() @ weights.centre.abs()
            u, size = (t + n[:, says.largest.windows].amax(-1) for t, n in ((u, several), (size, sizes)))
        self.j = u if says.synapse is None else says.synapse.value * self.j + u
        self.p = self.decayed + self.j + says.leak.centre
        if says.late and says.reset is not None:
            self.p = torch.where(self.z > 0, says.reset.centre, self.p)
        self.size = torch.maximum(self.size, size + self.j.abs() + self.decayed.abs() + says.leak.centre.abs())
        self._spike()
        self.decayed = says.decay.value * self.p
        if says.next_drop is not None:
            self.decayed = self.decayed - self.z * says.next_drop.centre
        elif says.reset is not None and not says.late:
            self.decayed = says.decay.value * torch.where(self.z > 0, says.reset.centre, self.p)
        self.sum, self.count = self.sum + (self.z if says.most else self.p), self.count + self.z

    def _spike(self) -> None:
        says, level = self.says, self.says.threshold.centre
        if says.most == 0:
            return
        if says.twice:
            again = self.above > 0
            spikes = self.p > level + again * level
            self.above = self.p - spikes * level > level
            self.z = spikes.double()
            gap = torch.minimum((self.p - level).abs(), (self.p - 2 * level).abs())
        elif says.most == 1:
            self.z = (self.p > level).double()
            gap = self.p - level
        else:
            self.z = torch.floor(self.p / level).clamp(0, says.most)
            # The nearest whole number of thresholds at which their count changes.
            gap = self.p - level * (self.p / level).round().clamp(1, says.most)
        self.nearest = torch.minimum(self.nearest, (gap.abs() / (self.size + level.abs()).clamp(min=1e-300)).amin(1))
