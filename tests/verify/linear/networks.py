"""Tiny networks for the linear domain, and what they reach over their box."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.verify.arguments import settings
from thetabox.verify.linear import Linear
from thetabox.verify.problem import Problem

SWEEP = [0.0, 1e-9, 1e-3, 0.1, 1.5]


def linear(
    model: nn.Module,
    x: Tensor,
    intermediate: str = "backward",
    box: Box | None = None,
    arithmetic: str = "real",
    precision: str = "float64",
) -> Linear:
    """The domain for a model and its inputs."""
    return Linear(
        Problem(model, settings("interval", box, arithmetic, precision, "cpu"), x), {"intermediate": intermediate}
    )


def spread(epsilon: list[float], samples: int) -> Tensor:
    """Every ε for every sample."""
    return torch.tensor(epsilon, dtype=torch.float64)[:, None].expand(-1, samples)


class Residual(nn.Module):
    """Two branches, of which one passes a convolution and a batch norm and the other only a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.second = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.last = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        h = torch.relu(self.norm(self.second(h)) + h)
        h = torch.relu(self.second(h) - 0.5 * h)
        return self.last(h.mean((2, 3)))


class Scaled(nn.Module):
    """Elementwise parameters, numbers, a transposed product, a pad and a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.randn(3, 1)), nn.Parameter(torch.randn(4))
        self.weight = nn.Parameter(torch.randn(6, 3) / 2)
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(x * self.scale + self.shift - 0.25) / 3
        h = torch.relu(2 - h.transpose(1, 2) * 1.5)
        h = nn.functional.pad(h, (1, 0))[:, 1:3, :3]
        return h.flatten(1) @ self.weight + self.bias


class Unruled(nn.Module):
    """An operator that has no backward rule in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(torch.sigmoid(self.first(x)) - 0.4))


def _normed() -> nn.Module:
    model = Residual()
    with torch.no_grad():
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.3, 2)
        model.norm.weight.normal_()
        model.norm.bias.normal_()
    return model


class Numbers(nn.Module):
    """One number a sample, in several ways, between two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)
        self.weight, self.scale, self.shift = (nn.Parameter(torch.randn(s)) for s in ((4,), (), ()))

    def forward(self, x: Tensor) -> Tensor:
        v = torch.relu(self.first(x))
        numbers = v @ self.weight, v[:, 0] * 2 - 1.5, torch.relu(v[:, 1] - v[:, 2]), v[:, 3] * self.scale + self.shift
        return self.last(torch.stack(numbers, 1))


MAKERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)), (2,)),
    "deep": (
        lambda: nn.Sequential(
            nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.LeakyReLU(0.2), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)
        ),
        (3,),
    ),
    "numbers": (Numbers, (3,)),
    "no bend": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 3)), (3,)),
    "positions": (
        lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.Flatten(), nn.Linear(6, 3)),
        (3, 2),
    ),
    "strided": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2, 4, 2, padding=1, groups=2, bias=False),
            nn.ReLU(),
            nn.Conv2d(4, 2, 2, dilation=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
        (1, 5, 5),
    ),
    "pooled": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 2, padding="same"),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2, 2, 2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, stride=1),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
        (1, 4, 4),
    ),
    "pool first": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 2),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(2, 2, 2),
            nn.MaxPool2d((1, 2), stride=1),
            nn.Flatten(),
            nn.Linear(2, 3),
        ),
        (1, 6, 7),
    ),
    "averaged": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 2),
            nn.ReLU(),
            nn.AvgPool2d(2, stride=1, padding=1),
            nn.Conv2d(2, 2, 2),
            nn.LeakyReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
        (1, 4, 4),
    ),
    "1d": (
        lambda: nn.Sequential(
            nn.Conv1d(1, 2, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(2, 2, 2),
            nn.ReLU(),
            nn.AvgPool1d(2),
            nn.Flatten(),
            nn.Linear(2, 3),
        ),
        (1, 6),
    ),
    "residual": (_normed, (1, 3, 3)),
    "norm 1d": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout(), nn.Linear(3, 3)),
        (3,),
    ),
    "scaled": (Scaled, (3, 4)),
    "no rule": (Unruled, (3,)),
}


@cache
def network(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Model in float64, three inputs (one of them zero in places), labels."""
    torch.manual_seed(len(name))
    make, shape = MAKERS[name]
    model = make().double().eval()
    x = torch.randn(3, *shape, dtype=torch.float64)
    x[2, ..., 0] = 0
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def answers(model: nn.Module, x: Tensor, noise: dict[str, Tensor], epsilon: float, box: Box | None = None) -> Tensor:
    """Logits ``[points, N, K]`` at θ + ε u noise, each ``noise [points, *shape]`` within ±1."""
    box = box or Box()
    factors = box.factors(model)
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    moved = {}
    for name, theta in parameters.items():
        factor = factors.get(name, 0.0)
        moved[name] = (
            theta + epsilon * factor * box.unit_radius(theta) * noise[name]
            if factor
            else theta.expand(len(noise[name]), *theta.shape)
        )

    def one(values: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, values, (x,))

    with torch.no_grad():
        return torch.vmap(one, chunk_size=5000)(moved)


def random_noise(model: nn.Module, points: int, seed: int = 0) -> dict[str, Tensor]:
    """Points inside the box: half of them vertices, the rest anywhere in it."""
    generator = torch.Generator().manual_seed(seed)
    noise = {}
    for name, p in model.named_parameters():
        part = torch.rand(points, *p.shape, generator=generator, dtype=torch.float64) * 2 - 1
        part[::2] = part[::2].sign()
        noise[name] = part
    return noise


def vertices(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """Every vertex of the box of the named tensors, the others unmoved."""
    parameters = dict(model.named_parameters())
    count = sum(parameters[n].numel() for n in names)
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=count)), dtype=torch.float64)
    noise = {
        n: torch.zeros(1, *p.shape, dtype=torch.float64).expand(len(corners), *p.shape) for n, p in parameters.items()
    }
    start = 0
    for n in names:
        size = parameters[n].numel()
        noise[n] = corners[:, start : start + size].reshape(-1, *parameters[n].shape)
        start += size
    return noise


def descended(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, box: Box | None = None) -> dict[str, Tensor]:
    """For each sample and other class: the vertex that gradient signs lead to in a few rounds."""
    box = box or Box()
    factors = box.factors(model)
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    found = []
    with torch.no_grad():
        classes = model(x).shape[1]
    for n, k in itertools.product(range(len(x)), range(classes)):
        if k == y[n]:
            continue
        noise = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for _ in range(4):
            point = {
                name: (theta + epsilon * factors.get(name, 0.0) * box.unit_radius(theta) * noise[name]).requires_grad_()
                for name, theta in parameters.items()
            }
            logits = torch.func.functional_call(model, point, (x[n : n + 1],))[0]
            grads = torch.autograd.grad(logits[y[n]] - logits[k], list(point.values()), allow_unused=True)
            noise = {
                name: torch.zeros_like(p) if g is None else -g.sign()
                for (name, p), g in zip(point.items(), grads, strict=True)
            }
            found.append({name: v.detach() for name, v in noise.items()})
    return {name: torch.stack([f[name] for f in found]) for name in parameters}


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """``min_k (logit_y - logit_k)`` of ``[..., N, K]``."""
    own = logits.gather(-1, y.expand(logits.shape[:-1])[..., None])
    others = logits.scatter(-1, y.expand(logits.shape[:-1])[..., None], -torch.inf)
    return (own - others.amax(-1, keepdim=True)).squeeze(-1)
