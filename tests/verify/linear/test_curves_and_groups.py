"""Lines around curves hold and are narrow; tangents of softmax and layer norm lose what grows with the square of ε."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import thetabox as tb
from thetabox.verify.linear.rules.curves import SIMPLE, curve_of, parallels
from thetabox.verify.network.graph import Operation, Ref

pytestmark = pytest.mark.usefixtures("traced_once")

POSITIVE = tuple(f"aten.{name}.default" for name in ("log", "log1p", "log2", "log10", "sqrt"))
WITHIN_ONE = ("aten.asin.default", "aten.acos.default")
OTHERS = {
    "gelu": ("aten.gelu.default", ()),
    "softplus": ("aten.softplus.default", ()),
    "steep softplus": ("aten.softplus.default", (3.0, 40.0)),
    "elu": ("aten.elu.default", (0.3,)),
    "elu of its own": ("aten.elu.default", (2.0, -1.5, 0.5)),
    "celu": ("aten.celu.default", (0.3,)),
    "hardtanh": ("aten.hardtanh.default", ()),
    "clamp": ("aten.clamp.default", (-0.3, 1.0)),
    "square": ("aten.pow.Tensor_Scalar", (2,)),
}
CURVES = {**{name: (name, ()) for name in SIMPLE}, **OTHERS}


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("name", CURVES)
@settings(max_examples=60, deadline=None)
@given(place=st.floats(-12, 12), width=st.sampled_from([1e-9, 1e-4, 0.1, 1.0, 4.0, 20.0]))
def test_lines_hold_and_are_narrow(name: str, place: float, width: float) -> None:
    operator, rest = CURVES[name]
    operation = Operation(1, name, operator, None, (Ref(0), *rest), {}, None, (0,), "")
    curve = curve_of(operation)
    if operator in POSITIVE:
        place = abs(place) + 1e-3
    if operator in WITHIN_ONE:
        place, width = place / 12.5, min(width, 0.99 - place / 12.5)
    lower = torch.tensor([place], dtype=torch.float64)
    upper = lower + width
    inside = torch.linspace(0, 1, 20001, dtype=torch.float64) * width + lower
    values = curve.function(inside)
    least, most = values.min() - 1e-12, values.max() + 1e-12
    lines = parallels(curve, lower, upper, least[None], most[None])
    size = 1e-13 * (1.0 + float(values.abs().max()) + float((lines.slope * inside).abs().max()))
    apart = values - lines.slope * inside
    assert float(apart.min()) >= float(lines.below) - size
    assert float(apart.max()) <= float(lines.above) + size
    gap = float(lines.above - lines.below)
    assert gap <= float(most - least) + size
    if 1e-8 < width <= 0.1 and not any(place <= k <= place + width for k in curve.kinks):
        bend = curve.bend(lower, upper) if callable(curve.bend) else curve.bend
        assert gap <= float(bend) * width * width * 0.26 + 4.0 * curve.jump + 1e-6 * width + size


class Rows(nn.Module):
    def __init__(self, inner: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(5, 8), inner()
        self.second, self.again, self.head = nn.Linear(8, 8), inner(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.second(self.inner(self.first(x)))))


INNER: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "prelu": nn.PReLU,
    "softmax": lambda: nn.Softmax(1),
    "layer norm": lambda: nn.LayerNorm(8),
}
# Of the loss to the first order, what linear bounds may lose at most, by ε.
NEARLY = {1e-6: 1.03, 1e-4: 1.3}


@pytest.mark.parametrize("name", INNER)
def test_loses_less_than_intervals_and_no_more_than_the_first_order_by_much(name: str) -> None:
    torch.manual_seed(1)
    model = Rows(INNER[name]).double().eval()
    x = torch.randn(12, 5, dtype=torch.float64)
    y = model(x).argmax(1)
    clean = tb.certify(model, x, y, 0.0, domain="interval").margin[0]
    # What the margin loses to the first order: the least that any bound loses.
    logits = model(x)
    rest = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    margins = (logits.gather(1, y[:, None]) - logits.gather(1, rest[:, None]))[:, 0]
    first = []
    for margin in margins:
        grads = torch.autograd.grad(margin, list(model.parameters()), retain_graph=True)
        first.append(sum(float((g.abs() * p.abs()).sum()) for g, p in zip(grads, model.parameters(), strict=True)))
    for epsilon, share in NEARLY.items():
        plain = tb.certify(model, x, y, epsilon, domain="interval").margin[0]
        linear = tb.certify(model, x, y, epsilon, domain="linear").margin[0]
        assert (linear >= plain - 1e-12).all()
        least = torch.tensor(first, dtype=torch.float64) * epsilon
        lost = float((clean - linear).mean() / least.mean())
        assert lost < share
        assert lost < 0.99 * float((clean - plain).mean() / least.mean())
        assert ((clean - linear) >= 0.9 * least - 1e-9).all()  # nothing proves more than there is


def test_a_masked_softmax_is_walked_through() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
            self.register_buffer("mask", torch.tensor([True, False, False, True, False, False]))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(x).masked_fill(self.mask, -torch.inf).softmax(1))

    torch.manual_seed(2)
    model = Masked().eval()
    x = torch.randn(8, 4)
    y = model(x).argmax(1)
    for arithmetic in ("real", "float32"):
        plain, linear = (
            tb.certify(model, x, y, [0.0, 1e-3], domain=d, arithmetic=arithmetic).margin for d in ("interval", "linear")
        )
        assert linear.isfinite().all()
        assert (linear[1] > plain[1] + 1e-7).any()
        assert (linear[0] - linear[1]).mean() < 0.95 * (plain[0] - plain[1]).mean()
