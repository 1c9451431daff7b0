"""Whatever holds a tensor is found among the objects of the program, frozen or not."""

from __future__ import annotations

import functools
import gc
import threading
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.models import heap

OF_THREAD = threading.local()
VARIABLE: ContextVar[Any] = ContextVar("VARIABLE")


class Slots:
    __slots__ = ("held",)


@pytest.fixture
def frozen(whole_heap: None) -> None:
    """The program's own look at its objects, of which all that is loaded for the tests is set aside."""


class Thing:
    pass


@pytest.mark.slow
def test_what_is_held_somewhere_is_found(frozen: None) -> None:
    things = {
        how: Thing()
        for how in ("list", "deep", "array", "slots", "cache", "partial", "closure", "iterator", "local", "var")
    }
    addresses = {how: id(thing) for how, thing in things.items()}
    slots, cached = Slots(), functools.lru_cache(functools.partial(dict.pop, things, "cache"))
    slots.held = things.pop("slots")
    cached()
    OF_THREAD.held = things.pop("local")
    VARIABLE.set(things.pop("var"))
    holders = [
        [things.pop("list")],
        {"key": [things.pop("deep")]},
        np.array([None, things.pop("array")], dtype=object),
        slots,
        cached,
        functools.partial(id, things.pop("partial")),
        (lambda thing: lambda: thing)(things.pop("closure")),
        iter([things.pop("iterator")]),
    ]
    assert not things
    gc.freeze()
    found = {id(one) for one in heap.objects()}
    assert [how for how, address in addresses.items() if address not in found] == []
    del holders, slots, cached, OF_THREAD.held
    VARIABLE.set(None)


@functools.lru_cache
def kept() -> Tensor:
    return torch.randn(3, requires_grad=True)


class ReadsCache(nn.Module):
    """A trainable tensor that only the table of a cached function holds, and that the code reads detached."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + kept().detach()


@pytest.mark.slow
def test_a_trainable_tensor_that_no_box_moves_is_refused(frozen: None) -> None:
    net, x = ReadsCache().eval(), torch.randn(4, 6)
    kept()
    gc.freeze()
    with pytest.raises(tb.InputError, match="a trainable tensor that is no parameter of it"):
        tb.certify(net, x, [0] * 4, 1e-3)


TABLE: dict[str, Tensor] = {}


class Keeps(ReadsCache):
    """Keeps what it computes in a table of its file, and is refused for it."""

    def forward(self, x: Tensor) -> Tensor:
        TABLE["last"] = self.layer(x)
        return TABLE["last"] + kept().detach()


@pytest.mark.long
def test_nothing_of_a_trace_stays_in_a_frozen_table(frozen: None) -> None:
    net, x = Keeps().eval(), torch.randn(4, 6)
    kept()
    TABLE.clear()
    gc.freeze()
    with pytest.raises(tb.InputError):
        tb.certify(net, x, [0] * 4, 1e-3)
    assert all(type(t) is Tensor for t in TABLE.values())
