"""A sweep of ε answers what each ε answers alone, however many go through the network together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thetabox as tb
from tests.verify.contract import assert_close
from thetabox.verify.arguments import settings
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.problem import Problem

pytestmark = pytest.mark.usefixtures("traced_once")

SWEEP = [0.0, 1e-9, 1e-3, 0.1, 1.5]
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: tb.models.MLP([6, 16, 12, 4]), (6,)),
    "convnet": (
        lambda: tb.models.ConvNet(input=[1, 8, 8], channels=[3, 4], kernel=3, hidden=[6], classes=4),
        (1, 8, 8),
    ),
    "lsnn": (lambda: tb.models.LSNN(3, 12, 4), (20, 3)),
    "feed-forward lsnn": (lambda: tb.models.LSNN(3, 12, 4, recurrent=False), (20, 3)),
}


@pytest.mark.thin(3, quick=3)
@pytest.mark.parametrize("arithmetic", ["real", "float32"])
@pytest.mark.parametrize("together", [1, 2, len(SWEEP)])
@pytest.mark.parametrize("name", NETWORKS)
def test_sweep_equals_each_alone(name: str, together: int, arithmetic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(7, *shape)
    monkeypatch.setattr(PlainIntervals, "together", together)
    bounds = tb.logit_bounds(model, x, SWEEP, arithmetic=arithmetic, domain="interval")
    for place, epsilon in enumerate(SWEEP):
        alone = tb.logit_bounds(model, x, [epsilon], arithmetic=arithmetic, domain="interval")
        lower, upper = bounds.lower[place], bounds.upper[place]
        if together == 1:
            assert torch.equal(lower, alone.lower[0])
            assert torch.equal(upper, alone.upper[0])
        # Slack is one number for all rows: a row may pay for the rounding of the largest ε beside it. Where a network
        # in float32 spikes, that may cost a certain spike, so there only the direction is sure.
        elif arithmetic == "float32" and "lsnn" in name:
            assert (lower <= alone.lower[0] + 1e-9).all()
            assert (upper >= alone.upper[0] - 1e-9).all()
        else:
            relative = 1e-9 if arithmetic == "real" else 1e-3
            assert_close(tb.Interval(lower, upper), tb.Interval(alone.lower[0], alone.upper[0]), relative)


def test_one_epsilon_after_the_other_and_chunks_by_the_network_alone() -> None:
    model, x = tb.models.MLP([4, 8, 3]), torch.randn(6, 4)
    problem = Problem(model, settings("interval", None, "real", "float64", "cpu"), x)
    assert PlainIntervals.together == 1
    assert len({problem.chunk_size(levels) for levels in (1, 5, 100)}) == 1
    few = Problem(model, settings("interval", None, "real", "float64", "cpu"), x[:2])
    assert few.chunk_size(1) == problem.chunk_size(1)


def test_products_kept_are_those_of_the_same_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known value behind a threshold may differ from one ε to the next."""

    class Stepped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second((self.first(x) > 0).to(x.dtype))

    torch.manual_seed(0)
    model, x = Stepped(), torch.randn(5, 2)
    sweep = [1e-6, 1e-3, 0.5, 2.0]
    monkeypatch.setattr(PlainIntervals, "together", 1)
    together = tb.logit_bounds(model, x, sweep)
    for place, epsilon in enumerate(sweep):
        alone = tb.logit_bounds(model, x, [epsilon])
        assert torch.equal(together.lower[place], alone.lower[0])
        assert torch.equal(together.upper[place], alone.upper[0])


class Shifted(nn.Module):
    """A parameter of one dimension added to values of three, as many samples as it has entries."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([1.0, 10.0, 100.0]))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.shift).sum(1)


def test_one_epsilon_a_sample_meets_its_own_sample() -> None:
    """By hand: three entries of ±ε·10^k each, for ε = 0, 0.1, 0.2."""
    epsilon = torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
    bounds = tb.logit_bounds(Shifted(), torch.zeros(3, 3, 3), epsilon, domain="interval")
    expected = 6.0 * epsilon[:, None] * torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    assert torch.allclose(bounds.upper - bounds.lower, expected, atol=1e-9)


class Product(nn.Module):
    """Any product with a parameter, behind a layer or not."""

    def __init__(self, shape: tuple[int, ...], inputs: int, front: str, product: Callable[..., Tensor]) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(*shape)), nn.Parameter(torch.randn(3))
        self.layer = None if front == "none" else nn.Linear(inputs, inputs)
        self.front, self.product = front, product

    def forward(self, x: Tensor) -> Tensor:
        if self.layer is not None:
            x = self.layer(x)
            x = (x > 0).to(x.dtype) if self.front == "spikes" else x.relu()
        return self.product(x, self.weight, self.bias)


# Seven samples: a stack of seven, or of one, broadcasts against them without a word.
PRODUCTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Callable[..., Tensor]]] = {
    "one matrix in a stack": ((1, 4, 3), (4,), lambda x, w, b: (x @ w)[0] + b),
    "as many matrices as samples": ((7, 4, 3), (4,), lambda x, w, b: (x @ w + b).sum(0)),
    "two matrices": ((2, 4, 3), (4,), lambda x, w, b: (x @ w).mean(0)),
    "stack of stacks": ((7, 1, 4, 3), (4,), lambda x, w, b: (x @ w).sum((0, 1))),
    "stack on two positions": ((3, 1, 4, 3), (2, 4), lambda x, w, b: (x @ w).sum((0, 2))),
    "stack on merged positions": (
        (7, 4, 3),
        (2, 4),
        lambda x, w, b: (x.reshape(-1, 4) @ w).sum(0).view(-1, 2, 3)[:, 0],
    ),
    "heads behind the samples": ((5, 4, 3), (4,), lambda x, w, b: (x[:, None, None] @ w).sum((1, 2))),
    "stacked on both sides": ((2, 4, 3), (2, 4), lambda x, w, b: torch.bmm(x.transpose(0, 1), w).sum(0)),
    "computed stack": ((7, 4, 3), (4,), lambda x, w, b: (x @ w.exp()).sum(0)),
    "matrix on the left": ((3, 4), (4,), lambda x, w, b: (w @ x[:, :, None])[:, :, 0]),
    "matrix on the left, turned": ((3, 4), (4,), lambda x, w, b: (w @ x.t()).t() + b),
    "samples second": ((3, 4), (2, 4), lambda x, w, b: F.linear(x.transpose(0, 1), w, b).sum(0)),
    "vector": ((4,), (3, 4), lambda x, w, b: x @ w + b),
    "convolution": ((3, 1, 2), (4,), lambda x, w, b: F.conv1d(x[:, None], w, b).sum(2)),
    "elementwise": ((7, 1, 4, 3), (4,), lambda x, w, b: (x[:, :, None] * w).sum((0, 2)) + b),
}


@pytest.mark.thin(3, quick=7)
@pytest.mark.parametrize(
    ("front", "kind"),
    [("none", "relative"), ("relu", "relative"), ("spikes", "relative"), ("none", "absolute"), ("relu", "range")],
)
@pytest.mark.parametrize("name", PRODUCTS)
def test_one_epsilon_a_sample_equals_one_at_a_time(name: str, front: str, kind: str) -> None:
    shape, inputs, product = PRODUCTS[name]
    torch.manual_seed(1)
    model, x = Product(shape, inputs[-1], front, product), torch.rand(7, *inputs)
    epsilon = torch.linspace(0, 0.5, 7, dtype=torch.float64)
    together = tb.logit_bounds(model, x, epsilon, domain="interval", box=tb.Box(kind))
    for n in (1, 4, 6):
        alone = tb.logit_bounds(model, x[n : n + 1], float(epsilon[n]), domain="interval", box=tb.Box(kind))
        found = tb.Interval(together.lower[n : n + 1], together.upper[n : n + 1])
        assert_close(found, alone, 1e-9)


@pytest.mark.parametrize("stacked", [1, 2, 7])
def test_unknown_spikes_meet_a_stack(stacked: int) -> None:
    """Samples of which nothing is known are multiplied once, and found again at their places behind the stack."""
    torch.manual_seed(0)
    model, x = Product((stacked, 4, 3), 4, "spikes", lambda x, w, b: (x @ w).sum(0)), torch.rand(7, 4)
    together = tb.logit_bounds(model, x, 1.5, domain="interval")
    for n in range(7):
        alone = tb.logit_bounds(model, x[n : n + 1], 1.5, domain="interval")
        assert_close(tb.Interval(together.lower[n : n + 1], together.upper[n : n + 1]), alone, 1e-9)
