"""A quotient by zero is no number, and nothing that is computed from it is one: no bound brings it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thetabox as tb
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interpreter.rules.table import TABLE, Rule

pytestmark = pytest.mark.usefixtures("traced_once")

BEYOND: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a difference that a clamp makes finite": lambda x, w: (x / w - (2 * x) / w).clamp(-1, 1),
    "a quotient that a sigmoid makes finite": lambda x, w: torch.sigmoid((x - x.detach() * 1.0) / w),
    "a quotient under tanh": lambda x, w: torch.tanh((x * w) / w),
    "a reciprocal that is cut": lambda x, w: (x * w.reciprocal()).clamp(max=1.0).clamp(min=-1.0),
    "a root": lambda x, w: (x * w.abs().rsqrt()).clamp(-1, 1),
    "a power": lambda x, w: (x * w**-1).clamp(-1, 1),
}

# Those that are 0 / 0 or ∞ − ∞ at a weight of zero; the others torch answers by the limit.
UNDEFINED = [name for name in BEYOND if name.startswith(("a difference", "a quotient"))]


class Divided(nn.Module):
    """Two logits, 3 apart whatever lies in front of them is, as long as it is a number."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.w = function, nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        h = self.function(x, self.w)
        return torch.stack([h[:, 0], h[:, 1] + 5.0], 1)


@pytest.mark.thin(2, quick=3)
@pytest.mark.parametrize("domain", ["interval", "linear", "auto"])
@pytest.mark.parametrize("name", BEYOND)
def test_nothing_is_verified_where_a_divisor_may_be_zero(name: str, domain: str) -> None:
    net, x = Divided(BEYOND[name]), torch.ones(1, 2)
    found = tb.certify(net, x, [1], [0.5, 1.0, 1.5], domain=domain)
    assert found.verified[:, 0].tolist() == [True, False, False]
    assert float(tb.certified_radius(net, x, [1])) < 1.0
    with torch.no_grad():
        net.w.zero_()
    assert bool(net(x).isnan().any()) == (name in UNDEFINED)


def test_a_comparison_with_a_pole_is_a_truth_value() -> None:
    net, x = Divided(lambda x, w: (x / w > 0).to(x.dtype)), torch.ones(1, 2)
    bounds = tb.logit_bounds(net, x, [0.5, 1.5])
    expected = torch.tensor([[[1.0, 6.0]], [[0.0, 5.0]]], dtype=torch.float64)
    torch.testing.assert_close(bounds.lower, expected)
    torch.testing.assert_close(bounds.upper, expected[:1].expand(2, 1, 2))


def test_a_silent_sample_beside_a_loud_one() -> None:
    """Slack is one number a tensor: nothing is known of the silent one, and the network is no other function."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, 2.0]))

        def forward(self, x: Tensor) -> Tensor:
            z = x * self.w
            return z / (z.abs() + 1e-12)

    for x in ([[0.0, 0.0], [1e5, 1.0]], [[1e-30, 0.0], [1.0, 1.0]]):
        bounds = tb.logit_bounds(Normed(), torch.tensor(x), 1e-2)
        assert bounds.lower[1, 0] > 0.9
        assert not (bounds.lower[0] > 0).any()


# What mixes the values of a sample, with no number among them.
MIXING: dict[str, Callable[[dict[str, nn.Module], Tensor], Tensor]] = {
    "linear": lambda m, h: m["linear"](h),
    "conv1d": lambda m, h: m["conv1d"](h[:, None]).flatten(1),
    "conv2d": lambda m, h: m["conv2d"](h.view(-1, 1, 2, 2)).flatten(1),
    "conv_transpose1d": lambda m, h: m["conv_transpose1d"](h[:, None]).flatten(1),
    "gru": lambda m, h: m["gru"](h[:, None])[0].flatten(1),
    "lstm": lambda m, h: m["lstm"](h[:, None])[0].flatten(1),
    "layer_norm": lambda m, h: F.layer_norm(h, (4,)),
    "group_norm": lambda m, h: F.group_norm(h, 2),
    "rms_norm": lambda m, h: F.rms_norm(h, (4,)),
    "normalize": lambda m, h: F.normalize(h, dim=1),
    "softmax": lambda m, h: h.softmax(1),
    "logsumexp": lambda m, h: h.logsumexp(1, keepdim=True),
    "attention": lambda m, h: F.scaled_dot_product_attention(*[h.view(-1, 1, 2, 2)] * 3).flatten(1),
    "bmm": lambda m, h: (h.view(-1, 2, 2) @ h.view(-1, 2, 2)).flatten(1),
    "einsum": lambda m, h: torch.einsum("ni,nj->nij", h, h).flatten(1),
    "sum": lambda m, h: h.sum(1, keepdim=True),
    "mean": lambda m, h: h.mean(1, keepdim=True),
    "var": lambda m, h: h.var(1, keepdim=True),
    "amax": lambda m, h: h.amax(1, keepdim=True),
    "max_pool1d": lambda m, h: F.max_pool1d(h, 2),
    "avg_pool1d": lambda m, h: F.avg_pool1d(h, 2),
    "adaptive_avg_pool1d": lambda m, h: F.adaptive_avg_pool1d(h, 3),
    "cumsum": lambda m, h: h.cumsum(1),
    "interpolate": lambda m, h: F.interpolate(h[:, None], scale_factor=1.5, mode="linear").flatten(1),
    "pad": lambda m, h: F.pad(h, (1, 1)),
    "cat": lambda m, h: torch.cat([h, torch.ones_like(h)], 1),
    "product of values": lambda m, h: h * h.flip(1),
    "batch_norm": lambda m, h: m["batch_norm"](h),
    "bilinear": lambda m, h: m["bilinear"](h, h),
}


class Mixed(nn.Module):
    """Four logarithms of what may be negative, mixed, and made finite again."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w = nn.Parameter(torch.ones(4))
        layers = {
            "linear": nn.Linear(4, 3), "conv1d": nn.Conv1d(1, 2, 2), "conv2d": nn.Conv2d(1, 2, 2),
            "conv_transpose1d": nn.ConvTranspose1d(1, 2, 2), "gru": nn.GRU(4, 2, batch_first=True),
            "lstm": nn.LSTM(4, 2, batch_first=True), "batch_norm": nn.BatchNorm1d(4), "bilinear": nn.Bilinear(4, 4, 2),
        }  # layers, several to a line  # fmt: skip
        self.name, self.layers = name, nn.ModuleDict({name: layers[name]} if name in layers else {})

    def forward(self, x: Tensor) -> Tensor:
        h = MIXING[self.name](self.layers, torch.log(x * self.w + 0.1))
        tame = torch.sigmoid(h).sum(1).clamp(0.0, 1.0)
        return torch.stack([tame, torch.full_like(tame, -1.0)], 1)


@pytest.mark.thin(quick=17)
@pytest.mark.parametrize("domain", ["interval", "linear"])
@pytest.mark.parametrize("name", MIXING)
def test_no_layer_makes_a_number_of_what_is_none(name: str, domain: str) -> None:
    net, x = Mixed(name).eval(), torch.tensor([[1.0, 0.5, 0.7, 0.9], [0.05, 0.05, 0.04, 0.03]])
    assert tb.certify(net, x, [0, 0], [0.01, 1.3], domain=domain).verified[:, 0].tolist() == [True, False]
    with torch.no_grad():
        net.w.fill_(-0.3)
        assert net(x).isnan().any(1).tolist() == [True, False]


class Beside(nn.Module):
    """An arc sine of what may lie beyond 1, beside an exponential whose bound overflows, made finite again."""

    def __init__(self, swapped: bool, tame: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.swapped, self.tame = swapped, tame
        self.w, self.v = (nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        both = torch.asin(0.6 * x * self.w), torch.exp(600.0 * x * self.v)
        h = self.tame(-torch.hypot(*(reversed(both) if self.swapped else both)))
        return torch.cat([torch.full_like(h, -3.0), h], 1)


@pytest.mark.thin(quick=7)
@pytest.mark.parametrize("criterion", ["margin", "logits"])
@pytest.mark.parametrize("domain", ["interval", "linear", "auto"])
@pytest.mark.parametrize("tame", [torch.relu, lambda t: t.clamp(0.0, 1.0)], ids=["relu", "clamp"])
@pytest.mark.parametrize("swapped", [False, True])
def test_infinity_beside_no_number(
    swapped: bool, tame: Callable[[Tensor], Tensor], domain: str, criterion: str
) -> None:
    """hypot of no number and infinity is infinity, and the bound of a finite number may be infinite."""
    net, x = Beside(swapped, tame), torch.ones(1, 1, dtype=torch.float64)
    found = tb.certify(net, x, [1], [0.0, 0.9], domain=domain, criterion=criterion)
    assert not found.verified[1].any()
    bounds = tb.logit_bounds(net, x, 0.9, domain=domain)
    assert not (bounds.lower[..., 1].isfinite() | bounds.upper[..., 1].isfinite()).any()
    with torch.no_grad():
        net.w.fill_(1.9)
    assert net(x)[0, 1].isnan()


@pytest.mark.parametrize("domain", ["interval", "linear", "auto"])
@pytest.mark.parametrize("swapped", [False, True])
def test_one_end_that_is_no_number_takes_the_other_with_it(
    swapped: bool, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule, of one's own as it may be, whose other end is a number."""
    careless = Rule(lambda context, a, b: Interval(torch.hypot(a.lower, b.lower), torch.hypot(a.upper, b.upper)))
    monkeypatch.setitem(TABLE, "aten.hypot.default", careless)
    net, x = Beside(swapped, torch.relu), torch.ones(1, 1, dtype=torch.float64)
    bounds = tb.logit_bounds(net, x, 0.9, domain=domain)
    assert not (bounds.lower[..., 1].isfinite() | bounds.upper[..., 1].isfinite()).any()


@pytest.mark.parametrize("domain", ["interval", "linear"])
def test_no_number_beside_a_sample_that_overflows(domain: str) -> None:
    """The logarithm of one sample may be of a negative number; the exponential of the other overflows."""

    class Logged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(2, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            e = torch.exp(torch.log(x * self.w + 0.1) * -1000.0)
            return torch.sigmoid(e) * torch.tensor([1.0, 0.0]) + torch.tensor([0.0, -1.0])

    net, x = Logged(), torch.tensor([[1.0, 1.0], [0.05, 0.05]], dtype=torch.float64)
    assert tb.certify(net, x, [0, 0], [0.5, 1.2], domain=domain).verified.tolist() == [[True, True], [False, True]]
    with torch.no_grad():
        net.w.fill_(-0.2)
    assert net(x).isnan().all(1).tolist() == [True, False]


@pytest.mark.parametrize("domain", ["interval", "linear"])
def test_a_weight_of_the_last_layer_that_is_read_again(domain: str) -> None:
    """By the very operation that is withheld for the margin, in either order of the sum."""

    class Twice(nn.Module):
        def __init__(self, first: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.w = first, nn.Parameter(torch.randn(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            product, size = nn.functional.linear(x.relu(), self.w), self.w.abs().sum(1)
            return product + size if self.first else size + product

    x = torch.randn(5, 4)
    one, other = (tb.logit_bounds(Twice(first), x, [0.0, 0.1], domain=domain) for first in (True, False))
    torch.testing.assert_close(one.lower, other.lower)
    torch.testing.assert_close(one.upper, other.upper)
    with torch.no_grad():
        truth = Twice(True)(x).double()
    assert ((one.lower[1] <= truth) & (truth <= one.upper[1])).all()


def windows(h: Tensor) -> Tensor:
    """The largest of a window of nothing but padding, minus infinity, beside one of values."""
    return F.max_pool1d(h[:, None], 2, 1, 1, 3).flatten(1)


PADDING_ALONE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda h, w: windows(h.relu()).relu(),
    "abs": lambda h, w: windows(h.relu()).abs().clamp(max=1.0),
    "product": lambda h, w: (windows(h.relu()) * w).clamp(0.0, 1.0),
    "leaky": lambda h, w: F.leaky_relu(windows(h.relu()), -0.5).clamp(max=1.0),
    "sum": lambda h, w: (windows(h.relu()) + windows(h.relu())).relu(),
}


class Selected(nn.Module):
    """What comes of a window of padding is read at a corner of the box alone."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.g = function, nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.w = nn.Parameter(torch.ones(16, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        chosen = x[:, 2:] @ self.w > 22.0
        h = torch.where(chosen[:, None], self.function(x[:, :2], self.g), -1.0).clamp(min=-2.0)
        return torch.cat([h, torch.full_like(h, -0.5)], 1)


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize("domain", ["interval", "linear", "auto"])
@pytest.mark.parametrize("name", PADDING_ALONE)
def test_a_window_of_padding_alone(name: str, domain: str) -> None:
    net, x = Selected(PADDING_ALONE[name]), torch.ones(1, 18, dtype=torch.float64)
    x[:, 2:] = torch.tensor([1.0, -1.0] * 8)
    found = tb.certify(net, x, [1], [0.5, 1.5], domain=domain)
    bounds = tb.logit_bounds(net, x, 1.5, domain=domain)
    assert found.verified[:, 0].tolist() == [True, False]
    with torch.no_grad():
        net.w.mul_(1 + 1.499 * x[0, 2:])
        for factor in (1.0, -0.4, 2.4):
            net.g.fill_(factor)
            answer = net(x)
            assert (bounds.lower <= answer).all()
            assert (answer <= bounds.upper).all()
        assert name == "product" or net(x).argmax() == 0


# Functions that grow, or change the sign, of a value whose size and sign are known.
OWN_RULES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "sinh": (torch.sinh, lambda h: h.sinh()),
    "log": (torch.log, lambda h: (h.relu() + 0.1).log()),
}


@pytest.mark.parametrize("name", OWN_RULES)
def test_what_is_known_of_an_operand_is_not_of_the_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule as docs/write-a-rule.md shows it, of a function unlike the one there."""
    from thetabox.verify.interpreter.rules.table import TABLE

    function, apply = OWN_RULES[name]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            return apply(self.layer(x)) + 0.0

    monkeypatch.setitem(TABLE, f"aten.{name}.default", TABLE["aten.relu.default"])

    @tb.rule(f"aten.{name}.default", rows=True)
    def own(context: Any, x: tb.verify.Interval) -> tb.verify.Interval:
        out = x.map(function)
        assert out.bound is None
        assert not out.nonnegative
        out.slack = 8 * context.rounding.of_operation() * out.magnitude + context.rounding.flushed
        return out

    net, x = Net(), 20 * torch.randn(8, 2, dtype=torch.float64)
    bounds = tb.logit_bounds(net, x, 0.0)
    with torch.no_grad():
        assert (bounds.lower <= net(x)).all()
        assert (net(x) <= bounds.upper).all()
