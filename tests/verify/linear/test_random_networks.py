"""Random image networks with branches, joins, resampling and pools: corners of the box lie inside."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import thetabox as tb
from tests.verify.contract import assert_inside

pytestmark = pytest.mark.usefixtures("traced_once")

# How much of a step to a corner is taken: float32 may round its end out of the box.
WITHIN = {"real": 1 - 1e-12, "float32": 1 - 1e-3}
# Roundoff of the evaluations, in real arithmetic.
EVALUATION = {"real": 1e-13, "float32": 0.0}


class Branching(nn.Module):
    """Layers drawn at random; the side of the image and its channels are kept small."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self.side = side = draw.choice([5, 6, 8])
        self.layers, self.kinds = nn.ModuleList(), list[str]()
        channels = 2
        for _ in range(draw.randint(3, 8)):
            kind = draw.choice(sorted(LAYERS))
            if (side <= 2 and kind in SMALLER) or (side > 8 and kind in LARGER):
                kind = "conv"
            self.layers.append(LAYERS[kind](channels, draw))
            self.kinds.append(kind)
            channels = {"conv": channels + 1, "join": channels + 2, "transposed": 2}.get(kind, channels)
            side = side * 2 if kind in LARGER else (side + 1) // 2 if kind in SMALLER else side
            if channels > 5:
                self.layers.append(nn.Conv2d(channels, 2, 1))
                self.kinds.append("conv")
                channels = 2
        self.flat = draw.random() < 0.5
        self.head = nn.Linear(channels * side * side if self.flat else channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        for kind, layer in zip(self.kinds, self.layers, strict=True):
            x = JOINED.get(kind, lambda x, out: out)(x, layer(x))
        return self.head(x.flatten(1) if self.flat else x.mean((2, 3)))


def norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels)
    with torch.no_grad():
        layer.running_mean.normal_(0, 0.2)
        layer.running_var.uniform_(0.5, 2)
        layer.weight.normal_(1, 0.3)
        layer.bias.normal_(0, 0.2)
    return layer


def residual(channels: int) -> nn.Module:
    layers = nn.Conv2d(channels, channels, 3, padding=1), norm(channels), nn.ReLU()
    return nn.Sequential(*layers, nn.Conv2d(channels, channels, 3, padding=1), norm(channels))


LAYERS: dict[str, Callable[[int, random.Random], nn.Module]] = {
    "conv": lambda c, draw: nn.Conv2d(c, c + 1, 3, padding=1),
    "strided": lambda c, draw: nn.Conv2d(c, c, 3, stride=2, padding=1),
    "dilated": lambda c, draw: nn.Conv2d(c, c, 3, padding=2, dilation=2),
    "groups": lambda c, draw: nn.Conv2d(c, c, 3, padding=1, groups=c),
    "residual": lambda c, draw: residual(c),
    "nearest": lambda c, draw: nn.Upsample(scale_factor=2),
    "bilinear": lambda c, draw: nn.Upsample(scale_factor=2, mode="bilinear"),
    "join": lambda c, draw: nn.Conv2d(c, 2, 1),
    "transposed": lambda c, draw: nn.ConvTranspose2d(c, 2, 2, stride=2),
    "max": lambda c, draw: nn.MaxPool2d(2, ceil_mode=True),
    "mean": lambda c, draw: nn.AvgPool2d(2, ceil_mode=True),
    "curve": lambda c, draw: draw.choice([nn.Hardswish(), nn.GELU(), nn.Tanh(), nn.SiLU(), nn.PReLU(c)]),
    "padded": lambda c, draw: nn.Conv2d(c, c, 3, padding=1, padding_mode=draw.choice(["replicate", "zeros"])),
    "norm": lambda c, draw: norm(c),
}
SMALLER, LARGER = ("strided", "max", "mean"), ("nearest", "bilinear", "transposed")
JOINED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "conv": lambda x, out: out.relu(),
    "strided": lambda x, out: out.relu(),
    "dilated": lambda x, out: F.leaky_relu(out, 0.1),
    "groups": lambda x, out: out.relu(),
    "transposed": lambda x, out: out.relu(),
    "residual": lambda x, out: (x + out).relu(),
    "join": lambda x, out: torch.cat([out.relu(), x], 1),
}


def corners(model: nn.Module, x: Tensor, reach: float) -> list[dict[str, Tensor]]:
    """Points of the box: the middle, random corners, and those where a logit is least and largest to first order."""
    now = {n: p.detach() for n, p in model.named_parameters()}
    points = [now]
    for _ in range(4):
        points.append({n: p + reach * p.abs() * torch.randint(0, 2, p.shape).mul(2).sub(1) for n, p in now.items()})
    logits = model(x)
    for k in range(logits.shape[1]):
        grads = torch.autograd.grad(logits[:, k].sum(), list(model.parameters()), retain_graph=True, allow_unused=True)
        for sign in (-1, 1):
            moved = zip(now.items(), grads, strict=True)
            points.append({n: p + sign * reach * p.abs() * (0 if g is None else g.sign()) for (n, p), g in moved})
    return points


@pytest.mark.thin(30, quick=4)
@pytest.mark.parametrize("seed", range(120))
def test_corners_are_inside(seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    model = Branching(draw).eval()
    x = torch.randn(2, 2, model.side, model.side)
    arithmetic, eps = ("real", "float32")[seed % 4 == 3], (3e-2, 1e-3, 1e-5, 0.0)[seed % 5 % 4]
    for how in ("interval", "backward"):
        bounds = tb.logit_bounds(model, x, eps, domain="linear", arithmetic=arithmetic, options={"intermediate": how})
        run = model.double() if arithmetic == "real" else model.float()
        inputs = x.double() if arithmetic == "real" else x
        for values in corners(run, inputs, eps * WITHIN[arithmetic]):
            with torch.no_grad():
                assert_inside(bounds, functional_call(run, values, (inputs,)), EVALUATION[arithmetic])
        model.float()
