"""What code keeps outside of its module: no run of ours leaves anything there, and nothing kept there is a constant."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import thetabox as tb
from tests.verify.agreement.networks import samples

KEPT: dict[Any, Tensor] = {}
LIST: list[Tensor] = []
ONE: Tensor | None = None


class Kernel(nn.Module):
    """Twice a weight, computed at the first call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.b = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.randn(3))

    def kernel(self) -> Tensor:
        return 2 * self.w

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.kernel(), self.b)


class ByCache(Kernel):
    @functools.cache  # noqa: B019  # what is tested
    def kernel(self) -> Tensor:
        return 2 * self.w


class InDictionary(Kernel):
    def kernel(self) -> Tensor:
        if id(self) not in KEPT:
            KEPT[id(self)] = 2 * self.w
        return KEPT[id(self)]


class InList(Kernel):
    def kernel(self) -> Tensor:
        if not LIST:
            LIST.append(2 * self.w)
        return LIST[0]


class InGlobal(Kernel):
    def kernel(self) -> Tensor:
        global ONE
        if ONE is None:
            ONE = 2 * self.w
        return ONE


class InClass(Kernel):
    kept: Tensor | None = None

    def kernel(self) -> Tensor:
        if InClass.kept is None:
            InClass.kept = 2 * self.w
        return InClass.kept


def in_closure() -> type[Kernel]:
    kept = None

    class InClosure(Kernel):
        def kernel(self) -> Tensor:
            nonlocal kept
            if kept is None:
                kept = 2 * self.w
            return kept

    return InClosure


@functools.cache
def doubled(module: Kernel) -> Tensor:
    return 2 * module.w


class ByFunction(Kernel):
    def kernel(self) -> Tensor:
        return doubled(self)


KINDS = {
    "cache of a method": lambda: ByCache,
    "dictionary": lambda: InDictionary,
    "list": lambda: InList,
    "global": lambda: InGlobal,
    "class": lambda: InClass,
    "closure": in_closure,
    "cache of a function": lambda: ByFunction,
}


@pytest.fixture(params=KINDS)
def net(request: pytest.FixtureRequest) -> Kernel:
    global ONE
    ONE, InClass.kept = None, None
    KEPT.clear()
    LIST.clear()
    ByCache.kernel.cache_clear()
    doubled.cache_clear()
    made: Kernel = KINDS[request.param]()().eval()
    return made


def test_nothing_is_left_there(net: Kernel) -> None:
    x = samples()
    y = F.linear(x, 2 * net.w, net.b).argmax(1)
    plain = Kernel()
    expected = tb.certify(plain, x, y, [0.0, 0.05])
    found = tb.certify(net, x, y, [0.0, 0.05])
    assert torch.equal(found.margin, expected.margin)
    assert found.checked["unread"] == []
    with torch.no_grad():
        net.w.neg_()
    assert torch.equal(net(x), F.linear(x, 2 * net.w, net.b)), "a run of ours filled the cache"


@pytest.mark.parametrize("gradients", [True, False])
def test_what_was_kept_before_is_no_constant(net: Kernel, gradients: bool) -> None:
    x = samples()
    with torch.set_grad_enabled(gradients):
        y = net(x).argmax(1)
    message = r"computed of trainable ones|a copy of it whose weights|constant of the same size"
    with pytest.raises(tb.InputError, match=message):
        tb.certify(net, x, y, [0.0, 0.05])


def test_constants_of_another_size_are_constants() -> None:
    """An unused parameter beside them is recorded and no more."""

    class Shifted(Kernel):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.shift = nn.Parameter(torch.randn(5)), [torch.ones(6)]

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + self.shift[0])

    net, x = Shifted(), samples()
    assert tb.certify(net, x, net(x).argmax(1), 1e-6).checked["unread"] == ["unused"]


class Twice(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return 2 * w


def test_constants_that_are_written_out_are_constants() -> None:
    """Though an unused parameter beside them has their size: they are made in every call."""

    class Shifted(Kernel):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))

    net, x = Shifted(), samples()
    assert tb.certify(net, x, net(x).argmax(1), 1e-6).checked["unread"] == ["unused"]


def test_weights_of_a_parametrisation_that_torch_keeps() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(6, 3), samples()
    parametrize.register_parametrization(net, "weight", Twice())
    y = net(x).argmax(1)
    expected = tb.certify(net, x, y, [0.0, 0.05])
    with parametrize.cached():
        net(x)
        found = tb.certify(net, x, y, [0.0, 0.05])
        assert parametrize._cache_enabled == 1
    assert torch.equal(found.margin, expected.margin)
