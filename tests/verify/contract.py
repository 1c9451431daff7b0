"""What every operator rule must keep: one line in a table of cases joins an operator to all of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.verify import arguments
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interval.forward import run_problem
from thetabox.verify.problem import Problem

SWEEP = [0.0, 1e-9, 1e-3, 0.1, 1.5]
SETTINGS = [
    ("real", "float64"),
    ("float32", "float32"),
    pytest.param("real", "float32", marks=pytest.mark.long),
    pytest.param("float32", "float64", marks=pytest.mark.long),
]
# Rounding of the float64 evaluation that stands for the truth; exact oracles are compared without any tolerance.
EVALUATION = 1e-13


@dataclass(frozen=True)
class Case:
    """An operator on values that carry noise.

    Args:
        operator: function of two values ``h = scale x + shift`` and ``g = other x`` (a module gets ``h`` alone).
        shape: of both, without the samples.
        tight: each end is reached at a vertex of the box (an increasing elementwise function).
        smooth: bounds have a gradient (comparisons have none).
        largest: ε from which the operator may leave its domain.
    """

    operator: Callable[..., Tensor]
    shape: tuple[int, ...] = (4,)
    tight: bool = False
    smooth: bool = True
    largest: float = 2.0


class Probe(nn.Module):
    """``operator(scale x + shift, other x)``, flattened to logits."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        for name in ("scale", "shift", "other"):
            setattr(self, name, nn.Parameter(torch.randn(case.shape, generator=generator)))
        self.case_operator = case.operator

    def forward(self, x: Tensor) -> Tensor:
        h, g = x * self.scale + self.shift, x * self.other
        if isinstance(self.case_operator, nn.Module):
            return self.case_operator(h).flatten(1)
        return self.case_operator(h, g).flatten(1)


@cache
def probe(case: Case) -> tuple[Probe, Tensor]:
    """The case's module and three samples, one of them zero; made once, so that it is traced once."""
    torch.manual_seed(2)
    x = torch.randn(3, *case.shape)
    x[2] = 0
    return Probe(case).eval(), x


def points(module: nn.Module, epsilon: float, count: int, inside: float = 1.0) -> Iterator[dict[str, Tensor]]:
    """Parameter values in the relative box, float64: all signs of whole tensors, random vertices, random points."""
    names = [n for n, _ in module.named_parameters()]
    random = torch.Generator().manual_seed(3)
    for signs in itertools.product((-1.0, 1.0), repeat=min(len(names), 3)):
        noise = dict(zip(names, signs, strict=False))
        yield {
            n: p.detach().double() + noise.get(n, 1.0) * inside * epsilon * p.detach().double().abs()
            for n, p in module.named_parameters()
        }
    for number in range(count):
        point = {}
        for n, p in module.named_parameters():
            theta = p.detach().double()
            part = torch.rand(theta.shape, generator=random, dtype=torch.float64) * 2 - 1
            part = part.sign() if number % 2 else part
            point[n] = theta + part * inside * epsilon * theta.abs()
        yield point


def evaluate(module: nn.Module, point: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network's answer with other parameters, in their dtype."""
    dtype = next(iter(point.values())).dtype
    buffers = {n: b.to(dtype) if b.is_floating_point() else b for n, b in module.named_buffers()}
    with torch.no_grad():
        return torch.func.functional_call(module, {**buffers, **point}, (x.to(dtype),))


@cache
def truths(case: Case, epsilon: float, count: int) -> Tensor:
    """What the probe answers at every point, ``[points, N, K]``."""
    module, x = probe(case)
    return torch.stack([evaluate(module, point, x) for point in points(module, epsilon, count)])


def assert_inside(bounds: tb.Interval, truth: Tensor, tolerance: float = 0.0) -> None:
    """Fail unless every number lies inside; what is not a number must be unbounded."""
    truth = truth.double()
    room = tolerance * (1.0 + truth.abs().nan_to_num(0.0, 0.0, 0.0))
    low, high = bounds.lower - room, bounds.upper + room
    nothing = (bounds.lower == -torch.inf) & (bounds.upper == torch.inf)
    inside = ((low <= truth) & (truth <= high)) | nothing
    assert inside.all(), f"{(low - truth).max():.3g} above or {(truth - high).max():.3g} below the truth"


def row(bounds: tb.Interval, place: int) -> tb.Interval:
    """Bounds of one ε out of a sweep."""
    return tb.Interval(bounds.lower[place], bounds.upper[place])


class RuleContract:
    """Tests that a table ``cases`` is put through."""

    cases: ClassVar[dict[str, Case]] = {}
    samples: ClassVar[int] = 6

    @classmethod
    def pytest_generate_tests(cls, metafunc: Any) -> None:
        if "case" in metafunc.fixturenames:
            cases = enumerate(metafunc.cls.cases.items())
            # One case in five is quick, in all tests, so that it is traced for them once.
            marked = [pytest.param(case, id=name, marks=[pytest.mark.slow] * (n % 5 > 0)) for n, (name, case) in cases]
            metafunc.parametrize("case", marked)

    @staticmethod
    def sweep(case: Case) -> list[float]:
        return [e for e in SWEEP if e < case.largest]

    @pytest.mark.parametrize(("arithmetic", "precision"), SETTINGS)
    def test_holds_vertices_and_samples(self, case: Case, arithmetic: str, precision: str) -> None:
        module, x = probe(case)
        sweep = self.sweep(case)
        bounds = tb.logit_bounds(module, x, sweep, arithmetic=arithmetic, precision=precision)
        assert not bounds.lower.isnan().any()
        assert not bounds.upper.isnan().any()
        for place, epsilon in enumerate(sweep):
            assert_inside(row(bounds, place), truths(case, epsilon, self.samples), EVALUATION)
            if arithmetic == "float32" and (epsilon == 0 or epsilon >= 1e-3):
                for point in points(module, epsilon, self.samples, inside=1 - 1e-3):
                    rounded = {n: p.float() for n, p in point.items()}
                    assert_inside(row(bounds, place), evaluate(module, rounded, x))

    def test_slack_is_carried(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        """Inputs known up to a slack: whatever they are within it, the answer lies inside."""
        module, x = probe(case)

        def loose(x: Tensor, settings: Any, **_: Any) -> Interval:
            return Interval(x.double(), x.double(), slack=0.05, batch=0)

        monkeypatch.setattr("thetabox.verify.interval.forward.input_interval", loose)
        bounds = tb.logit_bounds(module, x, [0.0, 0.1], domain="interval")
        values = {n: p.detach().double() for n, p in module.named_parameters()}
        # In float64: a float32 product of 0.05 and 1 lies outside the slack.
        random = torch.rand(x.shape, dtype=torch.float64) * 2 - 1
        for part in (1.0, -1.0, 0.5, random, random.sign()):
            answer = evaluate(module, values, x.double() + 0.05 * part)
            assert_inside(row(bounds, 0), answer, EVALUATION)
            assert_inside(row(bounds, 1), answer, EVALUATION)

    def test_tight(self, case: Case) -> None:
        if not case.tight:
            pytest.skip("not an increasing elementwise function")
        module, x = probe(case)
        sweep = self.sweep(case)
        bounds = tb.logit_bounds(module, x, sweep)
        for place, epsilon in enumerate(sweep):
            reached = truths(case, epsilon, 0)
            room = 1e-12 * (1 + reached.abs().amax())
            assert (bounds.lower[place] >= reached.amin(0) - room).all()
            assert (bounds.upper[place] <= reached.amax(0) + room).all()

    def test_monotone_in_epsilon(self, case: Case) -> None:
        module, x = probe(case)
        bounds = tb.logit_bounds(module, x, self.sweep(case))
        room = 1e-12 * (1 + bounds.upper.abs()[bounds.upper.isfinite()].amax())
        assert (bounds.lower[1:] <= bounds.lower[:-1] + room).all()
        assert (bounds.upper[1:] >= bounds.upper[:-1] - room).all()

    def test_many_epsilon_equal_one_at_a_time(self, case: Case) -> None:
        module, x = probe(case)
        sweep = self.sweep(case)
        many = tb.logit_bounds(module, x, sweep)
        for place, epsilon in enumerate(sweep):
            one = tb.logit_bounds(module, x, epsilon)
            assert_close(row(many, place), one)
        mixed = torch.tensor([sweep[-1], 0.0, sweep[2]], dtype=torch.float64)
        each = tb.logit_bounds(module, x, mixed)
        for n, place in enumerate((len(sweep) - 1, 0, 2)):
            assert_close(
                tb.Interval(each.lower[n], each.upper[n]), tb.Interval(many.lower[place, n], many.upper[place, n])
            )

    def test_gradient_flows(self, case: Case) -> None:
        if not case.smooth:
            pytest.skip("the bounds of this case have no gradient (comparison, or division through zero)")
        module, x = probe(case)
        lower, upper = bounds_with_gradient(module, x, torch.tensor([[1e-3] * 3, [0.1] * 3]))
        (upper - lower).sum().backward()
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        module.zero_grad()
        assert grads
        assert all(g.isfinite().all() for g in grads)
        assert any(g.abs().max() > 0 for g in grads)


def bounds_with_gradient(
    module: nn.Module, x: Tensor, epsilon: Tensor, box: tb.Box | None = None
) -> tuple[Tensor, Tensor]:
    """The inner, differentiable function: ends of the logits' bounds, rows ``[E N, K]``."""
    settings = arguments.settings("interval", box, "real", "float64", "cpu")
    problem = Problem(module, settings, x)
    bounds = run_problem(problem, slice(0, len(x)), epsilon).logits().settled(settings.rounding.roundoff)
    return bounds.lower, bounds.upper


def assert_close(a: tb.Interval, b: tb.Interval, relative: float = 1e-11) -> None:
    """Equal but for rounding, infinite ends included."""
    for left, right in ((a.lower, b.lower), (a.upper, b.upper)):
        size = right.abs()[right.isfinite()]
        room = relative * (1.0 + (float(size.max()) if size.numel() else 0.0))
        torch.testing.assert_close(left, right, rtol=relative, atol=room, equal_nan=True)
