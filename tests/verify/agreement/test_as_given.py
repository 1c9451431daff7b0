"""The network is asked as its user asks it: on inputs of their own type and memory layout."""

from __future__ import annotations

from collections.abc import Callable

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


@pytest.mark.filterwarnings("error")
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
