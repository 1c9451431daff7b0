"""Random honest networks of every family, with inputs: none of them may be refused by the comparison."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thetabox.models import LSNN, ConvNet, RecurrentModule

ACTIVATIONS: list[type[nn.Module]] = [nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.Softplus,
                                      nn.Hardtanh, nn.ReLU6, nn.Identity]  # a list of classes  # fmt: skip


class Residual(nn.Module):
    """A block around which its input passes."""

    def __init__(self, body: nn.Module, scale: float) -> None:
        super().__init__()
        self.body, self.scale = body, nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.body(x)


class Functional(nn.Module):
    """Weights and operators by hand, with odds and ends of torch around them."""

    def __init__(self, features: int, classes: int, kind: int) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(features, 7)), nn.Parameter(torch.randn(7))
        self.v, self.gain, self.kind = nn.Parameter(torch.randn(7, classes)), nn.Parameter(torch.rand(7)), kind
        self.register_buffer("mask", (torch.rand(7) > 0.3).float())

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if x.shape[0] == 1:
            x = x.squeeze(0).unsqueeze(0)  # a branch that changes nothing
        h = torch.addmm(self.b, x, self.w) * self.gain.clamp(0.1, 0.9)
        h = [F.relu(h), h.abs().sqrt(), torch.where(h > 0, h, 0.1 * h), h * h, torch.maximum(h, -h)][self.kind % 5]
        h = h * self.mask + h.mean(1, keepdim=True)
        left, right = h[:, :3], h[:, 3:]
        return torch.cat([left, right[:, [3, 1, 2, 0]] if self.kind > 5 else right], 1) @ self.v


class Cell(RecurrentModule):
    """A recurrent cell without spikes, or with them."""

    def __init__(self, inputs: int, units: int, classes: int, kind: int) -> None:
        super().__init__()
        self.W, self.U = nn.Parameter(torch.randn(inputs, units)), nn.Parameter(0.3 * torch.randn(units, units))
        self.O, self.kind, self.units = nn.Parameter(torch.randn(units, classes)), kind, units

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        return self.W.new_zeros(batch, self.units), self.W.new_zeros(batch, self.units)

    def step(self, x_t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        v, z = state
        drive = x_t @ self.W + z @ self.U
        if self.kind == 0:
            z = torch.tanh(drive)
            return z, (v, z)
        v = 0.8 * v + 0.2 * drive - 0.5 * z
        z = (v > 0.5).to(v.dtype) if self.kind == 1 else torch.sigmoid(v)
        return z, (v, z)

    def readout(self, outputs: Tensor) -> Tensor:
        return outputs.mean(1) @ self.O


def _dense(rng: random.Random, features: int, classes: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(rng.randint(0, 8)):
        width = rng.randint(1, 20)
        layers += [nn.Linear(features, width, bias=rng.random() < 0.8)]
        if rng.random() < 0.3:
            layers += [_normalised(nn.BatchNorm1d(width))]
        layers += [rng.choice(ACTIVATIONS)()]
        if rng.random() < 0.2:
            layers += [Residual(nn.Sequential(nn.Linear(width, width), nn.ReLU()), rng.random())]
        if rng.random() < 0.1:
            layers += [nn.Dropout(0.5)]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, classes))


def _convolutional(rng: random.Random, shape: tuple[int, ...], classes: int) -> nn.Module:
    flat = len(shape) == 2
    conv, norm = (nn.Conv1d, nn.BatchNorm1d) if flat else (nn.Conv2d, nn.BatchNorm2d)
    pools = [nn.MaxPool1d, nn.AvgPool1d] if flat else [nn.MaxPool2d, nn.AvgPool2d]
    layers: list[nn.Module] = []
    channels = shape[0]
    for _ in range(rng.randint(1, 4)):
        groups = rng.choice([1, channels])
        out = channels * rng.randint(1, 2)
        layers += [conv(channels, out, 3, stride=rng.choice([1, 1, 2]), padding=1, groups=groups)]
        if rng.random() < 0.5:
            layers += [_normalised(norm(out))]
        layers += [rng.choice(ACTIVATIONS)()]
        if rng.random() < 0.4:
            layers += [rng.choice(pools)(2, ceil_mode=True) if rng.random() < 0.2 else rng.choice(pools)(1)]
        channels = min(out, 8)
        if out > 8:
            layers += [conv(out, channels, 1)]
    body = nn.Sequential(*layers, nn.Flatten())
    with torch.no_grad():
        features = body.eval()(torch.zeros(2, *shape)).shape[1]
    return nn.Sequential(body, nn.Linear(features, classes))


def _normalised(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 4.0)
        norm.weight.normal_()
        norm.bias.normal_()
    return norm


def random_network(seed: int) -> tuple[nn.Module, Tensor]:
    """A network and a few inputs that it takes."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    samples, classes = rng.choice([1, 2, 3, 7, 20]), rng.randint(2, 6)
    family = rng.choice(["dense", "dense", "image", "signal", "functional", "cell", "lsnn", "convnet"])
    if family in ("cell", "lsnn"):
        x = rng.choice([0.3, 1.0, 4.0]) * torch.randn(samples, rng.randint(1, 15), 4)
        units = rng.randint(2, 20)
        net: nn.Module = Cell(4, units, classes, rng.randint(0, 2))
        if family == "lsnn":
            net = LSNN(4, units, classes, refractory=rng.randint(0, 3), recurrent=rng.random() < 0.7)
    elif family == "convnet":
        x, net = torch.rand(samples, 1, 8, 8), ConvNet((1, 8, 8), (4, 4), 2, (16,))
    else:
        shape = {"image": (2, 9, 9), "signal": (3, 16)}.get(family, (rng.randint(1, 12),))
        x = torch.randn(samples, *shape)
        if family in ("image", "signal"):
            net = _convolutional(rng, shape, classes)
        elif family == "dense":
            net = _dense(rng, shape[0], classes)
        else:
            net = Functional(shape[0], classes, rng.randint(0, 9))
    scale = rng.choice([1.0, 1.0, 1.0, 0.03, 5.0])
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(scale)
            if rng.random() < 0.2:
                p.mul_((torch.rand_like(p) > 0.5).to(p.dtype))
    dtype = rng.choice([torch.float32, torch.float32, torch.float64])
    return net.to(dtype).train(rng.random() < 0.5), x.to(rng.choice([dtype, torch.float64]))
