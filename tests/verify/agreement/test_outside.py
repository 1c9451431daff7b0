"""What code keeps outside of its module: no run of ours leaves anything there, and nothing kept there is a constant."""

from __future__ import annotations

import contextvars
import functools
import gc
import queue
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn import functional as F
from torch.nn.utils import parametrize

import thetabox as tb
from tests.verify.agreement import networks
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


class Holder:
    """An object of the program, which keeps what it is given."""


OBJECT, NAMESPACE, OF_THREAD = Holder(), types.SimpleNamespace(), threading.local()
BY_KEY: weakref.WeakKeyDictionary[nn.Module, Tensor] = weakref.WeakKeyDictionary()
VARIABLE: contextvars.ContextVar[Tensor | None] = contextvars.ContextVar("kept", default=None)


def in_attribute(holder: Any) -> Callable[[], type[Kernel]]:
    """An attribute of something that a global of this module holds."""

    class InAttribute(Kernel):
        def kernel(self) -> Tensor:
            if not hasattr(holder, "kept"):
                holder.kept = 2 * self.w
            kept: Tensor = holder.kept
            return kept

    def made() -> type[Kernel]:
        vars(holder).pop("kept", None)
        return InAttribute

    return made


class AtItself(Kernel):
    def kernel(self) -> Tensor:
        if not hasattr(self.w, "kept"):
            self.w.kept = 2 * self.w
        kept: Tensor = self.w.kept
        return kept


class ByWeakKey(Kernel):
    def kernel(self) -> Tensor:
        if self not in BY_KEY:
            BY_KEY[self] = 2 * self.w
        return BY_KEY[self]


class InVariable(Kernel):
    def kernel(self) -> Tensor:
        kept = VARIABLE.get()
        if kept is None:
            VARIABLE.set(kept := 2 * self.w)
        return kept


class InImported(Kernel):
    def kernel(self) -> Tensor:
        from tests.verify.agreement import networks as imported

        if not hasattr(imported, "kept"):
            imported.kept = 2 * self.w
        kept: Tensor = imported.kept
        return kept


class ByDefault(Kernel):
    def kernel(self, *, kept: dict[int, Tensor] = {}) -> Tensor:  # noqa: B006  # what is tested
        if id(self) not in kept:
            kept[id(self)] = 2 * self.w
        return kept[id(self)]


KINDS = {
    "cache of a method": lambda: ByCache,
    "dictionary": lambda: InDictionary,
    "list": lambda: InList,
    "global": lambda: InGlobal,
    "class": lambda: InClass,
    "closure": in_closure,
    "cache of a function": lambda: ByFunction,
    "object": in_attribute(OBJECT),
    "namespace": in_attribute(NAMESPACE),
    "of a thread": in_attribute(OF_THREAD),
    "function": in_attribute(in_closure),
    "Python module": in_attribute(sys.modules[__name__]),
    "imported module": lambda: InImported,
    "the weight": lambda: AtItself,
    "weak key": lambda: ByWeakKey,
    "context variable": lambda: InVariable,
    "default": lambda: ByDefault,
}


@pytest.fixture(params=KINDS)
def net(request: pytest.FixtureRequest) -> Kernel:
    global ONE
    ONE, InClass.kept = None, None
    KEPT.clear()
    LIST.clear()
    ByCache.kernel.cache_clear()
    doubled.cache_clear()
    vars(networks).pop("kept", None)
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
    message = r"computed of trainable ones|a copy of it whose weights|a constant that is kept|all parameters moved"
    with pytest.raises(tb.InputError, match=message):
        tb.certify(net, x, y, [0.0, 0.05])


def test_constants_that_are_kept_beside_an_unused_parameter() -> None:
    """Whatever their size, they may have been computed of it; without it they are constants."""

    class Shifted(Kernel):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.shift = nn.Parameter(torch.randn(5)), [torch.ones(6)]

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + self.shift[0])

    net, x = Shifted(), samples()
    y = net(x).argmax(1)
    with pytest.raises(tb.InputError, match=r"does not read unused.*a constant that is kept.*exclude the tensor"):
        tb.certify(net, x, y, 1e-6)
    assert tb.certify(net, x, y, 1e-6, box=tb.Box(exclude="unused")).checked["constants"] == 6


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


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("kept",)


class Tables(nn.Module):
    """No part of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def forward(self) -> Tensor:
        if self.kept is None:
            self.kept = torch.arange(6.0) / 8
        return self.kept


SLOTTED, TABLES = Slotted(), Tables()
IN_VARIABLE: contextvars.ContextVar[dict[str, Tensor]] = contextvars.ContextVar("tables", default={})  # noqa: B039  # what is tested
QUEUE: queue.Queue[Tensor] = queue.Queue()


def of_slots() -> Tensor:
    if not hasattr(SLOTTED, "kept"):
        SLOTTED.kept = torch.arange(6.0) / 8
    return SLOTTED.kept


def of_variable() -> Tensor:
    return IN_VARIABLE.get().setdefault("table", torch.arange(6.0) / 8)


def of_queue() -> Tensor:
    if QUEUE.empty():
        QUEUE.put(torch.arange(6.0) / 8)
    return QUEUE.queue[0]


class Tabled(Kernel):
    """An honest table of constants, made at the first call."""

    def __init__(self, table: Callable[[], Tensor]) -> None:
        super().__init__()
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.table())


@pytest.mark.parametrize("table", [of_slots, of_variable, TABLES.forward, lambda: TABLES()])
def test_tables_of_constants(table: Callable[[], Tensor]) -> None:
    net, x = Tabled(table), samples()
    y = F.linear(x + torch.arange(6.0) / 8, 2 * net.w, net.b).argmax(1)
    assert tb.certify(net, x, y, 1e-6).verified.all()
    assert type(net(x)) is Tensor


@pytest.mark.slow
@pytest.mark.usefixtures("whole_heap")
def test_nothing_of_a_trace_stays_where_it_cannot_be_found() -> None:
    net, x = Tabled(of_queue), samples()
    QUEUE.queue.clear()
    with pytest.raises(tb.InputError, match=r"in a place where it cannot be found and put back|keeps tensors"):
        tb.certify(net, x, [0] * 12, 1e-6)
    assert type(net(x)) is Tensor


@pytest.mark.slow
@pytest.mark.usefixtures("whole_heap")
def test_the_callers_own_trace_stays_where_an_error_ends_the_call() -> None:
    QUEUE.queue.clear()
    program = torch.export.export(nn.Linear(4, 3), (torch.ones(2, 4),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    kept = {"own": FakeTensorMode(shape_env=ShapeEnv()).from_tensor(torch.ones(2, 4))}
    with pytest.raises(tb.InputError, match=r"cannot be found and put back|keeps tensors"):
        tb.certify(Tabled(of_queue), samples(), [0] * 12, 1e-6)
    assert all("val" in node.meta for node in program.graph.nodes if node.op != "output")
    assert "own" in kept


def test_nothing_of_a_trace_is_kept_by_torch_for_ever() -> None:
    def kept() -> int:
        gc.collect()
        return len(FakeTensorMode.cache)

    before = kept()
    tb.logit_bounds(nn.Linear(6, 3), samples(), 1e-6)
    assert kept() == before
