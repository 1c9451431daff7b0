"""Networks whose weights lie anywhere between the least and the largest float32: torch's own answer is inside."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.verify.arguments import settings
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.linear import Linear
from thetabox.verify.problem import Problem
from thetabox.verify.search import bounds

pytestmark = pytest.mark.usefixtures("traced_once")

SWEEP = (0.0, 1e-3)
SAMPLES = 6


class Chain(nn.Module):
    """Layers, then two logits."""

    def __init__(self, *layers: nn.Module, size: int = 3) -> None:
        super().__init__()
        self.layers, self.last = nn.Sequential(*layers, nn.Flatten()), nn.Linear(size, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x))


class Scaled(nn.Module):
    """``scale x + shift``, then a function."""

    def __init__(self, function: Callable[[Tensor], Tensor], shape: tuple[int, ...] = (3,)) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.ones(shape))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x * self.weight + self.bias)


def dense(inputs: int = 3, outputs: int = 3) -> nn.Module:
    return nn.Linear(inputs, outputs)


MAKERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (lambda: Chain(dense(), nn.ReLU(), dense(), nn.ReLU(), dense(), nn.ReLU()), (3,)),
    "dense without bias": (
        lambda: Chain(*[m for _ in range(3) for m in (nn.Linear(3, 3, bias=False), nn.LeakyReLU(0.3))]),
        (3,),
    ),
    "convolutions": (
        lambda: Chain(nn.Conv1d(1, 2, 2), nn.ReLU(), nn.Conv1d(2, 2, 2), nn.ReLU(), nn.Conv1d(2, 3, 2, bias=False)),
        (1, 4),
    ),
    "images": (
        lambda: Chain(
            nn.Conv2d(1, 2, 2),
            nn.ReLU(),
            nn.MaxPool2d(2, 1),
            nn.Conv2d(2, 3, 2, bias=False),
            nn.ReLU(),
            nn.AvgPool2d(2),
        ),
        (1, 5, 5),
    ),
    "batch norm": (lambda: Chain(nn.BatchNorm1d(3), nn.ReLU(), dense(), nn.BatchNorm1d(3, eps=1e-30), nn.ReLU()), (3,)),
    "batch norm of images": (
        lambda: Chain(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), size=2),
        (1, 3, 3),
    ),
    "elementwise": (lambda: Chain(Scaled(torch.relu), Scaled(lambda h: h * 1e-30), Scaled(lambda h: h / 1e-30)), (3,)),
    "literals": (
        lambda: Chain(Scaled(lambda h: h / 4e-39 * 1e-39), Scaled(lambda h: (h + 1e-44) * 3e38 - 1e-40 * h)),
        (3,),
    ),
    "sigmoid": (lambda: Chain(Scaled(torch.sigmoid), Scaled(torch.tanh)), (3,)),
    "exp": (lambda: Chain(Scaled(torch.exp), Scaled(lambda h: h.clamp(0, 1))), (3,)),
    "exp below": (lambda: Chain(Scaled(lambda h: torch.exp(-h.abs())), Scaled(torch.relu)), (3,)),
    "softplus": (lambda: Chain(Scaled(F.softplus), Scaled(lambda h: F.softplus(h, 0.3, 15.0))), (3,)),
    "softplus far": (lambda: Chain(Scaled(lambda h: F.softplus(h, 2.0, 500.0).clamp(max=3.0)), dense()), (3,)),
    "silu": (lambda: Chain(Scaled(F.silu), Scaled(F.silu)), (3,)),
    "gelu": (lambda: Chain(Scaled(F.gelu), Scaled(lambda h: F.gelu(h, approximate="tanh"))), (3,)),
    "elu": (lambda: Chain(Scaled(F.elu), Scaled(F.selu), Scaled(lambda h: F.elu(h, 1e-30))), (3,)),
    "roots": (lambda: Chain(Scaled(lambda h: (h.abs() + 1e-40).rsqrt()), Scaled(lambda h: h.relu().log1p())), (3,)),
    "not a number": (
        lambda: Chain(Scaled(lambda h: (h - h.exp() + h.relu().exp()).clamp(0.0, 1.0)), Scaled(torch.relu)),
        (3,),
    ),
    "softmax": (lambda: Chain(Scaled(lambda h: h.softmax(1)), Scaled(lambda h: h.log_softmax(1))), (3,)),
    "layer norm": (lambda: Chain(dense(), nn.LayerNorm(3), nn.ReLU(), nn.RMSNorm(3, eps=1e-30)), (3,)),
    "group norm": (lambda: Chain(nn.Conv1d(1, 2, 2), nn.GroupNorm(1, 2), nn.PReLU(2), size=6), (1, 4)),
    "hardswish": (lambda: Chain(Scaled(F.hardswish), Scaled(F.mish)), (3,)),
    "logarithms": (lambda: Chain(Scaled(lambda h: (h.abs() + 1e-38).log()), Scaled(F.logsigmoid)), (3,)),
    "waves": (lambda: Chain(Scaled(torch.sin), Scaled(torch.erf), Scaled(torch.cos)), (3,)),
    "attention": (
        lambda: Chain(Scaled(lambda h: F.scaled_dot_product_attention(*[h.unsqueeze(-1)] * 3).squeeze(-1))),
        (3,),
    ),
    "quotients": (lambda: Chain(Scaled(lambda h: 1 / (h.abs() + 1e-38)), Scaled(lambda h: h.sigmoid())), (3,)),
    "means": (
        lambda: Chain(Scaled(lambda h: h.mean(1, keepdim=True) - h / 3), Scaled(lambda h: h.sum(1, True) - h)),
        (3,),
    ),
}


def redrawn(model: nn.Module, seed: int) -> None:
    """Weights of a size a tensor, anywhere in the range of float32, that bring values back to about 1 now and then."""
    draw = torch.Generator().manual_seed(seed)
    reached = 0.0
    with torch.no_grad():
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            if not p.is_floating_point():
                continue
            noise = torch.randn(p.shape, generator=draw, dtype=torch.float64)
            power = float(torch.rand((), generator=draw)) * 100.0 - 50.0
            if seed % 3:  # where values are by now, so that they stay in range or come back to it
                power = -reached if float(torch.rand((), generator=draw)) < 0.4 else power * 0.6
            power = min(max(power, -44.0), 37.5)
            if "running_var" in name:
                value = noise.abs() * 10.0**power
            elif "bias" in name or "running_mean" in name:
                value = noise * 10.0 ** min(max(reached + (power / 10.0), -44.0), 37.5)
            else:
                value, reached = noise * 10.0**power, min(max(reached + power, -60.0), 60.0)
            p.copy_(value.clamp(-3e38, 3e38).float())


def margins(logits: Tensor) -> Tensor:
    """Of either class, exact."""
    first = logits[:, 0].double() - logits[:, 1].double()
    return torch.stack([first, -first], 1)


@pytest.mark.thin(3, quick=7)
@pytest.mark.parametrize("draws", [12, pytest.param(150, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", MAKERS)
def test_float32_lies_inside(name: str, draws: int) -> None:
    make, shape = MAKERS[name]
    torch.manual_seed(1)
    model = make().eval()
    finite = 0
    for seed in range(draws):
        redrawn(model, seed)
        x = torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(seed))
        x[0] *= 10.0 ** (seed % 39)
        x[1] *= 10.0 ** -(seed % 45)
        with torch.no_grad():
            answers = [
                model(x),
                torch.cat([model(part) for part in x.split(1)]),
                torch.cat([model(x[:4]), model(x[4:])]),
            ]
        try:
            problem = Problem(model, settings("interval", None, "float32", "float64", "cpu"), x)
            domains = [
                PlainIntervals(problem),
                Linear(problem, {"intermediate": "interval"}),
                Linear(problem, {"intermediate": "backward"}),
            ]
            single = Problem(model, settings("interval", None, "float32", "float32", "cpu"), x)
            domains.append(PlainIntervals(single))
            epsilon = torch.tensor(SWEEP, dtype=torch.float64)[:, None].expand(-1, SAMPLES)
            for domain in domains:
                ends = bounds.logits(domain, slice(None), epsilon)
                proven = [bounds.margins(domain, slice(None), epsilon, torch.full((SAMPLES,), k)) for k in range(2)]
                finite += int(ends.lower.isfinite().sum())
                for row in range(len(SWEEP)):
                    part = slice(row * SAMPLES, (row + 1) * SAMPLES)
                    low, high = ends.lower[part], ends.upper[part]
                    for answer in answers:
                        answer = answer.double()
                        gone = ~answer.isfinite()
                        assert ((low <= answer) | (gone & (low == -torch.inf))).all(), (seed, type(domain).__name__)
                        assert ((high >= answer) | (gone & (high == torch.inf))).all(), (seed, type(domain).__name__)
                        truth = margins(answer)
                        for k in range(2):
                            held = proven[k][row] <= truth[:, k]
                            assert (held | (truth[:, k].isnan() & ~(proven[k][row] > 0))).all(), (seed, k)
        except InputError:
            continue
    assert finite > 0  # something was said of some of them


def _normed(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ends of a norm at ε = 0 for a network in float32, and what torch returns."""
    model = nn.Sequential(norm, nn.Flatten()).eval()
    problem = Problem(model, settings("interval", None, "float32", "float64", "cpu"), x)
    ends = bounds.logits(PlainIntervals(problem), slice(None), torch.zeros(1, len(x), dtype=torch.float64))
    with torch.no_grad():
        return ends.lower, ends.upper, model(x).double()


@pytest.mark.parametrize("size", [1.0, 1e3, 1e6, 1e18])
def test_a_group_of_one_number_is_not_exactly_nothing(size: float) -> None:
    """torch multiplies the number and its mean by the factor apart, and what is left is rounding."""
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 4)
    norm.bias.data.fill_(0.2)
    low, high, answer = _normed(norm, size * torch.randn(50, 4))
    assert ((low <= answer) & (answer <= high)).all()
    if size == 1.0:
        assert (high - low).max() < 1e-2
        low, high, _ = _normed(nn.GroupNorm(4, 4), torch.zeros(2, 4))
        assert (high - low).max() < 1e-30


def test_a_bias_that_overflows_with_the_mean() -> None:
    norm = nn.GroupNorm(1, 2)
    norm.weight.data.fill_(2e37)
    norm.bias.data.fill_(-3.1e38)
    low, high, answer = _normed(norm, torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    gone = ~answer.isfinite()
    assert gone.any()
    assert (low[gone] == -torch.inf).all()
    norm.bias.data.fill_(-1e37)
    low, high, answer = _normed(norm, torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    assert ((low <= answer) & (answer <= high)).all()
    assert high.isfinite().all()


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(4, eps=0.0), nn.GroupNorm(1, 4, eps=0.0), nn.RMSNorm(4, eps=1e-45)], ids=repr
)
def test_squares_that_underflow(norm: nn.Module) -> None:
    torch.manual_seed(0)
    for size in (1e-19, 1e-21, 1e-23, 1e-30):
        low, high, answer = _normed(norm, size * torch.randn(6, 4))
        gone = ~answer.isfinite()
        assert ((low <= answer) | (gone & (low == -torch.inf))).all(), size
        assert ((high >= answer) | (gone & (high == torch.inf))).all(), size
