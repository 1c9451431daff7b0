"""The network is asked as its user asks it: on inputs of their own type and memory layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thetabox as tb

PIXELS = torch.randint(0, 256, (12, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Before(nn.Module):
    """A layer behind a function of the input as it was given."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.layer = function, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.function(x))


def in_unit(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x


OTHERWISE: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "bytes that wrap": (lambda x: (x - 128) / 64.0, PIXELS),
    "bytes are scaled": (in_unit, PIXELS),
    "signed bytes that wrap": (lambda x: (x * 2).float() / 64, PIXELS.to(torch.int8)),
    "truth values are no numbers": (lambda x: (x + x).float(), PIXELS > 128),
    "longer floats": (lambda x: (-x if x.dtype is torch.float64 else x).float(), PIXELS.double()),
    "shorter floats": (lambda x: (-x if x.dtype is torch.float16 else x).float(), PIXELS.half()),
    "not contiguous": (lambda x: x if x.is_contiguous() else -x, torch.rand(8, 12).T),
    "by stride": (lambda x: x * x.stride(1), torch.rand(12, 16)[:, ::2]),
}
CALLS: dict[str, Callable[[nn.Module, object], object]] = {
    "certify": lambda net, x: tb.certify(net, x, [0] * 12, [0.0, 1e-3]),
    "certified_radius": lambda net, x: tb.certified_radius(net, x, [0] * 12),
    "logit_bounds": lambda net, x: tb.logit_bounds(net, x, 1e-3),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("name", OTHERWISE)
def test_refused(name: str, call: Callable[[nn.Module, object], object]) -> None:
    function, x = OTHERWISE[name]
    before = x.clone()
    with pytest.raises(tb.InputError, match="depends on the type or memory layout of x"):
        call(Before(function), x)
    assert torch.equal(x, before)
    assert x.stride() == OTHERWISE[name][1].stride()


class Beside(Before):
    """The same beside a second input."""

    def forward(self, x: Tensor, more: Tensor) -> Tensor:
        return super().forward(x) + more


MORE = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
# Of several inputs, each is a copy of a part of one tensor where the network is bounded.
# Whole numbers and truth values are such there.
AS_THEY_ARE = ("bytes are scaled", "truth values are no numbers")
SEVERAL = {
    **{name: how for name, how in OTHERWISE.items() if name not in AS_THEY_ARE},
    "a view": (lambda x: -x if x._base is not None else x, torch.rand(12, 8)[:]),
}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("name", SEVERAL)
def test_one_of_several_refused(name: str, named: bool) -> None:
    function, x = SEVERAL[name]
    several = {"x": x, "more": MORE} if named else (x, MORE)
    with pytest.raises(tb.InputError):
        tb.certify(Beside(function), several, [0] * 12, 1e-3)


def test_gradients_that_one_of_several_asks_for() -> None:
    net = Beside(lambda x: -x if x.requires_grad else x)
    with pytest.raises(tb.InputError, match="for x as it is given"):
        tb.certify(net, (torch.rand(12, 8, requires_grad=True), MORE), [0] * 12, 1e-3)


@pytest.mark.parametrize("name", ["bytes that wrap", "bytes are scaled", "truth values are no numbers"])
def test_arrays_are_asked_as_they_are(name: str) -> None:
    function, x = OTHERWISE[name]
    with pytest.raises(tb.InputError, match="depends on the type or memory layout of x"):
        tb.certify(Before(function), x.numpy(), [0] * 12, 1e-3)


def test_a_view_that_is_a_copy_elsewhere() -> None:
    """``flatten`` of channels last is a copy, which what is done to it in place does not leave."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(32, 3), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = x.flatten(1)
            h -= 0.5
            return self.a(torch.relu(h)) + self.b(x.flatten(1))

    torch.manual_seed(0)
    net, x = Flat(), torch.randn(12, 4, 4, 2).permute(0, 3, 1, 2)
    with pytest.raises(tb.InputError, match="depends on the type or memory layout of x"):
        tb.certify(net, x, [0] * 12, 1e-3)


HONEST: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "bytes": (lambda x: x.float() / 255, PIXELS),
    "bytes that no layer takes": (lambda x: x, PIXELS),
    "truth values": (lambda x: x.float(), PIXELS > 128),
    "float64 of numpy": (lambda x: x, PIXELS.double() / 256),
    "float64, made float32": (lambda x: x.float(), PIXELS.double() / 256),
    "turned": (lambda x: x, torch.rand(8, 12, generator=torch.Generator().manual_seed(0)).T),
    "turned, and viewed": (lambda x: x.view(-1).view(-1, 8), torch.rand(8, 12).T),
    "every other": (lambda x: x.relu(), torch.rand(12, 16, generator=torch.Generator().manual_seed(0))[:, ::2]),
}


@pytest.mark.parametrize("name", HONEST)
def test_certified(name: str) -> None:
    function, x = HONEST[name]
    net = Before(function)
    floats = x.float().contiguous()
    y = net(floats).argmax(1)
    assert tb.certify(net, x, y, 1e-6).verified.all()
    assert tb.certify(net, np.asarray(x), y, 1e-6).verified.all()
    assert torch.equal(tb.certify(net, x, y, 1e-3).margin, tb.certify(net, floats.double(), y, 1e-3).margin)


@pytest.mark.parametrize("name", [name for name in [*HONEST, *AS_THEY_ARE] if name != "bytes that no layer takes"])
def test_one_of_several_certified(name: str) -> None:
    function, x = {**HONEST, **OTHERWISE}[name]
    net = Beside(function)
    y = net(x if name in AS_THEY_ARE else x.float().contiguous(), MORE).argmax(1)
    for several in ((x, MORE), (np.asarray(x), MORE), {"more": MORE.double(), "x": x}):
        assert tb.certify(net, several, y, 1e-6).verified.all()


@pytest.mark.filterwarnings("error")  # none may be raised by looking at what is given
def test_arrays_that_cannot_be_written_to() -> None:
    net, x = Before(lambda x: x), np.random.default_rng(0).random((12, 8), dtype=np.float32)
    x.setflags(write=False)
    assert tb.certify(net, x, net(torch.tensor(x)).argmax(1), 1e-6).verified.all()


def test_parameters_of_two_types() -> None:
    """Inputs are of the type that they have, where some parameter has it."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.t, self.layer = nn.Parameter(torch.tensor(1.3, dtype=torch.float64)), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self.t

    torch.manual_seed(0)
    net, x = Scaled(), torch.rand(12, 8)
    assert tb.certify(net, x, net(x).argmax(1), 1e-6).verified.all()


def tagged() -> Tensor:
    x = torch.rand(12, 8, generator=torch.Generator().manual_seed(0))
    x.reversed = True
    return x


FLOATS = torch.rand(13, 8, generator=torch.Generator().manual_seed(0))
VERY: dict[str, tuple[Callable[[Any], Tensor], Callable[[], Any]]] = {
    "with gradients": (lambda x: -x if x.requires_grad else x, lambda: FLOATS[:12].clone().requires_grad_()),
    "gradients that are recorded": (
        lambda x: -x if x.requires_grad and torch.is_grad_enabled() else x,
        lambda: FLOATS[:12].clone().requires_grad_(),
    ),
    "a parameter": (lambda x: -x if isinstance(x, nn.Parameter) else x, lambda: nn.Parameter(FLOATS[:12].clone())),
    "a part": (lambda x: -x if x.storage_offset() else x, lambda: FLOATS[1:]),
    "sparse": (lambda x: -x.to_dense() if x.is_sparse else x, lambda: FLOATS[:12].to_sparse()),
    "with an attribute": (lambda x: x.flip(1) if getattr(x, "reversed", False) else x, tagged),
    "an array of bytes": (
        lambda x: torch.as_tensor(x).float() / 255 if isinstance(x, np.ndarray) else x,
        lambda: PIXELS.numpy(),
    ),
    "an array": (lambda x: -torch.as_tensor(x) if isinstance(x, np.ndarray) else x, lambda: FLOATS[:12].numpy()),
    "an array in place": (lambda x: in_place(x) if isinstance(x, np.ndarray) else x, lambda: FLOATS[:12].numpy()),
}


def in_place(x: np.ndarray) -> Tensor:
    x *= -1
    return torch.as_tensor(x)


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", VERY)
def test_the_very_object(name: str) -> None:
    """Code may look at what it is handed, beyond type and layout."""
    function, make = VERY[name]
    x = make()
    before = np.asarray(x.detach().to_dense() if isinstance(x, Tensor) else x).copy()
    with pytest.raises(tb.InputError, match=r"for x as it is given \((torch|numpy)"):
        tb.certify(Before(function), x, [0] * 12, 1e-3)
    assert np.array_equal(np.asarray(x.detach().to_dense() if isinstance(x, Tensor) else x), before)


@pytest.mark.parametrize("make", [make for name, (_, make) in VERY.items() if name != "sparse"])
def test_the_very_object_is_certified(make: Callable[[], Any]) -> None:
    net, x = Before(lambda x: torch.as_tensor(x).float() / 300), make()
    y = net(x).argmax(1)
    assert tb.certify(net, x, y, 1e-7).verified.all()


def test_a_cast_around_the_call() -> None:
    """Bounds speak of the network as it is; what it is cast to must be the same function, and no claim of float32."""
    net, x = Before(lambda x: x), FLOATS[:12]
    y = net(x).argmax(1)
    expected = tb.certify(net, x, y, 1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tb.certify(net, x, y, 1e-3).margin, expected.margin)
        with pytest.raises(tb.InputError, match=r"torch\.autocast is on"):
            tb.certify(net, x, y, 1e-3, arithmetic="float32")
        with pytest.raises(tb.InputError, match=r"under torch\.autocast it returns another thing"):
            tb.certify(Before(lambda x: -x if torch.is_autocast_enabled("cpu") else x), x, y, 1e-3)
