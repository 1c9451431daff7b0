"""Small networks of every kind that proven yield takes, and draws of their noise."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap


class Residual(nn.Module):
    """Two paths that are added, a batch norm on one, an average at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.one, self.norm, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).relu()
        h = (h + self.two(self.norm(self.one(h)).relu())).relu()
        return self.head(h.mean((2, 3)))


class Branches(nn.Module):
    """Parallel layers on one input, put side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 4), nn.Linear(6, 5), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(x).relu(), self.right(x).tanh()], 1))


class Scaled(nn.Module):
    """A parameter that is added to a value, and one that multiplies it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 5), nn.Linear(5, 3)
        self.gain, self.shift = nn.Parameter(torch.rand(5) + 0.5), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.first(x) * self.gain + self.shift).relu())


class Steps(nn.Module):
    """A dense layer that reads several positions of a sample with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.first(x.view(-1, 3, 2)).relu()).relu()
        return self.head(h.mean(1))


class Moved(nn.Module):
    """Weights that are turned, cut and put into another shape before they are used, each part once."""

    def __init__(self) -> None:
        super().__init__()
        self.turned, self.both = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(7, 5))
        self.flat = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        h = (x @ self.turned).relu()
        one, two = self.both.split([4, 3])
        return nn.functional.linear(nn.functional.linear(h, one).tanh()[:, :2], self.flat.view(3, 2)) + two_of(h, two)


def two_of(h: Tensor, weight: Tensor) -> Tensor:
    return h @ weight.t()


class Einsum(nn.Module):
    """A product that is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Parameter(torch.randn(3, 2, 4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.einsum("npi,pio->no", x.view(-1, 3, 2), self.table).relu())


class Attention(nn.Module):
    """Tokens that look at each other."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(2, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.lift(x.view(-1, 3, 2))).mean(1))


class Tied(nn.Module):
    """A layer that is called twice, and a bias that is added twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3, bias=False)
        self.extra = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(self.layer(self.first(x).relu()).relu()).relu()
        return self.head(h) + self.extra + self.extra


class Subtracted(nn.Module):
    """A parameter that is added, taken off and multiplied by, and one that is scale and shift of a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)
        self.extra, self.both = nn.Parameter(torch.randn(5)), nn.Parameter(torch.rand(5) + 0.5)
        self.norm.bias = self.norm.weight

    def forward(self, x: Tensor) -> Tensor:
        h = (self.first(x) + self.extra).relu()
        h = nn.functional.layer_norm(h * self.extra - self.extra, (5,), self.both, self.both)
        return self.head(self.norm(h).relu() - self.extra)


class Summed(nn.Module):
    """Products written out that sum entries of the value, or of the parameter, alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(3, 4, 2))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.einsum("npi,oi->no", x.view(-1, 3, 2), self.table).relu()
        return torch.einsum("no,koj->nk", h, self.head)


class TiedImages(nn.Module):
    """A convolution and a batch norm that are called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).relu()
        for _ in range(2):
            h = (h + self.norm(self.conv(h))).relu()
        return self.head(h.flatten(1))


class Unrolled(nn.Module):
    """A recurrent cell written as a loop, which is a network without time to a trace."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.around, self.head = nn.Linear(2, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inside(x[:, :2]).tanh()
        for n in (2, 4):
            h = (self.inside(x[:, n : n + 2]) + self.around(h)).tanh()
        return self.head(h)


def dense(*sizes: int, between: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), between()]
    return nn.Sequential(*layers[:-1])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "one layer": (lambda: dense(6, 3), (6,)),
    "two layers": (lambda: dense(6, 8, 3), (6,)),
    "four layers": (lambda: dense(6, 8, 8, 8, 3), (6,)),
    "without biases": (
        lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False)), (6,)
    ),
    "leaky": (lambda: dense(6, 8, 8, 3, between=nn.LeakyReLU), (6,)),
    "tanh": (lambda: dense(6, 8, 8, 3, between=nn.Tanh), (6,)),
    "gelu": (lambda: dense(6, 8, 3, between=nn.GELU), (6,)),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(16, 3),
        ),
        (1, 6, 6),
    ),
    "max-pools": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(4, 3),
        ),
        (1, 6, 6),
    ),
    "wide pools": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 2), nn.MaxPool2d(3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)
        ),
        (1, 6, 6),
    ),
    "average pools": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.AvgPool2d(2), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(4, 3),
        ),
        (1, 6, 6),
    ),
    "batch norm": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU(),
            nn.Flatten(), nn.Linear(12, 3),
        ),
        (1, 6, 6),
    ),
    "dense batch norm": (lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)), (6,)),
    "groups": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding="same", groups=2), nn.ReLU(), nn.Conv2d(4, 4, 3, dilation=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(16, 3),
        ),
        (2, 6, 6),
    ),
    "signals": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv1d(3, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
        ),
        (2, 6),
    ),
    "volumes": (lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)), (1, 3, 3, 3)),
    "transposed convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 2), nn.ReLU(), nn.ConvTranspose2d(2, 2, 2, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(32, 3),
        ),
        (1, 3, 3),
    ),
    "norms of a sample": (
        lambda: nn.Sequential(
            nn.Linear(6, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 6), nn.GroupNorm(2, 6), nn.Linear(6, 3)
        ),
        (6,),
    ),
    "slopes": (lambda: nn.Sequential(nn.Linear(6, 6), nn.PReLU(6), nn.Linear(6, 6), nn.PReLU(), nn.Linear(6, 3)), (6,)),
    "moved": (Moved, (6,)),
    "einsum": (Einsum, (6,)),
    "attention": (Attention, (6,)),
    "tied": (Tied, (6,)),
    "tied images": (TiedImages, (1, 6, 6)),
    "subtracted": (Subtracted, (6,)),
    "summed": (Summed, (6,)),
    "unrolled": (Unrolled, (6,)),
    "residual": (Residual, (1, 5, 5)),
    "branches": (Branches, (6,)),
    "scaled": (Scaled, (6,)),
    "steps": (Steps, (6,)),
}  # networks, several layers to a line  # fmt: skip


def network(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A network in float64 in evaluation mode, and ten inputs; its batch norms have seen something."""
    make, shape = NETWORKS[name]
    torch.manual_seed(seed)
    model, x = make().double(), torch.randn(10, *shape, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(64, *shape, dtype=torch.float64))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0.0, 0.3)
    return model.eval(), x


Draw = Callable[[torch.Size, torch.Generator], Tensor]


def gaussian(shape: torch.Size, stream: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=stream, dtype=torch.float64)


def uniform(shape: torch.Size, stream: torch.Generator) -> Tensor:
    """In [-1, 1], whose proxy is below 1."""
    return torch.rand(shape, generator=stream, dtype=torch.float64) * 2.0 - 1.0


def two_points(shape: torch.Size, stream: torch.Generator) -> Tensor:
    """1 or -1, whose proxy is 1."""
    return torch.randint(0, 2, shape, generator=stream).double() * 2.0 - 1.0


def truncated(shape: torch.Size, stream: torch.Generator) -> Tensor:
    """Standard normal, cut off at 2."""
    return torch.fmod(gaussian(shape, stream), 2.0)


def failures(
    model: nn.Module, x: Tensor, y: Tensor, sigma: float, draws: int, noise: Draw = gaussian, seed: int = 1
) -> Tensor:
    """How many of the draws misclassify each sample, ``[N]``."""
    stream = torch.Generator().manual_seed(seed)
    weights = {k: p.detach() for k, p in model.named_parameters()}
    wrong = torch.zeros(len(x), dtype=torch.float64)
    run = vmap(lambda w: functional_call(model, w, (x,)))
    for start in range(0, draws, 500):
        count = min(500, draws - start)
        drawn = {k: p + sigma * p.abs() * noise(torch.Size((count, *p.shape)), stream) for k, p in weights.items()}
        with torch.no_grad():
            logits = run(drawn)
        own = logits.gather(2, y.expand(count, -1)[..., None])[..., 0]
        others = logits.scatter(2, y.expand(count, -1)[..., None], -torch.inf).amax(2)
        wrong += (own <= others).double().sum(0)
    return wrong
