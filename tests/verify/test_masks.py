"""Masks of attention, in every way that people write them: the same certificate."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thetabox as tb
from tests.verify.contract import assert_inside, evaluate, points
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.linear.rules.arithmetic import _finite
from thetabox.verify.linear.walk import Stop

TIME, WIDTH = 5, 8
LATER = torch.ones(TIME, TIME, dtype=torch.bool).triu(1)


class Attending(nn.Module):
    """One head of attention, whose scores are masked by a function."""

    def __init__(self, masked: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.front, self.last = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 3)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.masked = masked
        self.register_buffer("later", LATER)
        self.register_buffer("added", torch.zeros(TIME, TIME).masked_fill(LATER, -math.inf))

    def forward(self, x: Tensor) -> Tensor:
        h = self.front(x)
        scores = self.query(h) @ self.key(h).transpose(-1, -2) / WIDTH**0.5
        return self.last((self.masked(self, scores, x).softmax(-1) @ self.value(h)).mean(1))


WAYS: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    "filled": lambda m, s, x: s.masked_fill(m.later, -math.inf),
    "a buffer is added": lambda m, s, x: s + m.added,
    "added to a buffer": lambda m, s, x: m.added + s,
    "made in forward": lambda m, s, x: s + torch.triu(torch.full((TIME, TIME), -math.inf, dtype=s.dtype), 1),
    "made by torch": lambda m, s, x: s + nn.Transformer.generate_square_subsequent_mask(TIME, dtype=s.dtype),
    "two of them": lambda m, s, x: s + m.added + m.added,
    "chosen": lambda m, s, x: torch.where(m.later == 0, s, -math.inf),
    "unequal": lambda m, s, x: torch.where(m.later.int() != 1, s, -math.inf),
}


def model_of(way: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Attending(WAYS[way]).eval(), torch.randn(6, TIME, 3)


@pytest.mark.thin(quick=7)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_proves_the_same(way: str) -> None:
    model, x = model_of(way)
    expected, _ = model_of("filled")
    y = model(x).argmax(1)
    for domain in ("interval", "linear"):
        found, wanted = (tb.certify(m, x, y, [1e-3, 1e-2], domain=domain) for m in (model, expected))
        assert torch.equal(found.verified, wanted.verified)
        torch.testing.assert_close(found.margin, wanted.margin, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("domain", ["interval", "linear"])
def test_corners_are_inside_in_float32(way: str, domain: str) -> None:
    model, x = model_of(way)
    for eps in (0.0, 1e-2):
        bounds = tb.logit_bounds(model, x, eps, domain=domain, arithmetic="float32")
        assert bounds.lower.isfinite().all()
        for values in points(model, eps, 4, 0.999):
            assert_inside(bounds, evaluate(model, values, x))


@pytest.mark.slow
def test_masks_that_hide_different_places() -> None:
    def masked(m: nn.Module, s: Tensor, x: Tensor) -> Tensor:
        return s + m.added + torch.where(m.first, -math.inf, 0.0).to(s)

    def filled(m: nn.Module, s: Tensor, x: Tensor) -> Tensor:
        return s.masked_fill(m.later | m.first, -math.inf)

    x, found = torch.randn(6, TIME, 3), []
    for way in (masked, filled):
        torch.manual_seed(0)
        model = Attending(way).eval()
        first = torch.zeros(TIME, TIME, dtype=torch.bool)
        first[1:, 0] = True
        model.register_buffer("first", first)
        for domain in ("interval", "linear"):
            bounds = tb.logit_bounds(model, x, 1e-2, domain=domain)
            for values in points(model, 1e-2, 4, 1 - 1e-9):
                assert_inside(bounds, evaluate(model, values, x), 1e-9)
            found.append(bounds)
    for one, other in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(one.lower, other.lower, rtol=1e-6, atol=1e-9)


def test_rows_with_a_coefficient_at_minus_infinity_stop() -> None:
    """No rule of a curve leaves one there today, so that no network shows it."""
    mask = Parameter(torch.tensor([0.5, -math.inf], dtype=torch.float64))
    apart, meeting = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 0.1]]])
    finite = _finite(mask, apart)
    assert isinstance(finite, Parameter)
    assert finite.theta.tolist() == [0.5, 0.0]
    with pytest.raises(Stop):
        _finite(mask, meeting)


def test_a_choice_that_is_open_is_no_known_number() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[1.0, -1.0, 1e-9]]))

        def forward(self, x: Tensor) -> Tensor:
            return torch.where(self.weight > 0.95, torch.tensor(1.0), torch.tensor(2.0)) * x

    for eps, lower, upper in ((0.0, [1, 2, 2], [1, 2, 2]), (0.1, [1, 2, 2], [2, 2, 2])):
        bounds = tb.logit_bounds(Chosen(), torch.ones(1, 3), eps, domain="interval")
        assert bounds.lower[0].round().tolist() == lower
        assert bounds.upper[0].round().tolist() == upper


def test_infinities_that_are_no_mask_are_refused() -> None:
    model, x = model_of("filled")
    for value in (math.inf, math.nan):
        model.added.fill_(value)
        with pytest.raises(tb.InputError, match="added has values that are NaN or infinite"):
            tb.certify(model, x, [0] * 6, 1e-3)
    model, x = model_of("filled")
    model.front.bias.data[0] = -math.inf
    with pytest.raises(tb.InputError, match=r"front\.bias has values that are NaN or infinite"):
        tb.certify(model, x, [0] * 6, 1e-3)
    model, x = model_of("a buffer is added")
    with pytest.raises(tb.InputError, match="added is in the box and holds infinite values"):
        tb.certify(model, x, [0] * 6, 1e-3, box=tb.Box(include="*,added"))


class Added(nn.Module):
    """What a mask is added to may be infinite itself."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 3), size))
        self.register_buffer("mask", torch.tensor([0.0, -math.inf, 0.5]))

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * (F.linear(x, self.weight) * 1e30 + self.mask).sigmoid()


def test_nothing_is_known_where_the_other_term_may_overflow() -> None:
    x = torch.full((1, 3), 1e20)
    for size, known in ((1e-30, True), (1.1334e-12, False)):
        bounds = tb.logit_bounds(Added(size), x, 1e-3, domain="interval", arithmetic="float32")
        assert bool(bounds.upper[0, 1] < 1e-5) == known
        assert bool(bounds.upper[0, 1] > 1.9) != known


def test_padding_that_the_input_shows() -> None:
    """Places of equal numbers, found by ``==``: exact where no rounding comes before."""
    torch.manual_seed(0)
    model = Attending(lambda m, s, x: s.masked_fill((x[..., 0] == 7.0)[:, None], -math.inf)).eval()
    x = torch.randn(6, TIME, 3)
    x[:3, 3:, 0] = 7.0
    y = model(x).argmax(1)
    bounds = tb.logit_bounds(model, x, 0.0)
    assert ((bounds.upper - bounds.lower) < 1e-9).all()
    assert tb.certify(model, x, y, 1e-3).verified.float().mean() > 0.5
