"""A weight is what lies in its memory, whatever tensor, type, thread or cache the code reads it by."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify.agreement.networks import samples
from thetabox.models import LSNN, heap
from thetabox.models.memory import identity, share_memory, sharing

WIDE = 256
POOL = ThreadPoolExecutor(1)


class Two(nn.Module):
    """Class 0 by a sum over many weights, class 1 by one number; a tenth less of all weights turns the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.c = nn.Parameter(torch.ones(WIDE, 1)), nn.Parameter(torch.tensor([3.8]))
        self.prepare()

    def prepare(self) -> None:
        """What a subclass keeps."""

    def weight(self) -> Tensor:
        return self.w

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x @ self.weight(), self.c.expand(x.shape[0], 1)], 1)


def ones(count: int = 6) -> Tensor:
    return torch.full((count, WIDE), 4.0 / WIDE)


class TransposedBuffer(Two):
    def prepare(self) -> None:
        self.register_buffer("turned", self.w.detach().T)

    def weight(self) -> Tensor:
        return self.turned.T


class PartOfAnother(Two):
    def prepare(self) -> None:
        self.part = nn.Parameter(self.w.detach()[1:])

    def weight(self) -> Tensor:
        return torch.cat([self.w[:1], self.part])


class Halves(Two):
    """The upper halves of float32 numbers, which are bfloat16 numbers."""

    def prepare(self) -> None:
        self.kept = [self.w.detach().view(torch.bfloat16).view(WIDE, 1, 2)[..., 1]]

    def weight(self) -> Tensor:
        return self.kept[0].float()


class ByNumpy(Two):
    def prepare(self) -> None:
        self.w = nn.Parameter(torch.ones(WIDE + 1, 1))
        self.kept = [torch.from_numpy(self.w.detach().numpy()[1:])]

    def weight(self) -> Tensor:
        return self.kept[0]


class Negated(Two):
    def prepare(self) -> None:
        self.kept = [torch.view_as_complex(nn.Parameter(-torch.ones(WIDE, 2)).detach())]
        self.w = nn.Parameter(torch.view_as_real(self.kept[0]))
        self.kept = [self.kept[0].conj().imag[:, None]]

    def weight(self) -> Tensor:
        return self.kept[0]


class ByVersion(Two):
    """A cache that is made anew when the weight was written to."""

    version = None

    def weight(self) -> Tensor:
        if self.version != self.w._version:
            self.kept, self.version = (1.0 * self.w).detach(), self.w._version
        return self.kept


class OtherThread(Two):
    def prepare(self) -> None:
        self.kept = [self.w]

    def weight(self) -> Tensor:
        return POOL.submit(lambda: (1.0 * self.kept[0]).detach()).result()


class SmallBatches(Two):
    """A copy of the weights where the batch is small."""

    def prepare(self) -> None:
        self.kept = [self.w.detach().clone()]

    def forward(self, x: Tensor) -> Tensor:
        weight = self.kept[0] if x.shape[0] <= 24 else self.w
        return torch.cat([x @ weight, self.c.expand(x.shape[0], 1)], 1)


READS = [TransposedBuffer, PartOfAnother, Halves, ByNumpy, Negated, OtherThread]


@pytest.mark.parametrize("kind", READS)
def test_other_ways_to_the_memory_are_refused(kind: type[Two]) -> None:
    net = kind()
    with pytest.raises(tb.InputError, match=r"memory|not the function that would be bounded"):
        tb.certify(net, ones(), [0] * 6, [0.0, 0.1])


def test_a_negated_view_is_known_by_its_sign() -> None:
    """Not by the numbers it answers with: those a proof at other weights would have wrong."""
    with pytest.raises(tb.InputError, match="the memory of w through a tensor that reads it as other numbers"):
        tb.certify(Negated(), ones(), [0] * 6, [0.0, 0.1])


def test_a_cache_of_weights_that_knows_their_version() -> None:
    """Filled, it is a constant to the code; empty, it is made of the weights in every run."""
    net = ByVersion()
    fresh = tb.certify(net, ones(), [0] * 6, [0.0, 0.1], domain="interval")
    assert not fresh.verified[1].any()
    net(ones())
    with pytest.raises(tb.InputError, match="a copy of it whose weights are written to"):
        tb.certify(net, ones(), [0] * 6, [0.0, 0.1])


def test_copies_of_weights_in_small_batches() -> None:
    with pytest.raises(tb.InputError, match="in a batch of 25"):
        tb.certify(SmallBatches(), ones(30), [0] * 30, [0.0, 0.1])


BOXES = [tb.Box(include="a"), tb.Box(include="b"), tb.Box(exclude="b"), tb.Box(scale={"b": 0.0}), tb.Box()]


@pytest.mark.parametrize("box", BOXES)
def test_two_parameters_on_one_memory_are_one(box: tb.Box) -> None:
    class Tied(nn.Module):
        def __init__(self, tied: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a = nn.Parameter(torch.randn(6, 6))
            self.b = nn.Parameter(self.a.data) if tied else self.a
            self.out = nn.Parameter(torch.randn(6, 3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x @ self.a) @ self.b @ self.out

    tied, one = (tb.logit_bounds(Tied(by_memory), samples(), 0.02, box=box) for by_memory in (True, False))
    assert torch.equal(tied.lower, one.lower)
    assert torch.equal(tied.upper, one.upper)


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["interval", "histories"])
def test_tied_memory_of_spiking_networks(domain: str) -> None:
    torch.manual_seed(0)
    net, x = LSNN(4, 4, 3, threshold=0.05), 3 * torch.randn(8, 10, 4)
    net.threshold = net.W_in.data[0]
    with pytest.raises(tb.InputError, match="share memory"):
        tb.logit_bounds(net, x, 0.05, domain=domain)
    assert tb.logit_bounds(net, x, 0.05, domain=domain, box=tb.Box(exclude="W_in")).lower.shape == (8, 3)


HOLDERS: dict[str, Callable[[nn.Module], Callable[[], nn.Module]]] = {
    "deque": lambda layer: lambda d=deque([layer]): d[0],
    "keyword": lambda layer: _by_keyword(layer),
    "iterator": lambda layer: _by_iterator(iter([layer] * 1000)),
    "values": lambda layer: _by_values({"a": layer}),
    "deep": lambda layer: lambda v=[[[[[[[[layer]]]]]]]]: v[0][0][0][0][0][0][0][0],
    "another class": lambda layer: _by_class(type("Hold", (), {"layer": layer})),
}


def _by_keyword(layer: nn.Module) -> Callable[[], nn.Module]:
    def read(*, held: nn.Module = layer) -> nn.Module:
        return held

    return read


def _by_values(layers: dict[str, nn.Module]) -> Callable[[], nn.Module]:
    values = layers.values()
    return lambda: next(iter(values))


def _by_class(kind: Any) -> Callable[[], nn.Module]:
    return lambda: kind.layer


def _by_iterator(layers: Iterator[nn.Module]) -> Callable[[], nn.Module]:
    return lambda: next(layers)


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
@pytest.mark.parametrize("trainable", [True, False])
def test_layers_that_the_module_does_not_know_of(holder: Any, trainable: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Linear(6, 6)
            self.held = holder(nn.Linear(6, 3).requires_grad_(trainable))

        def forward(self, x: Tensor) -> Tensor:
            return self.held()(self.own(x))

    with pytest.raises(tb.InputError, match=r"register it|register the layer"):
        tb.certify(Net(), samples(), [0] * 12, 0.01)


def test_what_shares_memory() -> None:
    whole = torch.arange(24.0).view(4, 6)
    assert identity(whole) == identity(whole[:]) != identity(whole.T)
    assert not share_memory(whole[:, :3], whole[:, 3:])
    assert not share_memory(whole[::2], whole[1::2])
    assert share_memory(whole[:, :3], whole[:, 2:])
    assert share_memory(whole[2], whole.view(torch.uint8)[2, 23:])
    assert not share_memory(whole[2], whole.view(torch.uint8)[3])
    assert not share_memory(whole, torch.empty(0))
    named = [("a", whole[:, :3]), ("b", whole[:, 3:]), ("c", whole[3]), ("d", torch.ones(3)), ("e", whole[3])]
    assert sorted(map(sorted, sharing(named))) == [["a", "c"], ["a", "e"], ["b", "c"], ["b", "e"]]


def test_the_process_is_looked_through_once_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many constants there are."""
    looks: list[int] = []
    objects = heap.objects

    def counted() -> list[Any]:
        looks.append(1)
        return objects()

    class Constants(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.numbers = nn.Linear(6, 3), [torch.randn(3) for _ in range(10)]

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + sum(self.numbers)

    monkeypatch.setattr(heap, "objects", counted)
    assert tb.certify(Constants(), samples(), [0] * 12, 1e-3).checked["constants"] == 30
    assert len(looks) == 1
