"""Networks of the leaky cells that people write, as methods of one step and as loops over time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thetabox.models import RecurrentModule

CELLS = (
    "subtract next", "subtract next, found anew", "subtract at once", "zero next", "value next", "zero at once",
    "value at once",
    "synapse", "norse", "no leak", "decay input", "time constants", "no reset", "many", "up to five",
    "zero, looked at twice", "zero, looked at twice, synapse", "subtract, looked at twice",
    "subtract, looked at twice, synapse", "input lost", "input lost, synapse",
)  # one to a cell of :func:`cell`  # fmt: skip
# With recurrence and without: of a kind the quick way first, which alternates, for tests that are thinned by two.
EITHER = [(kind, recurrent) for n, kind in enumerate(CELLS) for recurrent in (n % 2 == 0, n % 2 == 1)]


def cell(kind: str, spike, u: Tensor, v: Tensor, i: Tensor, z: Tensor, tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of a cell: potential, current and spikes behind it."""
    theta = 0.7
    if kind == "subtract next":
        v = 0.9 * v + u - z * theta
        z = spike(v - theta)
    elif kind == "subtract next, found anew":
        v = 0.9 * v + u - spike(v - theta) * theta
        z = spike(v - theta)
    elif kind.startswith("zero, looked at twice"):
        # As snnTorch with reset_delay=False.
        again = spike(v - theta)
        i = 0.5 * i + u if "synapse" in kind else i
        v = 0.9 * v + (i if "synapse" in kind else u)
        v = v - again * v
        z = spike(v - theta)
        v = v - (z - again) * v
    elif kind.startswith("subtract, looked at twice"):
        # As snnTorch with reset_delay=False.
        again = spike(v - theta)
        i = 0.5 * i + u if "synapse" in kind else i
        v = 0.9 * v + (i if "synapse" in kind else u) - again * theta
        z = spike(v - theta)
        v = v - (z - again) * theta
    elif kind.startswith("input lost"):
        # As snnTorch's RLeaky and Synaptic with a reset to zero.
        again = spike(v - theta)
        i = 0.5 * i + u if "synapse" in kind else i
        v = 0.9 * v + (i if "synapse" in kind else u)
        v = v - again * v
        z = spike(v - theta)
    elif kind == "subtract at once":
        v = 0.9 * v + u
        z = spike(v - theta)
        v = v - z * theta
    elif kind == "zero next":
        v = 0.9 * ((1 - spike(v - theta)) * v) + u
        z = spike(v - theta)
    elif kind == "value next":
        z = spike(v - theta)
        v = 0.9 * ((1 - z) * v + 0.2 * z) + u
        z = spike(v - theta)
    elif kind == "zero at once":
        v = 0.9 * v + u
        z = spike(v - theta)
        v = torch.where(z > 0, torch.zeros_like(v), v)
    elif kind == "value at once":
        v = 0.9 * v + u
        z = spike(v - theta)
        v = (1 - z) * v + z * 0.1
    elif kind == "synapse":
        i = 0.8 * i + u
        v = 0.9 * v + i - z * theta
        z = spike(v - theta)
    elif kind == "norse":
        j = i + u
        v = v + 0.1 * (0.05 - v + j)
        i = j - 0.2 * j
        z = spike(v - 0.1)
        v = (1 - z) * v + z * 0.01
    elif kind == "no leak":
        v = v + u
        z = spike(v - theta)
        v = v - z * theta
    elif kind == "decay input":
        v = v + (u - (v - 0.05)) / 2.0
        z = spike(v - theta)
        v = z * 0.05 + (1.0 - z) * v
    elif kind == "time constants":
        alpha = torch.exp(-1 / tau)
        v = alpha * v + (1 - alpha) * u
        z = spike((v - theta) / theta)
        v = v - z * theta * alpha
    elif kind == "no reset":
        v = 0.9 * v + u
        z = spike(v - theta)
    elif kind == "many":
        v = 0.9 * v + 0.1 * u
        z = torch.floor(v / 0.25).clamp(min=0)
        v = v - z * 0.25
    elif kind == "up to five":
        i = 0.8 * (i + u)
        v = 0.9 * v + i
        z = torch.floor(v / theta).clamp(0, 5)
        v = v - z * theta
    else:
        raise AssertionError(kind)
    return v, i, z


class TwoLayers(nn.Module):
    """Two dense layers with biases, written as a loop over time; the first may be recurrent."""

    def __init__(self, kind: str, *, recurrent: bool = False, strict: bool = True, gain: float = 2.5) -> None:
        super().__init__()
        self.kind, self.strict, self.recurrent = kind, strict, recurrent
        self.enter, self.onward, self.back = nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(7, 7)
        if not recurrent:
            del self.back
        with torch.no_grad():
            for p in self.parameters():
                p.mul_(gain)
        self.register_buffer("tau1", torch.rand(7) * 5 + 3)
        self.register_buffer("tau2", torch.tensor(6.0))

    def spike(self, gap: Tensor) -> Tensor:
        return ((gap > 0) if self.strict else (gap >= 0)).to(gap.dtype)

    def start(self, batch: int) -> list[Tensor]:
        v0 = 0.05 if self.kind in ("norse", "decay input") else 0.0
        like = self.enter.weight
        return [like.new_zeros(batch, n) + (v0 if k == 0 else 0.0) for n in (7, 3) for k in range(3)]

    def one_step(self, x_t: Tensor, state: list[Tensor]) -> list[Tensor]:
        v1, i1, z1, v2, i2, z2 = state
        u = self.enter(x_t)
        if self.recurrent:
            u = u + self.back(z1)
        v1, i1, z1 = cell(self.kind, self.spike, u, v1, i1, z1, self.tau1)
        v2, i2, z2 = cell(self.kind, self.spike, self.onward(z1), v2, i2, z2, self.tau2)
        return [v1, i1, z1, v2, i2, z2]

    def forward(self, x: Tensor) -> Tensor:
        state, out = self.start(x.shape[0]), []
        for t in range(x.shape[1]):
            state = self.one_step(x[:, t], state)
            out.append(state[-1])
        return torch.stack(out, 1).mean(1)


class Stepwise(RecurrentModule):
    """The same as methods of one step."""

    def __init__(self, net: TwoLayers) -> None:
        super().__init__()
        self.net = net

    def initial_state(self, batch: int):
        return self.net.start(batch)

    def step(self, x_t: Tensor, state):
        state = self.net.one_step(x_t, state)
        return state[-1], state

    def readout(self, outputs: Tensor) -> Tensor:
        return outputs.mean(1)


class Convolutional(RecurrentModule):
    """A convolution, an average pool, a dense layer; read by spikes, by a dense layer or by a leaky one."""

    def __init__(self, read: str = "spikes", *, strict: bool = True, stride: int = 1) -> None:
        super().__init__()
        self.read, self.strict = read, strict
        self.conv = nn.Conv2d(1, 3, 3, padding=1, stride=stride)
        side = 3 if stride == 1 else 1
        self.dense, self.out = nn.Linear(3 * side * side, 4), nn.Linear(4, 3)
        self.side = 6 // stride
        with torch.no_grad():
            for p in self.parameters():
                p.mul_(3.0)

    def spike(self, gap: Tensor) -> Tensor:
        return ((gap > 0) if self.strict else (gap >= 0)).to(gap.dtype)

    def initial_state(self, batch: int):
        like = self.out.weight
        return like.new_zeros(batch, 3, self.side, self.side), like.new_zeros(batch, 4), like.new_zeros(batch, 3)

    def step(self, x_t: Tensor, state):
        v1, v2, v3 = state
        v1 = 0.8 * v1 + self.conv(x_t.reshape(-1, 1, 6, 6))
        z1 = self.spike(v1 - 1.0)
        v1 = v1 * (1 - z1)
        v2 = 0.8 * v2 + self.dense(F.avg_pool2d(z1, self.side // (3 if self.side == 6 else 1)).flatten(1))
        z2 = self.spike(v2 - 1.0)
        v2 = v2 - z2
        answer = self.out(z2)
        if self.read == "spikes":
            v3 = 0.9 * v3 + answer
            answer = self.spike(v3 - 1.0)
            v3 = v3 - answer
        elif self.read != "dense":
            v3 = 0.9 * v3 + 0.1 * answer
            answer = v3
        return answer, (v1, v2, v3)

    def readout(self, outputs: Tensor) -> Tensor:
        return outputs[:, -1] if self.read == "last potential" else outputs.mean(1)
