"""Spiking networks as people write them, with a loop over time steps in forward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

INPUTS, HIDDEN, CLASSES = 5, 6, 3


def fires(v: Tensor) -> Tensor:
    return (v > 0).to(v.dtype)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, CLASSES)
        self.recurrent = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.beta = nn.Parameter(torch.tensor(0.9))
        self.threshold = nn.Parameter(torch.tensor(0.3))
        self.register_buffer("decay", torch.tensor(0.8))

    def zeros(self, x: Tensor, units: int = HIDDEN) -> Tensor:
        return torch.zeros(x.shape[0], units)

    def leaky(self, current: Tensor, mem: Tensor | None, beta: Tensor) -> tuple[Tensor, Tensor]:
        if mem is None:
            mem = torch.zeros_like(current)
        reset = fires(mem - self.threshold).clone().detach()
        mem = beta.clamp(0, 1) * mem + current - reset * self.threshold
        return fires(mem - self.threshold), mem


class ResetFromMembrane(Layers):
    """As snnTorch: the state is ``None`` at first, and what it resets by is computed from it."""

    def forward(self, x: Tensor) -> Tensor:
        mem1 = mem2 = None
        spikes, membranes = [], []
        for t in range(x.size(1)):
            spk1, mem1 = self.leaky(self.fc1(x[:, t]), mem1, self.beta)
            spk2, mem2 = self.leaky(self.fc2(spk1), mem2, self.decay)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes, dim=0).sum(0) + 0.01 * torch.stack(membranes).mean(0)


class CurrentBased(Layers):
    """As Norse: states are tuples, made in the first call, and a leaky readout a step late."""

    def cell(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if state is None:
            state = (torch.zeros_like(x), torch.zeros_like(x))
        v, i = state
        decayed = v + 0.1 * ((0.0 - v) + i)
        left = i - 0.2 * i
        z = fires(decayed - 0.1)
        return z, ((1 - z.detach()) * decayed + z.detach() * 0.0, left + x)

    def integrator(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        v, i = (self.zeros(x, CLASSES), self.zeros(x, CLASSES)) if state is None else state
        i = i + x
        v = v + 0.1 * (0 - v + i)
        return v, (v, i * 0.8)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(1, 0, 2)
        s1 = s2 = None
        voltages = []
        for t in range(x.shape[0]):
            z, s1 = self.cell(self.fc1(x[t]), s1)
            v, s2 = self.integrator(self.fc2(z), s2)
            voltages.append(v)
        return torch.stack(voltages).amax(0)


class ChargeFireReset(Layers):
    """As SpikingJelly: potentials begin as numbers, spikes are counted."""

    def node(self, current: Tensor, v: float | Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(v, float):
            v = torch.full_like(current, v)
        v = v + (current - v) / 2.0
        z = fires(v - 0.1)
        return z, (1.0 - z) * v + z * 0.0

    def forward(self, x: Tensor) -> Tensor:
        v1: float | Tensor = 0.0
        v2: float | Tensor = 0.0
        count: float | Tensor = 0.0
        for t in range(x.shape[1]):
            z, v1 = self.node(self.fc1(x[:, t]), v1)
            z, v2 = self.node(self.fc2(z), v2)
            count += z
        return count / x.shape[1]


class NumbersAtFirst(Layers):
    def forward(self, x: Tensor) -> Tensor:
        mem, spk, total = 0.0, 0.0, 0
        for t in range(x.shape[1]):
            mem = self.beta * mem + self.fc1(x[:, t]) - spk * 0.5
            spk = (mem > 0.5).float()
            total = total + self.fc2(spk)
        return total


class SumOfList(Layers):
    def forward(self, x: Tensor) -> Tensor:
        mem, spk, out = self.zeros(x), self.zeros(x), []
        for t in range(x.shape[1]):
            mem = 0.9 * mem + self.fc1(x[:, t]) - spk * 0.5
            spk = (mem > 0.5).float()
            out.append(self.fc2(spk))
        return sum(out) / len(out)


class DirectCoding(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x = x[:, 0]
        mem1, mem2, out = self.zeros(x), self.zeros(x, CLASSES), []
        for _ in range(7):
            mem1 = 0.9 * mem1 + self.fc1(x)
            z = fires(mem1 - 0.8)
            mem1 = mem1 - z
            mem2 = mem2 * 0.8 + self.fc2(z)
            z = fires(mem2 - 0.1)
            mem2 = mem2 * (1 - z)
            out.append(z)
        return torch.stack(out).mean(0)


class RepeatedInput(Layers):
    """As SpikingJelly: one input, repeated in front of the samples; spikes set the potential by a mask."""

    def forward(self, x: Tensor) -> Tensor:
        sequence = x[:, 0].unsqueeze(0).repeat(5, 1, 1)
        mem1, mem2, total = self.zeros(x), self.zeros(x, CLASSES), 0.0
        for x_t in sequence:
            mem1 = mem1 + (self.fc1(x_t) - mem1) / 2.0
            fired = mem1 >= 0.1
            mem1[fired] = 0.0
            mem2 = mem2 + (self.fc2(fired.to(x.dtype)) - mem2) / 2.0
            spikes = torch.heaviside(mem2 - 0.1, torch.ones(1, dtype=x.dtype))
            mem2 = torch.where(spikes > 0, 0.0, mem2)
            total = total + spikes
        return total / 5


class WithoutItself(Layers):
    """The sequence backwards; recurrence between different cells alone; a start that each sample has a copy of."""

    def forward(self, x: Tensor) -> Tensor:
        x, between = x.flip(1), self.recurrent.weight * (1 - torch.eye(HIDDEN, dtype=x.dtype))
        mem = torch.full((HIDDEN,), 0.05, dtype=x.dtype).repeat(x.shape[0], 1)
        spikes, counts = torch.zeros_like(mem), torch.zeros_like(mem)
        for t in range(x.shape[1]):
            mem = 0.9 * mem + self.fc1(x[:, t]) + spikes @ between.T - 0.3 * spikes
            spikes = torch.heaviside(mem - 0.3, torch.tensor(0.0, dtype=x.dtype))
            counts = counts + spikes
        return self.fc2(counts)


class LargestOverTime(Layers):
    """As Norse's tutorials: the largest voltage of a leaky readout over time."""

    def forward(self, x: Tensor) -> Tensor:
        mem, voltage, voltages = x.new_zeros(x.shape[0], HIDDEN), 0.0, []
        for t in range(x.shape[1]):
            mem = 0.9 * mem + self.fc1(x[:, t])
            spikes = fires(mem - 0.3)
            mem = mem - 0.3 * spikes
            voltage = 0.8 * voltage + self.fc2(spikes)
            voltages.append(voltage)
        largest, _ = torch.max(torch.stack(voltages), 0)
        return largest


class DirectOnce(Layers):
    """The current of all steps is computed in front of the loop."""

    def forward(self, x: Tensor) -> Tensor:
        current, mem1, mem2, out = self.fc1(x[:, 0]), None, None, []
        for _ in range(7):
            spk1, mem1 = self.leaky(current, mem1, self.beta)
            spk2, mem2 = self.leaky(self.fc2(spk1), mem2, self.decay)
            out.append(spk2)
        return torch.stack(out, -1).mean(-1)


class DirectNumbers(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x, mem, out = x[:, 0], 0.0, 0.0
        for _ in range(7):
            mem = 0.9 * mem + self.fc1(x)
            z = fires(mem - 1)
            mem = mem - z
            out = out * 0.8 + self.fc2(z)
        return out


class LastMembrane(Layers):
    def forward(self, x: Tensor) -> Tensor:
        mem = self.zeros(x)
        for x_t in x.unbind(1):
            mem = 0.9 * mem + self.fc1(x_t)
            z = fires(mem - 0.5)
            mem -= z
        return self.fc2(mem)


class CurrentsFirst(Layers):
    """The first layer sees the whole sequence, the readout too."""

    def forward(self, x: Tensor) -> Tensor:
        mem, out = self.zeros(x), []
        for current in self.fc1(x).transpose(0, 1):
            mem = 0.9 * mem + current
            z = fires(mem - 0.5)
            mem = torch.where(z > 0, torch.zeros_like(mem), mem)
            out += [z.unsqueeze(1)]
        return self.fc2(torch.cat(out, 1)).mean(1)


class Slices(Layers):
    def forward(self, x: Tensor) -> Tensor:
        mem, out = torch.zeros(x.shape[0], 1, HIDDEN), []
        for t in range(x.shape[1]):
            mem = 0.9 * mem + self.fc1(x[:, t : t + 1])
            z = fires(mem - 0.5)
            mem = mem - z
            out.append(z)
        return self.fc2(torch.cat(out, 1).mean(1))


class Dictionary(Layers):
    def forward(self, x: Tensor) -> Tensor:
        state = {"mem": x.new_zeros(x.shape[0], HIDDEN), "spk": x.new_zeros(x.shape[0], HIDDEN)}
        out = []
        for t in range(x.shape[1]):
            mem = state["mem"] * torch.sigmoid(self.beta) + self.fc1(x[:, t, ...]) - state["spk"]
            state = {"spk": mem.gt(0.4).float(), "mem": mem}
            out.append(self.fc2(state["spk"]))
        return torch.stack(out, 2).sum(2)


class RecurrentInPlace(Layers):
    """Recurrent, the potential changed in place, spikes written into a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        mem = self.zeros(x)
        z = torch.zeros_like(mem)
        out = torch.zeros(x.shape[0], x.shape[1], HIDDEN)
        for t in range(x.shape[1]):
            mem += -0.1 * mem + self.fc1(x[:, t]) + self.recurrent(z) - z
            z = (mem > 0.3).float()
            out[:, t] = z
        return self.fc2(out.mean(1))


class CurrentsInAList(Layers):
    def forward(self, x: Tensor) -> Tensor:
        currents = [self.fc1(x[:, t]) for t in range(x.shape[1])]
        mem, out = self.zeros(x), []
        for current in currents:
            mem = 0.9 * mem + current
            z = fires(mem - 0.5)
            mem = mem - z
            out.append(z)
        return self.fc2(torch.stack(out, 1).mean(1))


class LayerByLayer(Layers):
    """Two loops, the second over what the first has stacked."""

    def forward(self, x: Tensor) -> Tensor:
        for layer, units in ((self.fc1, HIDDEN), (self.fc2, CLASSES)):
            mem, out = self.zeros(x, units), []
            for t in range(x.shape[1]):
                mem = 0.9 * mem + layer(x[:, t])
                z = fires(mem - 0.3)
                mem = mem - z
                out.append(z)
            x = torch.stack(out, 1)
        return x.mean(1)


class OneStepLate(Layers):
    """The second layer reads the spikes of the step before, so the last steps compute less."""

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2, z, out = self.zeros(x), self.zeros(x, CLASSES), self.zeros(x), []
        for t in range(x.shape[1]):
            mem2 = 0.9 * mem2 + self.fc2(z)
            out.append(mem2)
            mem1 = 0.8 * mem1 + self.fc1(x[:, t])
            z = fires(mem1 - 0.3)
            mem1 = mem1 - z * torch.tensor(0.3)
        return torch.stack(out).mean(0)


class LearnedStart(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.rand(HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        mem, out = self.start.expand(x.shape[0], -1), []
        for t in range(x.shape[1]):
            mem = 0.9 * mem + self.fc1(x[:, t])
            z = fires(mem - 0.3)
            mem = mem - z
            out.append(self.fc2(z))
        return torch.stack(out, 1).mean(1)


class ParametersAsStart(Layers):
    """One start for all samples, which has another shape than the potentials behind the first step."""

    def forward(self, x: Tensor) -> Tensor:
        mem, out = torch.zeros(HIDDEN), []
        for t in range(x.shape[1]):
            mem = 0.9 * mem + self.fc1(x[:, t])
            z = fires(mem - 0.3)
            mem = mem - z
            out.append(self.fc2(z))
        return torch.stack(out, 1).mean(1)


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2, out = 0, torch.zeros(x.shape[0], CLASSES), []
        for t in range(x.shape[1]):
            current = self.pool(self.conv(x[:, t]))
            mem1 = current if t == 0 else 0.8 * mem1 + current
            z = fires(mem1 - 0.2)
            mem1 = mem1 - z * 0.2
            mem2 = 0.9 * mem2 + self.fc(z.flatten(1))
            z = fires(mem2 - 0.1)
            mem2 = mem2 - z * 0.1
            out.append(z)
        return torch.stack(out, 1).mean(1)


class ConvolutionalInPools(nn.Module):
    """Average pooling between layers, the batch's size asked in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        mem, z, out = torch.zeros(x.shape[0], 2, 4, 4), torch.zeros(x.shape[0], 2, 4, 4), []
        for t in range(x.shape[1]):
            mem = 0.8 * mem + self.conv(x[:, t]) - 0.1 * z
            z = fires(mem - 0.1)
            out.append(self.fc(self.pool(z).view(z.shape[0], -1)))
        return torch.stack(out, 1).mean(1)


class ThreeLayers(Layers):
    def forward(self, x: Tensor) -> Tensor:
        synapse = [self.zeros(x), self.zeros(x), self.zeros(x, CLASSES)]
        mem = [self.zeros(x), self.zeros(x), self.zeros(x, CLASSES)]
        out = torch.zeros(x.shape[0], CLASSES)
        for t in range(x.shape[1]):
            z = x[:, t]
            for depth, layer in enumerate((self.fc1, self.recurrent, self.fc2)):
                synapse[depth] = 0.5 * synapse[depth] + layer(z)
                mem[depth] = self.decay * mem[depth] + synapse[depth]
                z = fires(mem[depth] - self.threshold)
                mem[depth] = mem[depth] * (1 - z)
            out = out + z
        return out


STYLES: dict[type[nn.Module], str] = {
    # The network, and how it starts.
    ResetFromMembrane: "initial",
    CurrentBased: "initial",
    ChargeFireReset: "first",
    NumbersAtFirst: "first",
    SumOfList: "first",
    DirectCoding: "initial",
    DirectOnce: "initial",
    DirectNumbers: "first",
    LastMembrane: "initial",
    CurrentsFirst: "initial",
    Slices: "initial",
    Dictionary: "initial",
    RecurrentInPlace: "initial",
    CurrentsInAList: "initial",
    LayerByLayer: "initial",
    OneStepLate: "initial",
    LearnedStart: "initial",
    ParametersAsStart: "first",
    Convolutional: "first",
    ConvolutionalInPools: "initial",
    ThreeLayers: "initial",
}


class Changed(Layers):
    """A loop in which one thing is not as in all steps."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.change = change
        self.other = nn.Linear(INPUTS, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        is_ = self.change.__eq__
        mem, out, older = self.zeros(x), [], [self.zeros(x) for _ in range(3)]
        for t in range(x.shape[1]):
            at = min(t + 1, x.shape[1] - 1) if is_("an index") and t >= 5 else t
            at = x.shape[1] - 1 - t if is_("backwards") else at
            layer = self.other if is_("a weight") and t == 7 else self.fc1
            factor = 0.9 + 0.001 * t if is_("a number that grows") else 0.9
            factor = 0.8 if is_("a number") and t == 7 else factor
            mem = factor * (older[0] if is_("a delay of three steps") else mem) + layer(x[:, at])
            if is_("a spike from two steps back"):
                mem = mem - 0.1 * older[1]
            if is_("an operator") and t == 7:
                mem = mem.abs()
            z = fires(mem - 0.3)
            mem = mem - z
            older = [*older[1:], z if is_("a spike from two steps back") else mem]
            if not (is_("an output") and t == 4) and not (is_("the first output") and t == 0):
                out.append(z)
        answer = self.fc2(torch.stack(out, 1).mean(1))
        return answer + self.fc2(out[4]) if is_("a readout of one step") else answer


CHANGES = (
    "an index", "backwards", "a weight", "a number that grows", "a number", "a delay of three steps",
    "a spike from two steps back", "an operator", "an output", "the first output", "a readout of one step",
)  # several to a line  # fmt: skip


class LinearBetweenLoops(Layers):
    """A layer that sees the whole sequence of spikes, between two loops."""

    def forward(self, x: Tensor) -> Tensor:
        for layer, units in ((self.fc1, HIDDEN), (self.fc2, CLASSES)):
            mem, out = self.zeros(x, units), []
            currents = layer(x)
            for t in range(x.shape[1]):
                mem = 0.9 * mem + currents[:, t]
                z = fires(mem - 0.3)
                mem = mem - z
                out.append(z)
            x = torch.stack(out, 1)
        return x.mean(1)


class StepOf(nn.Module):
    """A loop around a step that is given as a function of the layers, what is read, and states."""

    def __init__(self, step: Callable[..., tuple[Tensor, list[Tensor]]], states: int, readout: str) -> None:
        super().__init__()
        self.layer, self.mix = nn.Linear(INPUTS, INPUTS), nn.Linear(INPUTS, INPUTS, bias=False)
        self.rate = nn.Parameter(torch.tensor(0.7))
        self.step, self.states, self.readout = step, states, readout

    def forward(self, x: Tensor) -> Tensor:
        states = [torch.zeros_like(x[:, 0]) for _ in range(self.states)]
        out = []
        for t in range(x.shape[1]):
            output, states = self.step(self, x[:, t], states)
            out.append(output)
        if self.readout == "last":
            return out[-1] + sum(states)
        return torch.stack(out, 1).mean(1) if self.readout == "mean" else torch.stack(out).sum(0) + states[0]
