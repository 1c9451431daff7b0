"""What is proven of ordinary spiking networks, written as loops over time, without a description by their author.

    python benchmarks/spiking.py --samples 100 --epsilon 1e-4,1e-3,5e-3,1e-2 --out results/
    python benchmarks/spiking.py --walk --epsilon 1e-4,5e-4,1e-3,2e-3 --nir tests/data/nir

Each network is trained for a minute or two with a surrogate gradient: feed-forward cells with hidden biases on vowels
(reset by subtraction and to a value; without hidden biases also as the same cells described by hand), a recurrent one,
and a small convolutional network on digits that sees the same image at every step; then the NIR files that frameworks
wrote (``--nir tests/data/nir``). A row says what plain intervals
prove, what ``auto`` proves, and what an attack within the box leaves right, which no proof can be above. With
``--walk`` it says instead what one walk with four histories a neuron (K = 4) costs, in plain passes of the same samples
in float64.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thetabox as tb
from thetabox import data
from thetabox.measure import attack
from thetabox.models import LeakyCells, RecurrentModule
from thetabox.verify.agreement import checked_problem
from thetabox.verify.arguments import settings
from thetabox.verify.histories import Histories

EPOCHS, BATCH, RATE = 30, 32, 5e-3


def spike(gap: Tensor) -> Tensor:
    """H(gap), with the gradient of a steep sigmoid."""
    soft = torch.sigmoid(4.0 * gap)
    return (gap > 0).to(gap.dtype) + (soft - soft.detach())


class Loop(nn.Module):
    """Two layers of 64 leaky cells in a loop over time, read by a dense layer of mean spikes."""

    def __init__(self, *, bias: bool = True, value: bool = False, recurrent: bool = False) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(12, 64, bias=bias), nn.Linear(64, 64, bias=bias)
        self.back = nn.Linear(64, 64, bias=False) if recurrent else None
        self.value, self.out = value, nn.Linear(64, 9)

    def reset(self, mem: Tensor, spk: Tensor) -> Tensor:
        """The potential behind a spike."""
        return mem * (1.0 - spk) if self.value else mem - spk

    def forward(self, x: Tensor) -> Tensor:
        mem1 = mem2 = spk1 = x.new_zeros(x.shape[0], 64)
        spikes = []
        for t in range(x.shape[1]):
            current = self.fc1(x[:, t])
            if self.back is not None:
                current = current + self.back(spk1)
            mem1 = 0.9 * mem1 + current
            spk1 = spike(mem1 - 1.0)
            mem1 = self.reset(mem1, spk1)
            mem2 = 0.9 * mem2 + self.fc2(spk1)
            spk2 = spike(mem2 - 1.0)
            mem2 = self.reset(mem2, spk2)
            spikes.append(spk2)
        return self.out(torch.stack(spikes, 1).mean(1))


class Described(RecurrentModule):
    """The same cells without hidden biases, rewritten by hand and described (``leaky_cells``).

    With α = .9, W / (1 − α) for W and α A for what a spike takes of the next potential.
    """

    def __init__(self, of: Loop) -> None:
        super().__init__()
        self.enter = nn.Parameter(of.fc1.weight.detach().T / 0.1)
        self.onward = nn.Parameter(of.fc2.weight.detach().T / 0.1)
        self.leave = nn.Parameter(of.out.weight.detach().T.clone())
        self.bias = nn.Parameter(of.out.bias.detach().clone())
        self.register_buffer("threshold", torch.ones(64))
        self.register_buffer("tau", torch.full((64,), -0.9 / float(torch.log(torch.tensor(0.9, dtype=torch.float64)))))

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        return tuple(self.enter.new_zeros(batch, 64) for _ in range(4))

    def cell(self, drive: Tensor, v: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """One step: dt = α, so that a spike takes α A."""
        alpha = torch.exp(-0.9 / self.tau)
        v = alpha * v + (1.0 - alpha) * drive - z * self.threshold * 0.9
        return v, spike(v - self.threshold)

    def step(self, x_t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        v1, z1, v2, z2 = state
        v1, z1 = self.cell(x_t @ self.enter, v1, z1)
        v2, z2 = self.cell(z1 @ self.onward, v2, z2)
        return z2, (v1, z1, v2, z2)

    def readout(self, outputs: Tensor) -> Tensor:
        return outputs.mean(1) @ self.leave + self.bias

    def leaky_cells(self) -> list[LeakyCells]:
        neuron: dict[str, Any] = {"threshold": "threshold", "tau": "tau", "tau_adapt": None, "beta": None}
        first = LeakyCells("enter", None, None, None, **neuron, dt=0.9, refractory=0)
        return [first, LeakyCells("onward", None, "leave", "bias", **neuron, dt=0.9, refractory=0)]


class Convolutional(nn.Module):
    """A convolution of 8 channels, an average pool, a dense layer; the same image for 10 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2 = x.new_zeros(x.shape[0], 8, 8, 8), x.new_zeros(x.shape[0], 10)
        spikes = []
        for _ in range(10):
            mem1 = 0.9 * mem1 + self.conv(x)
            spk1 = spike(mem1 - 1.0)
            mem1 = mem1 - spk1
            mem2 = 0.9 * mem2 + self.fc(F.avg_pool2d(spk1, 2).flatten(1))
            spk2 = spike(mem2 - 1.0)
            mem2 = mem2 - spk2
            spikes.append(spk2)
        return torch.stack(spikes, 1).mean(1)


class Tutorial(nn.Module):
    """Two convolutions with max pools of their currents, as in snnTorch's tutorial; the same image for 8 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, padding="same"), nn.Conv2d(8, 12, 3)
        self.fc = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        mem1 = mem2 = mem3 = total = x.new_zeros(1)
        for _ in range(8):
            mem1 = 0.9 * mem1 + F.max_pool2d(self.conv1(x), 2)
            spk = spike(mem1 - 1.0)
            mem1 = mem1 - spk
            mem2 = 0.9 * mem2 + F.max_pool2d(self.conv2(spk), 2)
            spk = spike(mem2 - 1.0)
            mem2 = mem2 - spk
            mem3 = 0.9 * mem3 + self.fc(spk.flatten(1))
            spk = spike(mem3 - 1.0)
            mem3 = mem3 - spk
            total = total + spk
        return total


class Normalised(nn.Module):
    """Convolution, batch norm, cells, a max pool of their spikes, as in SpikingJelly's; the same image for 8 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        mem1 = mem2 = total = x.new_zeros(1)
        for _ in range(8):
            mem1 = 0.9 * mem1 + self.norm(self.conv(x))
            spk = spike(mem1 - 1.0)
            mem1 = mem1 - spk
            mem2 = 0.9 * mem2 + self.fc(F.max_pool2d(spk, 2).flatten(1))
            spk = spike(mem2 - 1.0)
            mem2 = mem2 - spk
            total = total + spk
        return total


def trained(model: nn.Module, task: str, folder: Path | None, scale: float) -> nn.Module:
    """Adam on the cross-entropy of scaled logits, at a falling rate."""
    train = data.load(task, "train", folder)
    x, y = train.x.float(), train.y
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimiser.zero_grad()
            F.cross_entropy(scale * model(x[rows]), y[rows]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        schedule.step()
    return model.eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, float]] = {
    "LIF 2 x 64, subtraction, biases": (Loop, "vowels", 1.0),
    "LIF 2 x 64, subtraction, no hidden bias": (lambda: Loop(bias=False), "vowels", 1.0),
    "LIF 2 x 64, to zero, biases": (lambda: Loop(value=True), "vowels", 1.0),
    "RLeaky 64 + LIF 64": (lambda: Loop(recurrent=True), "vowels", 1.0),
    "conv 8 channels, 10 steps": (Convolutional, "digits", 10.0),
    "2 convs, max pools of currents": (Tutorial, "digits", 1.0),
    "conv, batch norm, max pool of spikes": (Normalised, "digits", 1.0),
}


def row(name: str, model: nn.Module, x: Tensor, y: Tensor, epsilon: list[float], attacked: bool) -> dict[str, Any]:
    """One network's line of the table."""
    line: dict[str, Any] = {"network": name, "samples": len(y), "epsilon": epsilon}
    for domain in ("interval", "auto"):
        started = time.perf_counter()
        cert = tb.certify(model, x, y, epsilon=epsilon, domain=domain)
        line[domain] = [round(float(v), 4) for v in cert.verified_accuracy]
        line[f"{domain}_seconds"] = time.perf_counter() - started
        line["clean"] = float(cert.clean_accuracy)
    line["left_out"] = cert.options.get("left_out", {})
    line["proven_by"] = cert.options["proven_by"]
    if attacked:
        line["attack"] = [round(float(v), 4) for v in attack(model, x, y, epsilon, steps=10, restarts=1).accuracy]
    cells = [f"{a:.2f} / {b:.2f}" for a, b in zip(line["interval"], line["auto"], strict=True)]
    if attacked:
        cells = [f"{cell} / {c:.2f}" for cell, c in zip(cells, line["attack"], strict=True)]
    print(f"| {name} | {line['clean']:.2f} | {' | '.join(cells)} | {line['auto_seconds']:.0f} |", flush=True)
    return line


def walk_row(name: str, model: nn.Module, x: Tensor, y: Tensor, epsilon: list[float]) -> dict[str, Any]:
    """Cost of one walk with K = 4 at every ε: least of ten, in turns with the forward pass, by processor time."""
    torch.set_num_threads(1)
    problem, _ = checked_problem(
        model, settings("interval", None, "real", "float64", "cpu"), x, torch.tensor([0.0, max(epsilon)]), x
    )
    domain, plain, which = Histories(problem, {"histories": 4}), copy.deepcopy(model).double(), torch.arange(len(x))

    def seconds(function: Callable[[], Any]) -> float:
        started = time.process_time()
        function()
        return time.process_time() - started

    line: dict[str, Any] = {"network": name, "samples": len(y), "epsilon": epsilon, "passes": []}
    for e in epsilon:
        rows = torch.full((1, len(x)), e, dtype=torch.float64)
        walks, passes = [], []
        with torch.no_grad():
            for _ in range(10):
                passes += [seconds(lambda: plain(x.double())) for _ in range(3)]
                walks.append(seconds(lambda rows=rows: domain.margins(which, rows, y)))
        line["passes"].append(min(walks) / min(passes))
    print(f"| {name} | {' | '.join(f'{passes:.0f}' for passes in line['passes'])} |", flush=True)
    return line


WRITTEN = ("snntorch_leaky", "snntorch_conv", "norse_box_leaky", "spikingjelly_leaky", "sinabs_leaky")


def written(folder: Path, name: str, samples: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network that a framework wrote, its inputs and labels."""
    held = dict(np.load(folder / f"{name}.npz"))
    x = torch.from_numpy(held["x"][:samples].astype(np.float32) / 16)
    x = x if x.dim() == 3 else x[:, None].repeat(1, int(held["steps"]), 1)
    model = tb.load(folder / f"{name}.nir", dynamics=str(held["dynamics"]))
    return model, x, torch.from_numpy(held["y"][:samples])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--epsilon", default="1e-4,1e-3,5e-3,1e-2")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--walk", action="store_true", help="what a walk costs, in place of what is proven")
    parser.add_argument("--no-attack", action="store_true")
    parser.add_argument("--only", default="", help="networks whose name holds this")
    parser.add_argument("--nir", type=Path, help="folder of NIR files with inputs beside them")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    epsilon = [float(e) for e in given.epsilon.split(",")]
    columns = [f"{e:g}" for e in epsilon] if given.walk else ["clean", *(f"{e:g}" for e in epsilon), "s"]
    print(f"| network | {' | '.join(columns)} |\n| {' | '.join(['---'] * (1 + len(columns)))} |")
    rows = []

    def add(name: str, model: nn.Module, x: Tensor, y: Tensor, *, attacked: bool) -> None:
        rows.append(walk_row(name, model, x, y, epsilon) if given.walk else row(name, model, x, y, epsilon, attacked))

    for name, (make, task, scale) in NETWORKS.items():
        if given.only not in name:
            continue
        torch.manual_seed(0)
        model = trained(make(), task, given.data_dir, scale)
        test = data.load(task, "test", given.data_dir).subset(given.samples)
        x, y = test.x.float(), test.y
        add(name, model, x, y, attacked=not given.no_attack)
        if name.endswith("no hidden bias"):
            assert isinstance(model, Loop)
            add(f"{name}, described by hand", Described(model), x, y, attacked=False)
    for name in WRITTEN if given.nir is not None else ():
        if given.only in name:
            model, x, y = written(given.nir, name, given.samples)
            add(name, model, x, y, attacked=False)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "spiking.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
