"""Modules whose forward mixes types, traced and bounded: torch's own answer lies inside, or one line says why not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thetabox as tb
from tests.verify.contract import points
from thetabox.errors import UnsupportedOperator
from thetabox.verify import arguments
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.domains import domain_class
from thetabox.verify.problem import Problem
from thetabox.verify.search.bounds import logits as logits_of

pytestmark = pytest.mark.usefixtures("traced_once")

X = torch.linspace(-1, 1.3, 12).view(3, 4)
EPSILON = [0.0, 0.01, 0.3, 1.5]


class Typed(nn.Module):
    """A layer, and any function of its result, with constants of many types at hand."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.function = nn.Linear(4, 4), function
        self.one, self.row = nn.Parameter(torch.tensor([0.7])), nn.Parameter(torch.randn(1, 4))
        self.matrix = nn.Parameter(torch.randn(4, 3))
        for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
            limits = torch.iinfo(dtype)
            values = torch.tensor([limits.min, limits.max, limits.max // 2 + 3, 1], dtype=dtype)
            self.register_buffer(str(dtype).removeprefix("torch."), values)
        self.register_buffer("mask", torch.tensor([True, False, True, True]))
        self.register_buffer("halves", torch.tensor([0.1, 2.0, -3.0, 0.5], dtype=torch.float16))
        self.register_buffer("real", torch.tensor([0.4, 2.6, -3.2, 0.5]))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.inner(x))


def bounds(model: nn.Module, domain: str = "interval", epsilon: list[float] = EPSILON) -> Interval:
    """Bounds of the logits by the rules alone, rows ``[E N, K]``."""
    problem = Problem(model, arguments.settings("interval", None, "real", "float64", "cpu"), X)
    values = torch.tensor(epsilon, dtype=torch.float64)[:, None].expand(-1, len(X))
    whole = slice(0, len(X))
    return logits_of(domain_class(domain)(problem), whole, values)


def answer_type(model: nn.Module) -> torch.dtype:
    """In which the network computes."""
    return next(model.parameters()).dtype


def assert_holds(model: nn.Module, domain: str = "interval") -> None:
    """The module's own answers at its weights and at points of the box, in its own type, lie inside."""
    found = bounds(model, domain)
    moved = copy.deepcopy(model).eval()
    for place, epsilon in enumerate(EPSILON):
        rows = slice(place * len(X), (place + 1) * len(X))
        for point in points(model, epsilon, 6):
            with torch.no_grad():
                for name, p in moved.named_parameters():
                    p.copy_(point[name])
                answer = moved(X.to(answer_type(model))).double()
            # Bounds are of real numbers, so what a float32 network itself rounds may lie outside.
            room = (2e-5 if answer_type(model) is torch.float32 else 1e-12) * (1.0 + answer.abs())
            assert (found.lower[rows] - room <= answer).all(), f"below at {epsilon}"
            assert (answer <= found.upper[rows] + room).all(), f"above at {epsilon}"


HELD: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "uint8 codes less a zero point": lambda m, h: h + (m.uint8 - 128) * 0.01,
    "int8 codes less a zero point": lambda m, h: h + (m.int8 - torch.tensor(28, dtype=torch.int8)).to(h.dtype) * 0.01,
    "uint8 and itself": lambda m, h: h + (m.uint8 + m.uint8).to(h.dtype) * 0.01,
    "int16 times": lambda m, h: h + (m.int16 * 3).to(h.dtype) * 1e-4,
    "int32 squared": lambda m, h: h + (m.int32**2).to(h.dtype) * 1e-9,
    "int32 negated": lambda m, h: h + (-m.int32).to(h.dtype) * 1e-9,
    "int8 absolute": lambda m, h: h + m.int8.abs() * 0.01,
    "int64 beyond float64": lambda m, h: h + (m.int64 - (m.int64 - 3)).to(h.dtype),
    "int64 compared beyond float64": lambda m, h: h + (m.int64 > m.int64 - 1).to(h.dtype),
    "packed in int32": lambda m, h: h + ((m.int32 >> 4) & 15).to(h.dtype) + (m.uint8 // 16) * 0.1 + m.uint8 % 7,
    "sum of uint8 in uint8": lambda m, h: h + m.uint8.sum(dtype=torch.uint8) * 0.01,
    "sum of int32": lambda m, h: h + m.int32.sum() * 1e-9,
    "mean of whole numbers": lambda m, h: h + m.uint8.mean(dtype=torch.float32) * 0.01,
    "int16 to int8 and back": lambda m, h: h + m.int16.to(torch.int8).to(h.dtype) * 0.01,
    "real to whole": lambda m, h: h + m.real.to(torch.int64) * 0.3 + m.real.int(),
    "real to whole after a product": lambda m, h: h + (m.real * 1.3).to(torch.int32) * 0.3,
    "real to truth": lambda m, h: h + m.real.bool(),
    "filled whole with a half": lambda m, h: (
        h + torch.full_like(m.int64, 0.5) + torch.full((4,), 2.7, dtype=torch.int64)
    ),
    "new whole": lambda m, h: h + m.int64.new_full((4,), 2.7) + m.uint8.new_full((4,), 2.7),
    "counted whole from a half": lambda m, h: h + torch.arange(0.5, 4.5, dtype=torch.int64),
    "scalar whole": lambda m, h: h + torch.scalar_tensor(2.7, dtype=torch.int64) + torch.tensor(2.7).long(),
    "zeros and ones whole": lambda m, h: h + torch.ones(4, dtype=torch.int8) + torch.zeros(4, dtype=torch.bool),
    "new of the same type": lambda m, h: h + h.new_zeros(4) + h.new_ones(()) + h.new_full((1,), 0.3),
    "whole of the batch": lambda m, h: h + h.new_full((h.shape[0], 4), 2.7, dtype=torch.int64),
    "truth and truth": lambda m, h: h + ((h > 0) + (h > 0.2)) + (m.mask + m.mask),
    "truth and True": lambda m, h: h + ((h > 0) + True) + (m.mask + True),
    "truth times truth": lambda m, h: h + (h > 0) * (h > 0.2) * m.mask,
    "sum of truths": lambda m, h: h + (h > 0).sum(1, keepdim=True) + m.mask.sum(),
    "sum of truths of its own": lambda m, h: h + (h > 0).sum(1, keepdim=True, dtype=torch.uint8),
    "mean of truths": lambda m, h: h + (h > 0).mean(1, keepdim=True, dtype=torch.float32),
    "truth times two": lambda m, h: h + (h > 0) * 2 + ~m.mask,
    "truth and a number": lambda m, h: h + ((h > 0) + 1),
    "logic of real numbers": lambda m, h: h + torch.logical_and(h, m.real) + torch.logical_or(h, h > 0).float(),
    "not of real numbers": lambda m, h: h + torch.logical_not(h) + torch.logical_not(m.real),
    "logic of whole numbers": lambda m, h: h + torch.logical_and(m.int32, h > 0) + torch.logical_xor(m.int8, m.uint8),
    "whole numbers of truths": lambda m, h: h + (h > 0).to(torch.uint8) * 3 + (h > 0.1).int(),
    "compared whole": lambda m, h: h + ((h > 0).sum(1, keepdim=True) > 1.5) + ((h > 0).int() >= m.mask),
    "where of numbers": lambda m, h: torch.where(h > 0, 1, 2.5) + torch.where(m.mask, h, 3) + torch.where(h > 0, 2, 1),
    "masked": lambda m, h: torch.where(m.mask, h, torch.tensor(0)) * m.mask,
    "divided whole": lambda m, h: h + m.int16 / 7 + (h > 0).sum(1, keepdim=True) / 3,
    "power of whole": lambda m, h: h + (h > 0).sum(1, keepdim=True) ** 2 + torch.arange(4) ** 3,
    "half constants": lambda m, h: h + m.halves + m.halves.to(torch.float32).view(4) + (m.halves * h),
    "truths in half": lambda m, h: h + (h > 0).half(),
    "double inside": lambda m, h: (
        (h.double() * 1.1).to(h.dtype) + h.double().mean(1, keepdim=True, dtype=torch.float32)
    ),
    "clamp the wrong way round": lambda m, h: h + h.clamp(1.0, -1.0) + F.hardtanh(h, 0.1, 0.2),
    "maximum unused place": lambda m, h: h + h.max(1, keepdim=True).values,
    "index": lambda m, h: h[:, torch.tensor([-1, 0, 0, 2])] + h[:, 1:3][:, [1, 0, 1, -1]] + m.real[m.int64 // 2**62],
    "slices": lambda m, h: h[:, 0:4:1] + h[:, -1:] + h[:, -4:-1:2].sum(1, keepdim=True),
    "expanded": lambda m, h: h * m.row.expand(h.shape[0], 4) + m.row.expand_as(h) + m.one.expand(4),
    "expanded with -1": lambda m, h: h * m.row.expand(-1, 4) + m.one.expand(2, 4)[0],
    "bias of one": lambda m, h: F.relu(h) @ m.matrix + m.one,
    "addmm with a bias of one": lambda m, h: torch.addmm(m.one, h, m.matrix),
    "linear with an expanded bias": lambda m, h: F.linear(h, m.matrix.t(), m.one.expand(3)),
    "addmm with a row": lambda m, h: torch.addmm(m.row[:, :3], h.relu(), m.matrix),
    "addmm with a column": lambda m, h: h @ torch.addmm(m.matrix[:, :1], m.matrix, m.matrix.t()),
    "addmm with a bias for each number": lambda m, h: h @ torch.addmm(m.matrix, m.matrix, m.matrix.t()[:, :3]),
    "one output for all": lambda m, h: h @ m.matrix[:, :1] + m.row[0],
    "stacked and joined": lambda m, h: torch.cat([h, m.row.expand(h.shape[0], 4) + 0, (h > 0).int()], 1),
    "stack of parameters": lambda m, h: h @ torch.stack([m.row[0], m.row[0], m.real], 1),
    "cat of weights": lambda m, h: F.linear(h, torch.cat([m.matrix.t(), m.row], 0)),
    "batched": lambda m, h: torch.bmm(h.view(-1, 2, 2), h.view(-1, 2, 2)).flatten(1),
    "matrix from the left": lambda m, h: (m.matrix.t() @ h.unsqueeze(-1)).squeeze(-1),
    "pools": lambda m, h: (
        F.avg_pool1d(h[:, None], 3, 2, 1, True, False).flatten(1)
        + F.max_pool1d(h[:, None], 2, 2).flatten(1).sum(1, keepdim=True)
    ),
    "convolution of the same size": lambda m, h: F.conv1d(h[:, None], m.row[:, None, :3], padding="same").flatten(1),
    "grouped convolution": lambda m, h: F.conv1d(h.view(-1, 2, 2), m.row.view(2, 1, 2), groups=2).flatten(1),
}

REFUSED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "half in the middle": lambda m, h: h.half().to(h.dtype),
    "bfloat16 in the middle": lambda m, h: h.to(torch.bfloat16).float(),
    "sum in half": lambda m, h: h + h.sum(1, keepdim=True, dtype=torch.float16),
    "mean in bfloat16": lambda m, h: h + h.mean(1, keepdim=True, dtype=torch.bfloat16),
    "half arithmetic": lambda m, h: h + m.halves * m.halves,
    "truths below zero in uint8": lambda m, h: h + ((h > 0).to(torch.uint8) - 1),
    "truths beyond int8": lambda m, h: h + (h > 0).to(torch.int8) * 100 * 2,
    "truths less int32": lambda m, h: h + ((h > 0).int() - m.int32),
    "beyond float64": lambda m, h: h + ((h > 0).long() * 2**53 + 1),
    "wrapped in a comparison": lambda m, h: h + ((h > 0).to(torch.int8) > 300),
    "wrapped in a minimum": lambda m, h: h + torch.minimum((h > 0).to(torch.int8), torch.tensor(300)),
    "real to whole": lambda m, h: h + h.long(),
    "real to whole in a sum": lambda m, h: h + h.sum(1, keepdim=True, dtype=torch.int64),
    "real to truth": lambda m, h: h + h.bool(),
    "bits": lambda m, h: h + ((h > 0).int() & m.int32),
    "place of the maximum": lambda m, h: h + m.real[h.max(1).indices][:, None],
    "place as a number": lambda m, h: h + h.max(1, keepdim=True).indices,
    "place of the minimum selected": lambda m, h: h + h.min(1).indices.float()[:, None],
    "bool index": lambda m, h: h + m.real[torch.tensor([True, False, True, False])].sum(),
    "argmax": lambda m, h: h + h.argmax(1, keepdim=True),
    "lookup": lambda m, h: m.matrix[(h > 0).long().sum(1).clamp(max=3)],
    "dropout in training": lambda m, h: torch.ops.aten.dropout.default(h, 0.5, True),
    "complex": lambda m, h: torch.view_as_real(torch.view_as_complex(h.view(-1, 2, 2))).flatten(1),
    "rounded": lambda m, h: h.floor() + h.round(decimals=1),
    "average of whole numbers": lambda m, h: (
        h + F.avg_pool1d((h > 0).long()[:, None], 2).flatten(1).sum(1, keepdim=True)
    ),
    "rows by the number of samples": lambda m, h: h + torch.ones(9, 4)[: h.shape[0]],
    "divided down": lambda m, h: h + torch.div((h > 0).int(), 2, rounding_mode="floor"),
}


@pytest.mark.thin(3, quick=5)
@pytest.mark.parametrize("name", HELD)
def test_torch_answers_inside(name: str) -> None:
    model = Typed(HELD[name])
    assert_holds(model)
    assert_holds(model, "linear")


@pytest.mark.long
@pytest.mark.parametrize("name", HELD)
def test_double_network(name: str) -> None:
    """A network in float64 with float32 inside: what float32 rounds there lies inside as well."""
    assert_holds(Typed(HELD[name]).double())


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("domain", ["interval", pytest.param("linear", marks=pytest.mark.long)])
def test_refused_by_name(name: str, domain: str) -> None:
    with pytest.raises(tb.InputError) as caught:
        bounds(Typed(REFUSED[name]), domain)
    assert "\n" not in str(caught.value)


def test_margins_with_a_bias_of_one() -> None:
    for name in ("bias of one", "addmm with a bias of one", "linear with an expanded bias", "one output for all"):
        model = Typed(HELD[name])
        for label in range(3):
            for domain in ("interval", "linear", "auto"):
                found = tb.certify(model, X, torch.full((3,), label), [0.0, 0.3], domain=domain)
                assert found.margin.isfinite().all()


def test_float32_inside_float64() -> None:
    """Exact to the last bit at ε = 0: a number that float32 rounds, and one that it cannot hold."""
    model = Typed(lambda m, h: (h.float() * 3.3).double() + h.to(torch.float32).sum(1, keepdim=True)).double()
    found = bounds(model, "interval", [0.0])
    with torch.no_grad():
        answer = model(X.double())
    assert (found.lower <= answer).all()
    assert (answer <= found.upper).all()
    assert float((found.upper - found.lower).max()) < 1e-5


class Narrowed(nn.Module):
    """A parameter in float64 that is multiplied in float32."""

    def __init__(self, theta: float, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.product = nn.Parameter(torch.tensor([theta], dtype=torch.float64)), product

    def forward(self, x: Tensor) -> Tensor:
        z = self.product(x, self.weight)
        return torch.cat([z, -z], 1)


NARROWED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "both": lambda x, w: (x.float() * w.float()).double(),
    "weight alone": lambda x, w: x * w.float().double(),
    "dense": lambda x, w: F.linear(x, w.float().double()[None]),
    "matrix": lambda x, w: F.linear(x, (w.float() * torch.tensor(1.0)).double()[None]),
    "bias": lambda x, w: F.linear(x, torch.ones(1, 1, dtype=torch.float64), w.float().double()),
    "sum": lambda x, w: x * w.sum(0, keepdim=True, dtype=torch.float32).double(),
}


@pytest.mark.thin(3)
@pytest.mark.parametrize("domain", ["interval", "linear"])
@pytest.mark.parametrize("kind", ["relative", "absolute"])
@pytest.mark.parametrize("name", NARROWED)
def test_a_perturbed_parameter_is_rounded_all_over_its_box(name: str, kind: str, domain: str) -> None:
    """float32 holds 1.25, and 1.25 (1 - ε) it does not."""
    model, moved = (Narrowed(1.25, NARROWED[name]) for _ in range(2))
    torch.manual_seed(0)
    x = torch.rand(6, 1).double() * 3.0
    for epsilon in torch.logspace(-8, 0.5, 12, dtype=torch.float64).tolist():
        found = tb.logit_bounds(model, x, epsilon, domain=domain, box=tb.Box(kind))
        for side in (-1, 1):
            with torch.no_grad():
                moved.weight.fill_(1.25 + side * epsilon * (1.0 if kind == "absolute" else 1.25) * (1 - 1e-9))
                answer = moved(x)
            assert (found.lower <= answer).all(), epsilon
            assert (answer <= found.upper).all(), epsilon


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_a_float64_network_that_runs_in_float32_is_perturbed_first(precision: str) -> None:
    model, moved = (Narrowed(1.25, lambda x, w: x * w) for _ in range(2))
    x = torch.tensor([[1.0], [1.5], [1.75]])
    for epsilon in torch.logspace(-8, 0.5, 12, dtype=torch.float64).tolist():
        found = tb.logit_bounds(model, x, epsilon, domain="interval", arithmetic="float32", precision=precision)
        for side in (-1, 1):
            with torch.no_grad():
                moved.double().weight.fill_(1.25 * (1 + side * epsilon * (1 - 1e-9)))
                answer = moved.float()(x)
            assert (found.lower <= answer).all(), epsilon
            assert (answer <= found.upper).all(), epsilon


@pytest.mark.parametrize("theta", [1.3e-38, 1e-30, 3e38])
@pytest.mark.parametrize("epsilon", [0.1, 0.9999, 1.0, 1.5])
def test_a_box_reaches_numbers_that_float32_cannot_hold(theta: float, epsilon: float) -> None:
    model, moved = (Narrowed(theta, NARROWED["weight alone"]) for _ in range(2))
    x = torch.linspace(0.5, 2.0, 7, dtype=torch.float64)[:, None] / theta
    found = tb.logit_bounds(model, x, epsilon, domain="interval")
    for side in torch.linspace(-1, 1, 41).tolist():
        with torch.no_grad():
            moved.weight.fill_(theta * (1 + side * epsilon * (1 - 1e-9)))
            answer = moved(x)
        assert (found.lower <= answer).all()
        assert (answer <= found.upper).all()


@pytest.mark.parametrize("error", [AssertionError, IndexError, TypeError, RuntimeError, KeyError])
def test_a_rule_that_fails_is_a_refusal(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    from thetabox.verify.interpreter.rules.table import TABLE, Rule

    def fails(context: Any, x: Interval) -> Interval:
        raise error("half-way\nand more")

    monkeypatch.setitem(TABLE, "aten.tanh.default", Rule(fails))
    with pytest.raises(tb.InputError, match=r"aten\.tanh\.default.*half-way") as caught:
        bounds(Typed(lambda m, h: h.tanh()))
    assert isinstance(caught.value.__cause__, error)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupts_pass(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    from thetabox.verify.interpreter.rules.table import TABLE, Rule

    def stops(context: Any, x: Interval) -> Interval:
        raise error

    monkeypatch.setitem(TABLE, "aten.tanh.default", Rule(stops))
    with pytest.raises(error):
        bounds(Typed(lambda m, h: h.tanh()))


def test_arguments_that_a_rule_does_not_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a user's own rule, whatever it swallows; what says where a tensor is stored is none of them."""
    from thetabox.verify.interpreter.rules.table import TABLE, rule

    monkeypatch.setitem(TABLE, "aten.gelu.default", TABLE["aten.relu.default"])

    @rule("aten.gelu.default")
    def own(context: Any, x: Interval, *args: Any, **kwargs: Any) -> Interval:
        return x

    bounds(Typed(lambda m, h: F.gelu(h).contiguous()))
    with pytest.raises(UnsupportedOperator, match=r"aten\.gelu\.default.*'approximate'"):
        bounds(Typed(lambda m, h: F.gelu(h, approximate="tanh")))


def test_a_rule_of_real_numbers_is_not_asked_about_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from thetabox.verify.interpreter.rules.table import TABLE, rule

    monkeypatch.setitem(TABLE, "aten.abs.default", TABLE["aten.abs.default"])

    @rule("aten.abs.default")
    def own(context: Any, x: Interval) -> Interval:
        return x

    with pytest.raises(tb.InputError, match=r"aten\.abs\.default.*torch\.int32"):
        bounds(Typed(lambda m, h: h + (h > 0).int().abs()))


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("value", "box", "epsilon"),
    [
        (1e-39, tb.Box(), 0.5),
        (1e-40, tb.Box(kind="absolute"), 0.1),
        (2.0**110, tb.Box(), 0.5),
        (1.0, tb.Box(kind="absolute"), 1e-39),
        (0.0, tb.Box(kind="absolute"), 1e-300),
    ],
)
def test_a_box_beyond_what_float32_holds_is_refused(value: float, box: tb.Box, epsilon: float) -> None:
    """Of a float64 network that runs in float32: rounding would be more than a share of the weight."""
    net, x = nn.Linear(2, 2).double(), torch.ones(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor(float(torch.tensor(value))))
    with pytest.raises(tb.InputError, match=r"float32 cannot hold|less than float32 can tell"):
        tb.logit_bounds(net, x, epsilon, box=box, arithmetic="float32")
    tb.logit_bounds(net, x, epsilon, box=box)
    tb.logit_bounds(net.float(), x, epsilon, box=box, arithmetic="float32")


@pytest.mark.parametrize("size", [2.0**-126, 3.7e-38, 1e-30, 1.0])
@pytest.mark.parametrize("epsilon", [0.3, 1.0 - 2.0**-40, 1.0, 2.5])
def test_the_smallest_numbers_of_a_float64_network_in_float32(size: float, epsilon: float) -> None:
    """Ends of a box below the normal numbers are off by half the smallest one, whatever they are multiplied by."""
    net, x = nn.Linear(1, 2, bias=False).double(), torch.tensor([[1e38]])
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[size], [-size]]))
    found = tb.logit_bounds(net, x, epsilon, arithmetic="float32", domain="interval")
    for share in torch.linspace(-1, 1, 401, dtype=torch.float64).tolist():
        moved = (net.weight.detach() * (1 + share * epsilon * (1 - 2.0**-50))).float()
        answer = (x * moved[:, 0]).double()
        assert bool(((answer >= found.lower) & (answer <= found.upper)).all())
