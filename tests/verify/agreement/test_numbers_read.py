"""A number of a weight that Python reads is burnt into a trace: refused, whatever way the code reaches the weight."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb

READ = "asks for numbers of g "


class Asking(nn.Module):
    """The sign of its logits is another in a small part of the box, where no point that is tried lies."""

    def __init__(self, sign: Callable[[Asking], float]) -> None:
        super().__init__()
        self.layer, self.g = nn.Linear(4, 3), nn.Parameter(torch.tensor(1.0))
        self.register_buffer("held", torch.tensor(1.0))
        self.held: Tensor
        self.sign = sign
        self.kept, self.pair, self.named = [self.g], (self.held, self.g), {"g": self.g}
        self.space, self.view = SimpleNamespace(g=self.g), [self.g.detach()]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.sign(self)


def turned(value: float) -> float:
    return -1.0 if 1.004 < value < 1.006 else 1.0


def near(g: Tensor) -> Tensor:
    return (g - 1.005).abs() < 1e-3


WAYS: dict[str, Callable[[Asking], float]] = {
    "item": lambda net: turned(net.kept[0].item()),
    "tuple": lambda net: turned(net.pair[1].item()),
    "dict": lambda net: turned(net.named["g"].item()),
    "namespace": lambda net: turned(float(net.space.g)),
    "view": lambda net: turned(net.view[0].item()),
    "computed": lambda net: turned((net.kept[0] * 1).item()),
    "list of numbers": lambda net: turned(net.kept[0].tolist()),
    "list of what is computed": lambda net: turned((net.kept[0] * 1).tolist()),
    "text": lambda net: turned(float(str(float(net.kept[0])))),
    "integer": lambda net: -1.0 if int(net.kept[0] * 1000) == 1005 else 1.0,
    "condition": lambda net: -1.0 if near(net.kept[0]) else 1.0,
    "any": lambda net: -1.0 if near(net.space.g).any() else 1.0,
    "index of a list": lambda net: [1.0, -1.0][near(net.space.g).long()],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_number_of_a_weight_is_refused(way: str) -> None:
    torch.manual_seed(0)
    model, x = Asking(WAYS[way]), torch.randn(6, 4)
    with pytest.raises(tb.InputError, match=READ):
        tb.certify(model, x, model(x).argmax(1), [1e-2], domain="interval")


class Keeping(Asking):
    """Asks once, and keeps what it made of that."""

    flag: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.flag is None:
            self.flag = self.sign(self)
        return self.layer(x) * self.flag


@pytest.mark.parametrize("called", [False, True])
def test_a_number_that_a_call_keeps_is_refused(called: bool) -> None:
    torch.manual_seed(0)
    model, x = Keeping(WAYS["item"]), torch.randn(6, 4)
    y = model.layer(x).argmax(1)
    if called:
        model(x)
    with pytest.raises(tb.InputError, match=READ):
        tb.certify(model, x, y, [1e-2], domain="interval")


def test_a_number_of_the_modules_own_parameter_that_a_call_kept_is_refused() -> None:
    torch.manual_seed(0)
    model, x = Keeping(lambda net: turned(net.g.item())), torch.randn(6, 4)
    y = model(x).argmax(1)
    with pytest.raises(tb.InputError, match=READ):
        tb.certify(model, x, y, [1e-2], domain="interval")


@pytest.mark.parametrize("where", ["with gradients", "in a batch of 17"])
def test_a_number_that_is_asked_for_in_one_way_only_is_refused(where: str) -> None:
    class Sometimes(Asking):
        def forward(self, x: Tensor) -> Tensor:
            asks = torch.is_grad_enabled() if where == "with gradients" else x.shape[0] == 17
            return self.layer(x) * (self.sign(self) if asks else 1.0)

    torch.manual_seed(0)
    model, x = Sometimes(WAYS["item"]), torch.randn(6, 4)
    with pytest.raises(tb.InputError, match=READ):
        tb.certify(model, x, model.layer(x).argmax(1), [1e-2], domain="interval")


def test_the_order_of_weights_is_refused() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(4))
            self.gates = nn.ParameterList(nn.Parameter(torch.tensor(1 + 0.004 * i)) for i in range(4))
            self.kept = list(self.gates)

        def forward(self, x: Tensor) -> Tensor:
            sizes = [gate.tolist() for gate in self.kept]
            out: Tensor = self.experts[sizes.index(max(sizes))](x) * self.gates[0]
            return out

    torch.manual_seed(1)
    model, x = Routed(), torch.randn(6, 4)
    with pytest.raises(tb.InputError, match=r"asks for numbers of gates\.0, gates\.1, gates\.2 "):
        tb.certify(model, x, model(x).argmax(1), [1e-2])


@pytest.mark.parametrize(
    "sign",
    [lambda net: turned(net.pair[0].item()), lambda net: turned(net.pair[0].tolist())],
    ids=["item", "list"],
)
def test_numbers_of_buffers_are_the_codes_own(sign: Callable[[Asking], float]) -> None:
    torch.manual_seed(0)
    model, x = Asking(sign), torch.randn(6, 4)
    assert tb.certify(model, x, model(x).argmax(1), [1e-3], domain="interval").verified.any()


def test_a_weight_outside_of_the_box_is_the_codes_own() -> None:
    torch.manual_seed(0)
    model, x = Asking(WAYS["item"]), torch.randn(6, 4)
    box = tb.Box(exclude="g")
    assert tb.certify(model, x, model(x).argmax(1), [1e-3], box=box, domain="interval").verified.any()


def test_a_number_of_inputs_and_weights_that_no_trace_asks_for_is_the_codes_own() -> None:
    class Guarded(Asking):
        def forward(self, x: Tensor) -> Tensor:
            out = self.layer(x) * self.kept[0]
            if not torch.compiler.is_exporting() and not out.isfinite().all():
                raise ValueError("overflow")
            return out

    torch.manual_seed(0)
    model, x = Guarded(WAYS["item"]), torch.randn(6, 4)
    assert tb.certify(model, x, model(x).argmax(1), [1e-3], domain="interval").verified.any()
