"""Networks that are made of the operators of structure, certified end to end: U-Net, DenseNet, volumes."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thetabox as tb

EPSILON = [0.0, 1e-5, 1e-3, 3e-2, 0.3]
SAMPLES = 6


class UNet(nn.Module):
    """Two inputs' worth of channels down and up again, with skips by concatenation, then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom = nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(4, 6, 3, padding=1)
        self.up, self.wide = nn.ConvTranspose2d(6, 4, 2, stride=2), nn.Upsample(scale_factor=2, mode="bilinear")
        self.merge, self.head = nn.Conv2d(8 + 6, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down(x))
        b = F.relu(self.bottom(F.max_pool2d(a, 2)))
        h = torch.cat([a, F.relu(self.up(b)), self.wide(b)], 1)
        return self.head(F.adaptive_avg_pool2d(F.relu(self.merge(h)), 1).flatten(1))


class DenseNet(nn.Module):
    """Each layer reads all before it; batch norm, and an average pool between two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4 + 2 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(4 + 2 * i, 2, 3, padding=1) for i in range(3))
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.first(x)]
        for place, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            parts.append(conv(F.relu(norm(torch.cat(parts, 1)))))
            if place == 1:
                parts = [F.avg_pool2d(p, 2) for p in parts]
        return self.head(F.relu(torch.cat(parts, 1)).mean((2, 3)))


class Volumes(nn.Module):
    """A CNN in three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, 3, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool3d(2),
            nn.Conv3d(3, 4, 2),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Pixels(nn.Module):
    """Super-resolution's way up: pixel shuffle and a transposed convolution of signals behind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.turned = nn.Conv2d(2, 8, 3, padding=1, padding_mode="circular"), nn.ConvTranspose1d(2, 2, 3)
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.pixel_shuffle(F.relu(self.conv(x)), 2).flatten(2).roll(1, 2)
        return self.head(F.relu(self.turned(h)).mean(2))


NETWORKS = {"unet": (UNet, (2, 4, 6)), "densenet": (DenseNet, (2, 4, 4)), "volumes": (Volumes, (1, 4, 4, 6)),
            "pixels": (Pixels, (2, 3, 4))}  # a table  # fmt: skip


def network(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, inputs, and the class that it answers."""
    kind, shape = NETWORKS[name]
    torch.manual_seed(3)
    model = kind().eval()
    x = torch.randn(SAMPLES, *shape)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def corners(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, count: int = 60) -> Tensor:
    """Smallest margin of each sample at random corners of the box, in float64."""
    generator = torch.Generator().manual_seed(1)
    wide = {n: p.detach().double() for n, p in model.named_parameters()}
    buffers = {n: b.double() if b.is_floating_point() else b for n, b in model.named_buffers()}
    least = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for _ in range(count):
        signs = {n: torch.randint(0, 2, p.shape, generator=generator) * 2 - 1 for n, p in wide.items()}
        moved = {n: p + epsilon * p.abs() * signs[n] for n, p in wide.items()}
        with torch.no_grad():
            logits = torch.func.functional_call(model, {**buffers, **moved}, (x.double(),))
        own = logits.gather(1, y[:, None])
        others = logits.scatter(1, y[:, None], -torch.inf).amax(1, keepdim=True)
        least = torch.minimum(least, (own - others)[:, 0])
    return least


@pytest.mark.thin(3)
@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_certified(name: str) -> None:
    model, x, y = network(name)
    found = {d: tb.certify(model, x, y, EPSILON, domain=d) for d in ("interval", "linear", "auto")}
    for domain, cert in found.items():
        assert cert.verified[0].all(), domain
        assert cert.verified[1].float().mean() > 0.6, domain
        assert (cert.margin[1:] <= cert.margin[:-1] + 1e-9).all()
        for place, epsilon in enumerate(EPSILON):
            reached = corners(model, x, y, epsilon)
            assert (cert.margin[place] <= reached + 1e-9).all(), (domain, epsilon)
    assert (found["linear"].margin >= found["interval"].margin - 1e-9).all()
    better = found["linear"].margin[2] > found["interval"].margin[2] + 1e-6
    assert better.float().mean() > 0.5  # linear goes back through every operator
    attacked = tb.attack(model, x, y, EPSILON, steps=5, restarts=1)
    for cert in found.values():
        assert not (cert.verified & ~attacked.correct).any()


@pytest.mark.thin(3)
@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_float32(name: str) -> None:
    """What the network answers in float32 lies inside zero-width bounds, and inside those of a box."""
    model, x, _ = network(name)
    for domain, epsilon in itertools.product(("interval", "linear"), (0.0, 1e-2)):
        bounds = tb.logit_bounds(model, x, epsilon, domain=domain, arithmetic="float32")
        with torch.no_grad():
            for answer in (model(x), torch.cat([model(x[n : n + 1]) for n in range(len(x))])):
                assert (bounds.lower <= answer).all()
                assert (answer <= bounds.upper).all()
