"""Weights that are computed of parameters: directions and sizes."""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify.contract import Case, RuleContract, assert_inside, evaluate, points
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.interpreter.context import Context, RowEpsilons
from thetabox.verify.interpreter.rules.weight_norm import weight_norm

pytestmark = pytest.mark.usefixtures("traced_once")


class Normed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.v, self.dim = nn.Parameter(torch.randn(3, 4)), dim
        self.g = nn.Parameter(torch.tensor([[1.0], [-2.0], [0.5]]))
        if dim == 1:
            self.g = nn.Parameter(torch.tensor([[1.0, -2.0, 0.5, 3.0]]))
        if dim == -1:
            self.g = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch._weight_norm(self.v, self.g, self.dim).T


class TestWeightNorm(RuleContract):
    cases: ClassVar = {f"weight norm over {dim}": Case(Normed(dim), smooth=False) for dim in (0, 1, -1)}


def context(arithmetic: str = "real") -> Context:
    return Context(RowEpsilons(torch.zeros(1, 1, dtype=torch.float64)), Rounding(torch.float64, arithmetic))


@pytest.mark.parametrize("seed", range(8))
def test_no_looser_than_the_vertices_of_each_entry(seed: int) -> None:
    """The ends of each entry are reached at a vertex, which exact rationals find by their squares."""
    random = torch.Generator().manual_seed(seed)
    middle, reach = (torch.randn(1, 3, generator=random).double(), torch.rand(1, 3, generator=random).double() * 0.8)
    lower, upper = middle - reach, middle + reach
    found = weight_norm(context(), Interval(lower, upper), Interval.point(torch.ones(1, 1, dtype=torch.float64)))
    if not bool(found.lower.isfinite().all()):
        assert bool(((lower <= 0) & (upper >= 0)).all())
        return
    grid = torch.linspace(0, 1, 9, dtype=torch.float64)
    v = torch.cartesian_prod(*[lower[0, i] + grid * (upper[0, i] - lower[0, i]) for i in range(3)])
    v = torch.cat([v, torch.zeros(1, 3).double().clamp(lower, upper)])
    shares = v / v.norm(dim=1, keepdim=True)
    assert (shares.amin(0) >= found.lower[0] - 1e-12).all()
    assert (shares.amax(0) <= found.upper[0] + 1e-12).all()
    for i in range(3):
        for end, value in ((upper, found.upper[0, i]), (lower, found.lower[0, i])):
            own = Fraction(float(end[0, i]))
            ends = list(zip(lower[0].tolist(), upper[0].tolist(), strict=True))
            near = [0.0 if low <= 0 <= high else min(abs(low), abs(high)) for low, high in ends]
            far = [max(abs(low), abs(high)) for low, high in ends]
            toward = own >= 0 if end is upper else own < 0
            others = sum((Fraction((near if toward else far)[j]) ** 2 for j in range(3) if j != i), Fraction(0))
            square = own**2 / (own**2 + others) if own else Fraction(0)
            assert abs(float(square) ** 0.5 - abs(float(value))) < 1e-9


def test_nothing_is_known_of_a_direction_that_may_be_none() -> None:
    v = Interval(torch.full((1, 2), -1.0).double(), torch.ones(1, 2).double())
    found = weight_norm(context(), v, Interval.point(torch.ones(1, 1).double()))
    # No numbers, which no function behind it makes numbers again.
    assert found.lower.isnan().all()
    assert found.upper.isnan().all()


@pytest.mark.parametrize("make", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"])
@pytest.mark.filterwarnings("ignore::FutureWarning")  # the older form is meant too
def test_layers_of_torch(make: object) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)).eval()
    for place in (0, 3):
        make(model[place])  # type: ignore[operator]  # one of two functions of torch
    x = torch.rand(5, 1, 4, 4)
    with torch.no_grad():
        y = model(x).argmax(1)
    found = tb.certify(model, x, y, [0.0, 1e-4])
    assert found.verified[0].all()
    for arithmetic in ("real", "float32"):
        bounds = tb.logit_bounds(model, x, 0.01, arithmetic=arithmetic)
        for point in points(model, 0.01, 6, inside=1 - 1e-3):
            assert_inside(bounds, evaluate(model, point, x), 1e-13)
            if arithmetic == "float32":
                assert_inside(bounds, evaluate(model, {n: p.float() for n, p in point.items()}, x))
