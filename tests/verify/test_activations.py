"""Activations with every kind of setting, and at the edges of float32, against what torch answers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thetabox as tb
from thetabox.errors import InputError
from thetabox.verify.arguments import settings
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.interpreter.context import Context, RowEpsilons
from thetabox.verify.interpreter.walk import apply
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.network.graph import Layout, Operation
from thetabox.verify.problem import Problem
from thetabox.verify.search.bounds import logits as logits_of
from thetabox.verify.search.bounds import margins as margins_of

pytestmark = pytest.mark.usefixtures("traced_once")

ROUNDINGS = {
    "real": Rounding(torch.float64),
    "real in float32": Rounding(torch.float32),
    "float32": Rounding(torch.float64, "float32"),
    "float32 in float32": Rounding(torch.float32, "float32"),
}
# Of what torch's own float64 functions err by.
EVALUATION = 1e-14

NUMBERS = (0.0, 1e-45, 1e-40, 1e-30, 1e-8, 0.3, 1.0, 2.5, 6.1, 17.0, 40.0, 87.0, 88.9, 95.0, 104.0, 300.0, 800.0, 1e9)


def ends() -> tuple[Tensor, Tensor]:
    """Pairs of numbers, each as an interval."""
    numbers = torch.tensor(sorted({*NUMBERS, *(-v for v in NUMBERS), 1e30, -1e30, 3e38, -3e38})).double()
    pairs = [(a, b) for a, b in itertools.combinations_with_replacement(numbers.tolist(), 2)]
    low, high = torch.tensor(pairs, dtype=torch.float64).float().double().unbind(1)
    return low, high


def bounds(
    name: str, arguments: tuple[object, ...], rounding: Rounding, slack: float = 0.0, **kwargs: object
) -> Interval:
    """Of the operator on all pairs of ends, as rows of one value."""
    low, high = (t[:, None].to(rounding.dtype) for t in ends())
    operator = getattr(torch.ops.aten, name).default
    operation = Operation(
        1, name, f"aten.{name}.default", operator, (), {}, Layout((None, 1), 0), (0,), "here", torch.float64
    )
    context = Context(RowEpsilons(torch.zeros(1, len(low), dtype=torch.float64)), rounding, operation)
    value = Interval(low, high, slack, batch=0)
    out = apply(context, operation, (value, *arguments), kwargs)
    out = out.settled(rounding.roundoff)
    unknown = out.lower.isnan() | out.upper.isnan()
    lower = out.lower.double().masked_fill(unknown, -math.inf)
    return Interval(lower[:, 0], out.upper.double().masked_fill(unknown, math.inf)[:, 0])


def check(name: str, arguments: tuple[object, ...], function: Callable[[Tensor], Tensor], **kwargs: object) -> None:
    low, high = ends()
    for rounding_name, rounding in ROUNDINGS.items():
        for slack in (0.0, 0.25):
            found = bounds(name, arguments, rounding, slack, **kwargs)
            for share in torch.linspace(0, 1, 33, dtype=torch.float64):
                x = low * (1 - share) + high * share
                x = x + (share * 2 - 1) * slack * (1 - 1e-6)  # somewhere in the slack as well
                if rounding.network:
                    x = x.float()
                    inside = (x.double() >= low - slack) & (x.double() <= high + slack)
                    x = torch.where(inside, x, low.float())
                answer = function(x).double()
                if not rounding.network:
                    reference = answer.abs().nan_to_num(0.0, 0.0, 0.0)
                    room = EVALUATION * (1.0 + reference)
                else:
                    room = torch.zeros_like(answer)
                known = ~((found.lower == -math.inf) & (found.upper == math.inf))
                where = f"{name}{arguments} {rounding_name} slack {slack}"
                real = answer.isfinite() | (known if rounding.network else torch.zeros_like(known))
                outside = real & known & ~((found.lower <= answer + room) & (answer - room <= found.upper))
                assert not outside.any(), (where, x[outside][:3], answer[outside][:3], found.lower[outside][:3])


CASES: dict[str, tuple[str, tuple[object, ...], Callable[[Tensor], Tensor]]] = {
    name: (name, (), function)
    for name, function in {
        "relu": torch.relu,
        "abs": torch.abs,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "atan": torch.atan,
        "exp": torch.exp,
        "asin": torch.asin,
        "acos": torch.acos,
        "sinh": torch.sinh,
        "cosh": torch.cosh,
        "tan": torch.tan,
        "exp2": torch.exp2,
        "expm1": torch.expm1,
        "log2": torch.log2,
        "log10": torch.log10,
        "erfc": torch.erfc,
        "selu": F.selu,
        "silu": F.silu,
        "gelu": F.gelu,
        "hardsigmoid": F.hardsigmoid,
        "relu6": F.relu6,
    }.items()
}
for beta, threshold in itertools.product(
    (1.0, 0.3, 5.0, -1.0, -0.3, 1e-3, 1e20), (20.0, 0.0, -5.0, 1.5, 90.0, 500.0, 1e4, -1e30, 1e-50)
):
    CASES[f"softplus {beta} {threshold}"] = (
        "softplus",
        (beta, threshold),
        lambda t, b=beta, c=threshold: F.softplus(t, b, c),
    )
for alpha, scale, inner in [
    (1.0, 1.0, 1.0),
    (0.3, 1.0, 1.0),
    (-0.7, 1.0, 1.0),
    (2.0, -1.5, 1.0),
    (-2.0, -1.5, 0.5),
    (1.0, 1.0, 0.1),
    (1.0, 1.0, -0.2),
    (-1.0, 1.0, -0.2),
    (0.0, 1.0, 1.0),
    (1.0, 0.0, 1.0),
    (1e-30, 1e-30, 1.0),
    (1e-25, 1.0, 1e-25),
    (1.0, 1.0, 1e-46),
    (1e30, 1.0, 1.0),
    (1.0, 1.0, 0.0),
]:
    CASES[f"elu {alpha} {scale} {inner}"] = (
        "elu",
        (alpha, scale, inner),
        lambda t, a=alpha, s=scale, i=inner: torch.ops.aten.elu.default(t, a, s, i),
    )
for slope in (0.01, 0.0, 1.0, 1.7, -0.3, -1.0, -2.5, 1e-42, 1e-50, 3e38):
    CASES[f"leaky_relu {slope}"] = ("leaky_relu", (slope,), lambda t, s=slope: F.leaky_relu(t, s))
for pair in (
    (1.0, -1.0),
    (-1.0, 1.0),
    (2.0, 1.0),
    (-1.0, -2.0),
    (0.1, 0.1),
    (0.1, None),
    (None, -0.1),
    (1e-45, -1e-45),
):
    CASES[f"clamp {pair}"] = ("clamp", pair, lambda t, p=pair: torch.clamp(t, *p))


@pytest.mark.thin(2)
@pytest.mark.parametrize("name", CASES)
def test_holds_what_torch_answers(name: str) -> None:
    operator, arguments, function = CASES[name]
    check(operator, arguments, function)


def test_tanh_form_of_gelu() -> None:
    check("gelu", (), lambda t: F.gelu(t, approximate="tanh"), approximate="tanh")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("softplus", (0.0, 20.0)),
        ("softplus", (math.nan, 20.0)),
        ("softplus", (1.0, math.inf)),
        ("elu", (math.inf, 1.0, 1.0)),
        ("leaky_relu", (math.nan,)),
    ],
)
def test_settings_without_a_rule(name: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(InputError) as error:
        bounds(name, arguments, ROUNDINGS["real"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "exp", "silu", "gelu", "softplus", "elu", "selu", "leaky_relu"])
def test_functions_stay_tight(name: str) -> None:
    """Points of ordinary size: a few units in the last place, in either arithmetic."""
    low, high = ends()
    point = (low == high) & (low.abs() < 50)
    function = getattr(torch.ops.aten, name).default
    for rounding, relative in ((ROUNDINGS["real"], 1e-12), (ROUNDINGS["float32"], 1e-4)):
        value = Interval(low[point][:, None], low[point][:, None], batch=0)
        operation = Operation(1, name, f"aten.{name}.default", function, (), {}, Layout((None, 1), 0), (0,), "here")
        for one in range(len(value.lower)):
            part = value.lower[one : one + 1]
            context = Context(RowEpsilons(torch.zeros(1, 1, dtype=torch.float64)), rounding, operation)
            out = apply(context, operation, (Interval(part, part, batch=0),), {}).settled(rounding.roundoff)
            assert float(out.upper - out.lower) <= relative * (1.0 + float(function(part).abs()))


class Clamped(nn.Module):
    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.first, self.last, self.ends = nn.Linear(6, 16), nn.Linear(16, 3), (low, high)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).clamp(*self.ends))


@pytest.mark.parametrize(("low", "high"), [(1.0, -1.0), (0.5, -3.0), (2.0, 1.0)])
def test_a_clamp_the_wrong_way_round(low: float, high: float) -> None:
    """torch: everything becomes the upper end, whatever its sign."""
    net, x = Clamped(low, high).double(), torch.randn(4, 6, dtype=torch.float64)
    found = logits_of(
        PlainIntervals(Problem(net, settings("interval", None, "real", "float64", "cpu"), x)),
        slice(None),
        torch.full((1, 4), 0.0, dtype=torch.float64),
    )
    with torch.no_grad():
        answer = net(x)
    assert (found.lower <= answer + 1e-12).all()
    assert (found.upper >= answer - 1e-12).all()


class NotANumber(nn.Module):
    """Infinity less infinity, made finite again by something that knows no better."""

    def __init__(self, tame: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.tensor([100.0, 100.0])), nn.Parameter(torch.tensor([0.0, 2.0]))
        self.tame = tame

    def forward(self, x: Tensor) -> Tensor:
        h = torch.exp(x * self.scale)
        return self.tame(h - h) * torch.tensor([1.0, 0.0]) + self.bias


@pytest.mark.parametrize(
    "tame",
    [
        lambda h: h.clamp(0, 1),
        torch.sigmoid,
        torch.tanh,
        lambda h: torch.minimum(h.relu(), torch.ones_like(h)),
        F.relu6,
    ],
    ids=["clamp", "sigmoid", "tanh", "minimum", "relu6"],
)
def test_what_is_not_a_number_proves_nothing(tame: Callable[[Tensor], Tensor]) -> None:
    net, x = NotANumber(tame), torch.tensor([[1.0, 1.0], [0.1, 0.1]])
    assert net(x)[0].isnan().any()
    problem = Problem(net, settings("interval", None, "float32", "float64", "cpu"), x)
    epsilon, labels = torch.full((1, 2), 1e-6, dtype=torch.float64), torch.tensor([1, 1])
    margins = margins_of(PlainIntervals(problem), slice(None), epsilon, labels)
    assert margins[0, 0] == -math.inf
    assert margins[0, 1] > 0  # the other sample is as it would be alone


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("part", ["everything", "last", "buffer"])
def test_networks_of_fewer_digits(dtype: torch.dtype, part: str) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    if part == "everything":
        net.to(dtype)
    elif part == "last":
        net[3].to(dtype)
    else:
        net[1].running_mean = net[1].running_mean.to(dtype)
    x, y = torch.randn(2, 3), torch.tensor([0, 1])
    for call in (
        lambda: tb.certify(net, x, y, 1e-3, arithmetic="float32"),
        lambda: tb.logit_bounds(net, x, 1e-3, arithmetic="float32"),
        lambda: tb.certified_radius(net, x, y, arithmetic="float32"),
    ):
        with pytest.raises(InputError, match=str(dtype).removeprefix("torch.")) as error:
            call()
        assert "\n" not in str(error.value)


def test_networks_of_fewer_digits_in_real_arithmetic() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).bfloat16()
    found = logits_of(
        PlainIntervals(Problem(net, settings("interval", None, "real", "float64", "cpu"), torch.randn(2, 3))),
        slice(None),
        torch.full((1, 2), 1e-3, dtype=torch.float64),
    )
    assert found.lower.isfinite().all()


def test_an_exponential_of_one_sample_does_not_widen_anothers() -> None:
    """Errors of a function are of its own number, not of the largest of the batch."""

    class Exponential(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([1.0, -0.5]))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.scale).exp()

    x = torch.tensor([[0.3, 0.1], [90.0, 1.0]])
    together, alone = (tb.logit_bounds(Exponential(), some, [0.0, 1e-3]) for some in (x, x[:1]))
    assert (together.lower[:, :1] - alone.lower).abs().max() < 1e-12
    assert (together.upper[:, :1] - alone.upper).abs().max() < 1e-12
