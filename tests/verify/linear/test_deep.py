"""Deep residual networks: what balls know that intervals lose, and what rows of deep layers cost."""

from __future__ import annotations

import copy
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thetabox as tb
from thetabox.verify.effort import Meter
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.linear import domain as domains
from thetabox.verify.linear import own_rows
from thetabox.verify.linear.norms.accurate import accurate, two_product
from thetabox.verify.linear.norms.spectral import convolution_norm, spectral_norm
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Walk
from thetabox.verify.search import bounds, cascade

from .networks import linear

pytestmark = pytest.mark.usefixtures("traced_once")


class Block(nn.Module):
    """As in He et al.: two convolutions with batch norm and a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.short = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm1(self.first(x)))
        return torch.relu(self.norm2(self.second(hidden)) + self.short(x))


def residual(blocks: int, width: int = 4, pool: bool = False) -> nn.Module:
    """A residual network with statistics of its own inputs."""
    torch.manual_seed(3)
    half = blocks // 2
    stages = [Block(width, width) for _ in range(half)]
    stages += [Block(width, 2 * width), *(Block(2 * width, 2 * width) for _ in range(blocks - half - 1))]
    stem = [nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    stem += [nn.MaxPool2d(3, 2, padding=1)] if pool else []
    model = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 3))
    with torch.no_grad():
        for _ in range(30):
            model.train()(torch.randn(32, 2, 8, 8))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0.0, 0.2)
    return model.eval()


def task(model: nn.Module, samples: int = 4) -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    x = torch.randn(samples, 2, 8, 8)
    with torch.no_grad():
        return x, model(x).argmax(1)


@pytest.mark.parametrize("shape", [(1, 5, 5), (3, 4, 9), (2, 30, 7)])
def test_a_spectral_norm_is_no_smaller_and_hardly_larger(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    for scale in (1e-160, 1e-20, 1.0, 1e30):
        a = torch.randn(shape, dtype=torch.float64) * scale
        true = float(torch.linalg.matrix_norm(a / scale, 2).max()) * scale
        assert true * (1.0 - 1e-12) <= spectral_norm(a) <= 1.1 * true + 1e-137
    assert spectral_norm(torch.full((1, 2, 2), math.nan, dtype=torch.float64)) == math.inf
    assert spectral_norm(torch.zeros(1, 2, 2, dtype=torch.float64)) <= 1e-130


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(
    ("kernel", "size", "stride", "padding", "uneven"),
    [
        ((3, 3), (6, 5), (1, 1), (1, 1), (0, 0)),
        ((3, 3), (1, 1), (1, 1), (1, 1), (0, 0)),
        ((7, 7), (8, 8), (2, 2), (3, 3), (0, 0)),
        ((3, 2), (7, 6), (2, 3), (0, 1), (0, 0)),
        ((1, 1), (5, 5), (2, 2), (0, 0), (0, 0)),
        ((4, 4), (6, 6), (1, 1), (1, 1), (1, 1)),
        ((3, 3), (5, 5), (1, 1), (2, 2), (0, 0)),
        ((2, 2), (4, 4), (3, 3), (0, 0), (0, 0)),
    ],
)
def test_the_norm_of_a_convolution(
    kernel: Any, size: Any, stride: Any, padding: Any, uneven: Any, dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the matrix written out, all of it."""
    if not dense:
        monkeypatch.setattr("thetabox.verify.linear.norms.spectral.DENSE_SIDE", 0)
    for seed in range(3):
        torch.manual_seed(seed)
        weight = torch.randn(3, 2, *kernel, dtype=torch.float64)
        inputs = 2 * size[0] * size[1]
        images = torch.eye(inputs, dtype=torch.float64).view(inputs, 2, *size)
        images = F.pad(images, (padding[1], padding[1] + uneven[1], padding[0], padding[0] + uneven[0]))
        matrix = F.conv2d(images, weight, None, stride).flatten(1)
        true = float(torch.linalg.matrix_norm(matrix, 2))
        found = convolution_norm(weight, size, stride, padding, uneven)
        assert true * (1.0 - 1e-12) <= found
        # Of a single position a torus of two sees all taps, the image one of them.
        assert found <= (1.05 if dense else 10.0 if size == (1, 1) else 2.0) * true


def test_products_in_twice_the_digits() -> None:
    """Against rational arithmetic, numbers of very different sizes included."""
    torch.manual_seed(1)
    x = torch.randn(3, 40, dtype=torch.float64) * 10.0 ** torch.randint(-6, 6, (3, 40))
    weight = torch.randn(5, 40, dtype=torch.float64) * 10.0 ** torch.randint(-6, 6, (5, 40))
    found = accurate(lambda a, w: a @ w.T, x, weight, 40)
    assert found is not None
    high, low, error = found
    for n in range(3):
        for k in range(5):
            pairs = zip(x[n].tolist(), weight[k].tolist(), strict=True)
            true = sum((Fraction(a) * Fraction(b) for a, b in pairs), Fraction(0))
            off = abs(true - Fraction(float(high[n, k])) - Fraction(float(low[n, k])))
            size = float(x[n].abs().max() * weight[k].abs().max())
            assert off <= Fraction(float(error[n, k]))
            assert float(error[n, k]) < 1e-20 * size
    a, b = x[0], weight[0]
    total, lost = two_product(a, b)
    for i in range(40):
        assert Fraction(float(a[i])) * Fraction(float(b[i])) == Fraction(float(total[i])) + Fraction(float(lost[i]))


def shaken(model: nn.Module, epsilon: float, seed: int) -> nn.Module:
    """The model at a corner of its box."""
    torch.manual_seed(seed)
    moved = copy.deepcopy(model).double()
    with torch.no_grad():
        for p in moved.parameters():
            p.mul_(1.0 + epsilon * (2.0 * torch.randint(0, 2, p.shape) - 1.0))
    return moved


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", ["real", "float32"])
@pytest.mark.parametrize("pool", [pytest.param(False, marks=pytest.mark.long), True])
def test_every_value_stays_inside(pool: bool, arithmetic: str) -> None:
    """All values of the network at corners of the box, computed with bounds of their own at ε = 0."""
    model = residual(6, pool=pool)
    x, _ = task(model, 3)
    for epsilon in (0.0, 1e-13, 1e-6):
        bound = linear(model.double(), x.double(), arithmetic=arithmetic)
        assert bound.norms is not None
        with torch.no_grad(), sound_kernels():
            loose = bound.samples(x.double(), torch.full((3,), epsilon).double())
            for seed in range(2):
                other = linear(shaken(model, epsilon * 0.99, seed), x.double())
                tight = other.samples(x.double(), torch.zeros(3).double())
                for index in loose.values:
                    if not loose.plain(index) or index not in tight.values:
                        continue
                    wide, narrow = loose.interval(index), tight.interval(index)
                    assert (wide.lower <= narrow.upper).all()
                    assert (wide.upper >= narrow.lower).all()
        if arithmetic == "float32":
            continue
        # Behind many layers balls are what bounds.
        bound.norms = None
        with torch.no_grad(), sound_kernels():
            plain = bound.samples(x.double(), torch.full((3,), epsilon).double())
        wide, narrow = (s.interval(bound.output) for s in (plain, loose))
        assert ((wide.upper - wide.lower) > 1.5 * (narrow.upper - narrow.lower)).all()


@pytest.mark.slow
def test_rounding_alone_does_not_lose_a_deep_network() -> None:
    """Sixty convolutions, of which intervals know nothing at ε = 0: all that is right is verified."""
    model = residual(30)
    x, y = task(model, 4)
    y[0] = (y[0] + 1) % 3
    plain = tb.certify(model, x, y, 0.0, domain="interval")
    assert not plain.verified.any()
    found = tb.certify(model, x, y, [0.0])
    assert found.verified[:, 1:].all()
    assert not found.verified[:, 0].any()
    with torch.no_grad():
        logits = model.double()(x.double())
    margins = logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(1)
    torch.testing.assert_close(found.margin[0, 1:], margins[1:], rtol=1e-6, atol=1e-9)


@pytest.mark.long
def test_windows_larger_than_the_image_are_whole_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bounds at a fraction of the work."""
    model = residual(8)
    x, y = task(model, 2)
    epsilon = torch.full((1, 2), 1e-4).double()
    whole = linear(model, x)
    found = whole.margins(slice(0, 2), epsilon, y)
    monkeypatch.setattr(Region, "exceeds", lambda self, shape: False)
    windows = linear(model, x)
    torch.testing.assert_close(windows.margins(slice(0, 2), epsilon, y), found, rtol=1e-9, atol=1e-12)


def spent(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, left: float) -> tuple[float, float, Tensor]:
    """Passes that were charged, those that were walked for tighter bounds, and margins."""
    bound = linear(model, x)
    bound.follows = True
    meter = Meter(torch.full((len(x),), left).double())
    walked, run = [0.0], Walk.run

    def counted(self: Walk) -> Tensor:
        answer = run(self)
        walked[0] += self.work * self.rows * len(self.constant.value)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Walk, "run", counted)
        values = torch.full((1, len(x)), epsilon).double()
        margins = bounds.margins(bound, torch.arange(len(x)), values, y, meter=meter)
    assert meter.left is not None
    charged = left * len(x) - float(meter.left.sum())
    final = (bound.classes - 1) * len(x) * domains.ROW
    return charged, walked[0] * bound.tighten.passes - final, margins[0]


@pytest.mark.long
def test_the_effort_is_kept_inside_a_stage() -> None:
    """Whatever is left when a stage begins: no more is charged, and no more is walked but for a fifth."""
    model = residual(10)
    x, y = task(model, 3)
    full, walked, best = spent(model, x, y, 3e-5, 1e9)
    assert full > 300
    assert 0.8 * full <= walked <= 1.2 * full
    proven = []
    for share in (0.02, 0.1, 0.2, 1.01):
        charged, walked, margins = spent(model, x, y, 3e-5, share * full / len(x))
        assert charged <= share * full
        assert walked <= 1.2 * share * full
        proven.append(margins)
    # What was bounded before the effort was used up is of use: the margins grow towards the best.
    assert (proven[0] > -torch.inf).all()
    assert (proven[0] < proven[2]).all()
    assert (proven[2] <= best).all()


@pytest.mark.long
def test_what_is_verified_is_not_flipped_and_depends_on_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    model = residual(8, pool=True)
    x, y = task(model, 6)
    sweep = [0.0, 1e-9, 1e-6, 1e-5, 1e-4, 1e-3]
    options = {"effort": 2000.0}
    found = tb.certify(model, x, y, sweep, options=options)
    plain = tb.certify(model, x, y, sweep, domain="interval")
    assert (found.verified >= plain.verified).all()
    assert found.verified[0].all()
    assert found.verified[2].sum() > plain.verified[2].sum()
    attack = tb.attack(model, x, y, epsilon=sweep, steps=10, restarts=1)
    assert not (found.verified & ~attack.correct).any()
    for part in ([1e-6], [1e-4, 0.0]):
        again = tb.certify(model, x, y, part, options=options)
        for row, epsilon in enumerate(part):
            assert torch.equal(again.margin[row], found.margin[sweep.index(epsilon)])
    monkeypatch.setattr(cascade, "LARGEST_PART", 1)
    monkeypatch.setattr(own_rows, "WALK_NUMBERS", 1 << 15)
    monkeypatch.setattr(domains, "MOST_ITEMS", 2)
    alone = tb.certify(model, x, y, sweep, options=options)
    assert torch.equal(alone.verified, found.verified)
    torch.testing.assert_close(alone.margin, found.margin, rtol=1e-6, atol=1e-9)


def test_shallow_networks_are_bounded_as_before() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 6), nn.ReLU(), nn.Linear(6, 3))
    bound = linear(model, torch.randn(2, 2, 8, 8))
    assert bound.norms is None
    assert not bound.tighten.narrows
    assert isinstance(bound.samples(bound.problem.x, torch.zeros(2).double()), Samples)
