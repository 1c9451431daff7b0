"""Whatever holds a tensor is found among the objects of the program, frozen or not."""

from __future__ import annotations

import functools
import gc
import threading
from contextvars import ContextVar
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.models import heap

OF_THREAD = threading.local()
VARIABLE: ContextVar[Any] = ContextVar("VARIABLE")


class Slots:
    __slots__ = ("held",)


@pytest.fixture(params=[False, True], ids=["as it comes", "frozen"])
def frozen(request: pytest.FixtureRequest, whole_heap: None) -> bool:
    """Whether the program's objects are set aside just before the test looks for one."""
    return bool(request.param)


def _holders(thing: Any) -> list[Any]:
    slots, cached = Slots(), functools.lru_cache(lambda: thing)
    slots.held = thing
    cached()
    OF_THREAD.held = thing
    VARIABLE.set(thing)
    return [[thing], {"key": [thing]}, slots, cached, functools.partial(len, thing), lambda: thing, iter([thing])]


@pytest.mark.parametrize("which", range(9))
def test_what_is_held_somewhere_is_found(frozen: bool, which: int) -> None:
    thing = [object()]
    holders = _holders(thing)
    if which != 7:
        del OF_THREAD.held
    if which != 8:
        VARIABLE.set(None)
    holder, address = holders[which] if which < len(holders) else None, id(thing)
    del holders, thing
    if frozen:
        gc.freeze()
    assert address in {id(one) for one in heap.objects()}
    del holder
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


def test_a_trainable_tensor_that_no_box_moves_is_refused(frozen: bool) -> None:
    net, x = ReadsCache().eval(), torch.randn(4, 6)
    kept()
    if frozen:
        gc.freeze()
    with pytest.raises(tb.InputError, match="a trainable tensor that is no parameter of it"):
        tb.certify(net, x, [0] * 4, 1e-3)


TABLE: dict[str, Tensor] = {}


class Keeps(ReadsCache):
    """Keeps what it computes in a table of its file, and is refused for it."""

    def forward(self, x: Tensor) -> Tensor:
        TABLE["last"] = self.layer(x)
        return TABLE["last"] + kept().detach()


def test_nothing_of_a_trace_stays_in_a_frozen_table(frozen: bool) -> None:
    net, x = Keeps().eval(), torch.randn(4, 6)
    kept()
    TABLE.clear()
    if frozen:
        gc.freeze()
    with pytest.raises(tb.InputError):
        tb.certify(net, x, [0] * 4, 1e-3)
    assert all(type(t) is Tensor for t in TABLE.values())
