"""Functions that a library computes, against mpmath: torch's own error, and the bounds, which hold it and no more."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor

import thetabox as tb
from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.interpreter.context import Context, RowEpsilons
from thetabox.verify.interpreter.rules.monotone import ULPS
from thetabox.verify.interpreter.rules.table import TABLE
from thetabox.verify.interpreter.rules.transcendental import FUNCTIONS
from thetabox.verify.interpreter.walk import apply
from thetabox.verify.network.graph import Layout, Operation

mpmath.mp.prec = 160

EXACT: dict[str, Callable[..., mpmath.mpf]] = {
    **{name: getattr(mpmath, name) for name in ("asin", "acos", "tan", "sinh", "cosh", "expm1", "log10", "erfc")},
    "exp2": lambda x: mpmath.mpf(2) ** x,
    "log2": lambda x: mpmath.log(x) / mpmath.log(2),
    "logaddexp": lambda x, y: mpmath.log(mpmath.exp(x) + mpmath.exp(y)),
    "logaddexp2": lambda x, y: mpmath.log(mpmath.mpf(2) ** x + mpmath.mpf(2) ** y) / mpmath.log(2),
    "hypot": mpmath.hypot,
}
PAIRED = ("logaddexp", "logaddexp2", "hypot")
ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
ROUNDINGS = {
    torch.float64: (Rounding(torch.float64), Rounding(torch.float32)),
    torch.float32: (Rounding(torch.float64, "float32"), Rounding(torch.float32, "float32")),
}


def numbers(name: str, dtype: torch.dtype) -> Tensor:
    """Of every size that the function takes, both signs of small ones, and near where it is steep."""
    sizes = torch.logspace(-25, {"erfc": 0.9, "exp2": 2.0, "tan": 3.9}.get(name, 1.9), 300, dtype=torch.float64)
    if name in ("log2", "log10"):
        x = torch.cat([torch.logspace(-37, 37, 300).double(), 1.0 + sizes[sizes < 0.5], 1.0 - sizes[sizes < 0.5]])
    elif name in ("asin", "acos"):
        x = torch.cat([sizes[sizes <= 1.0], 1.0 - sizes[sizes < 0.5], torch.ones(1)])
    else:
        x = torch.cat([sizes, torch.arange(1, 60) * (math.pi / 2) * (1.0 if name == "tan" else 0.05)])
    x = x if name.startswith("log") and name not in PAIRED else torch.cat([x, -x])
    return x.to(dtype).double()


def operands(name: str, dtype: torch.dtype) -> list[Tensor]:
    x = numbers(name, dtype)
    return [x, x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]] if name in PAIRED else [x]


def exact(name: str, *numbers: Tensor) -> list[mpmath.mpf]:
    return [EXACT[name](*map(mpmath.mpf, x)) for x in zip(*(t.tolist() for t in numbers), strict=True)]


def bounds(name: str, rounding: Rounding, operands: list[tuple[Tensor, Tensor]], *rest: float) -> Interval:
    """Of the operator, one number a sample."""
    count = len(operands[0][0])
    overload = "Tensor_Scalar" if name == "pow" else "default"
    target = getattr(getattr(torch.ops.aten, name), overload)
    operation = Operation(
        1, name, f"aten.{name}.{overload}", target, (), {}, Layout((None, 1), 0), (0,), "here", torch.float64
    )
    context = Context(RowEpsilons(torch.zeros(1, count, dtype=torch.float64)), rounding, operation)
    values = [Interval(*(end[:, None].to(rounding.dtype) for end in ends), batch=0) for ends in operands]
    out = apply(context, operation, (*values, *rest), {}).settled(rounding.roundoff)
    return Interval(out.lower[:, 0].double(), out.upper[:, 0].double())


@pytest.mark.parametrize("dtype", ROUNDOFF, ids=["float32", "float64"])
@pytest.mark.parametrize("name", EXACT)
def test_torch_errs_by_less_than_half_of_what_is_allowed(name: str, dtype: torch.dtype) -> None:
    values = operands(name, dtype)
    allowed = FUNCTIONS[name].ulps if name in FUNCTIONS else ULPS
    function = getattr(torch, name)
    strided = [torch.stack([v, v], 1)[:, 0].to(dtype) for v in values]
    for answer in (function(*(v.to(dtype) for v in values)), function(*strided)):
        for true, got, *x in zip(exact(name, *values), answer.double().tolist(), *values, strict=True):
            size = abs(true) if name in FUNCTIONS else 1 + sum(abs(float(v)) for v in x)
            least = float(torch.finfo(dtype).tiny)
            assert abs(got - true) <= size * allowed * ROUNDOFF[dtype] / 2 + least, (x, got, true)


@pytest.mark.thin(quick=7)
@pytest.mark.parametrize("dtype", ROUNDOFF, ids=["float32", "float64"])
@pytest.mark.parametrize("name", EXACT)
def test_bounds_hold_the_exact_value_and_what_torch_answers(name: str, dtype: torch.dtype) -> None:
    """Of intervals from each number to one that is a little larger or much larger."""
    starts = [v.float().double() for v in operands(name, dtype)]
    for wide in (0.0, 1e-3, 3.0):
        stops = [(v + wide * v.abs()).float().double() for v in starts]
        if name in ("asin", "acos"):
            starts, stops = ([v.clamp(-1.0, 1.0) for v in t] for t in (starts, stops))
        inside = [
            [start, stop, ((start + stop) / 2).float().double()] for start, stop in zip(starts, stops, strict=True)
        ]
        for rounding in ROUNDINGS[dtype]:
            found = bounds(name, rounding, list(zip(starts, stops, strict=True)))
            nothing = found.lower.isnan() | found.upper.isnan()
            for xs in zip(*inside, strict=True):
                answers = getattr(torch, name)(*(x.to(dtype) for x in xs)).double().tolist()
                ends = zip(found.lower.tolist(), found.upper.tolist(), nothing.tolist(), strict=True)
                for (low, high, unknown), true, got in zip(ends, exact(name, *xs), answers, strict=True):
                    assert unknown or low <= true <= high, (xs, true, low, high)
                    assert unknown or rounding.network == 0.0 or low <= got <= high
            if wide == 0.0 and name in FUNCTIONS:
                # Nothing is lost at a number beside the error that is allowed for, at poles and beyond float32.
                size = torch.tensor([abs(float(v)) for v in exact(name, *starts)], dtype=torch.float64)
                room = 2.5 * rounding.of_operation(FUNCTIONS[name].ulps) * size + 4.0 * rounding.flushed
                plain = ~nothing & (size < 1e30)
                assert bool((found.upper - found.lower <= room)[plain].all())
                assert bool(plain[(starts[0].abs() < 80.0) & (size < 1e6)].all())


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("asin", 0.5, 1.0 + 1e-6),
        ("asin", -1.5, 0.0),
        ("acos", 1.5, 2.0),
        ("acos", -1.0 - 1e-6, 1.0),
        ("tan", 1.5, 1.6),
        ("tan", -1.6, 1.6),
        ("tan", 1.0, 7.0),
        ("tan", -4.8, -4.6),
        ("tan", 2e4, 2e4),
        ("log2", 0.0, 1.0),
        ("log10", -1.0, 1.0),
    ],
)
def test_nothing_is_known_outside_of_the_domain(name: str, low: float, high: float) -> None:
    ends = [torch.tensor([v, w], dtype=torch.float64) for v, w in ((low, 0.3), (high, 0.4))]
    for rounding in ROUNDINGS[torch.float64]:
        found = bounds(name, rounding, [(ends[0], ends[1])])
        assert found.lower.isnan().tolist() == [True, False]
        assert found.upper.isnan().tolist() == [True, False]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_number_stays_none_where_another_overflows(name: str) -> None:
    low = torch.tensor([torch.nan, 3e38, 800.0, 0.5], dtype=torch.float64)
    for rounding in (*ROUNDINGS[torch.float64], *ROUNDINGS[torch.float32]):
        found = bounds(name, rounding, [(low, low)])
        assert bool(found.lower[0].isnan() & found.upper[0].isnan())
        assert bool(found.lower[3].isfinite() & found.upper[3].isfinite())


def test_a_network_is_not_verified_where_it_may_leave_the_domain() -> None:
    class Arc(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([0.5, 0.5]))

        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(torch.asin(x * self.w)) * torch.tensor([1.0, 0.0]) + torch.tensor([0.0, -1.0])

    for domain in ("interval", "linear"):
        found = tb.certify(Arc(), torch.ones(1, 2), [0], [0.5, 1.5], domain=domain)
        assert found.verified.flatten().tolist() == [True, False]


def test_each_rule_is_measured_here() -> None:
    ours = {o for o, r in TABLE.items() if r.function.__module__.endswith("rules.transcendental")}
    assert ours == {f"aten.{name}.default" for name in EXACT}


EXPONENTS = (1.5, 2.7, 1.1, 0.3, 1e-3, -0.5, -1.3, -2, -7.3, 20, 0)


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_real_powers(exponent: float) -> None:
    """Of exponents that float32 does not hold, too, which a vectorised loop rounds and a scalar one does not."""
    limit = min(37.0, 36.0 / abs(exponent)) if exponent else 37.0
    x = torch.cat([torch.logspace(-limit, limit, 301), torch.linspace(0.01, 3.0, 200)]).double()
    x = torch.cat([x, torch.zeros(1)]) if exponent >= 0 else x
    for dtype, wide in itertools.product(ROUNDOFF, (0.0, 1e-3, 3.0)):
        stop = (x + wide * x).float().double()
        for rounding in ROUNDINGS[dtype]:
            found = bounds("pow", rounding, [(x, stop)], exponent)
            assert not bool((found.lower < 0.0).any())
            for t in (x, stop, ((x + stop) / 2).float().double()):
                true = [mpmath.mpf(v) ** mpmath.mpf(exponent) for v in t.tolist()]
                own = t.to(dtype)
                vectorised, scalar = own.pow(exponent), torch.stack([own, own], 1)[:, 0].pow(exponent)
                columns = (found.lower.tolist(), found.upper.tolist(), true, vectorised.tolist(), scalar.tolist())
                for low, high, value, *got in zip(*columns, strict=True):
                    unknown = math.isnan(low) or math.isnan(high)
                    assert unknown or low <= value <= high
                    assert unknown or rounding.network == 0.0 or all(low <= v <= high for v in got)
            if wide == 0.0:
                size = torch.tensor([float(v) for v in true], dtype=torch.float64)
                most = 400.0 * (1.0 + size) if rounding.dtype is torch.float32 or rounding.network else 40.0 * size
                plain = size < 1e30
                room = most * (rounding.roundoff + rounding.network) + 4.0 * rounding.flushed
                assert bool((found.upper - found.lower <= room)[plain].all())
                assert bool(found.lower[plain].isfinite().all())


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_powers_of_what_may_be_negative_or_zero(exponent: float) -> None:
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    for rounding in ROUNDINGS[torch.float32]:
        with pytest.raises(InputError, match="negative number"):
            bounds("pow", rounding, [(-one, one)], exponent)
        assert bool(bounds("pow", rounding, [(zero, one)], exponent).lower.isnan().all()) == (exponent < 0)
