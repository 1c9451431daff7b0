"""Weights are really written to: what no operator shows is seen, in a copy, or in a network that cannot be copied."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thetabox as tb
from tests.verify.agreement.networks import Plain, samples
from thetabox.models.replica import Unfaithful, swapped

HELD: list[Tensor] = []


class Kept(nn.Module):
    """Two weights side by side, put together when one of them is another version."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(4, 6))
        self.out = nn.Linear(8, 3)
        self.kept: tuple[object, Tensor] | None = None

    def both(self) -> Tensor:
        key = (self.a._version, self.b._version)
        if self.kept is None or self.kept[0] != key:
            self.kept = key, torch.cat([self.a, self.b]).detach()
        return self.kept[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.linear(x, self.both()).relu())


class WithLock(Kept):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def both(self) -> Tensor:
        with self.lock:
            return super().both()


class WithClosure(Kept):
    def __init__(self) -> None:
        super().__init__()
        out = self.out
        self.head: Callable[[Tensor], Tensor] = lambda h: out(h)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(x, self.both()).relu())


class AtTheParameter(Kept):
    def __init__(self) -> None:
        super().__init__()
        HELD[:] = [self.a]

    def both(self) -> Tensor:
        (a,) = HELD
        kept = getattr(a, "kept", None)
        if kept is None or kept[0] != a._version:
            kept = a.kept = a._version, F.pad(a, (0, 0, 2, 2)).detach()
        return kept[1]


class Listed(nn.Module):
    """Weights as Python numbers, out of a list."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gain, self.layer = nn.Parameter(torch.tensor([1.0, -1.0, 0.5])), nn.Linear(6, 3)
        self.held, self.lock = [self.gain], threading.Lock()

    def numbers(self) -> list[float]:
        return self.held[0].tolist()

    def forward(self, x: Tensor) -> Tensor:
        answer, numbers = self.layer(x), self.numbers()
        return torch.stack([answer[:, i] * number for i, number in enumerate(numbers)], 1)


class ListedByClosure(Listed):
    def __init__(self) -> None:
        super().__init__()
        gain = self.gain
        self.told: Callable[[], list[float]] = lambda: gain.tolist()
        del self.lock

    def numbers(self) -> list[float]:
        return self.told()


class ListedAsTensor(Listed):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * torch.tensor(self.held[0].tolist())


class InThread(Listed):
    def __init__(self) -> None:
        super().__init__()
        self.pool = ThreadPoolExecutor(1)

    def numbers(self) -> list[float]:
        return self.pool.submit(self.held[0].tolist).result()


KEPT = [Kept, WithLock, WithClosure, AtTheParameter]


@pytest.mark.parametrize("kind", [*KEPT, Listed, ListedByClosure, ListedAsTensor, InThread])
def test_refused(kind: type[nn.Module]) -> None:
    net, x = kind(), samples()
    with torch.no_grad():
        net(x)
    before = {name: (p.data_ptr(), p._version, p.detach().clone()) for name, p in net.named_parameters()}
    with pytest.raises(tb.InputError):
        tb.certify(net, x, [0] * 12, 1e-3)
    for name, p in net.named_parameters():
        pointer, version, value = before[name]
        assert (p.data_ptr(), p._version) == (pointer, version)
        assert torch.equal(p, value)


@pytest.mark.parametrize("kind", KEPT)
def test_what_was_not_kept_before_is_certified(kind: type[nn.Module]) -> None:
    """Nothing is kept yet, so that the trace shows how it is computed, and nothing is left there by a run of ours."""
    net, x = kind(), samples()
    plain = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        parts = [net.a, net.b] if kind is not AtTheParameter else [torch.zeros(2, 6), net.a, torch.zeros(2, 6)]
        plain[0].weight.copy_(torch.cat(parts))
        plain[2].load_state_dict(net.out.state_dict())
    box = tb.Box(exclude="b") if kind is AtTheParameter else tb.Box()
    found = tb.certify(net, x, plain(x).argmax(1), [1e-3, 1e-2], domain="interval", box=box)
    expected = tb.certify(plain, x, plain(x).argmax(1), [1e-3, 1e-2], domain="interval")
    assert found.margin.shape == expected.margin.shape
    torch.testing.assert_close(found.margin, expected.margin)
    assert net.kept is None
    assert not vars(net.a)


class HonestWithLock(Plain):
    """What cannot be copied is certified where it keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.held = threading.Lock(), [self.w]

    def weights(self) -> tuple[Tensor, Tensor]:
        with self.lock:
            return self.held[0], self.v


def test_what_cannot_be_copied_is_certified() -> None:
    net, x, plain = HonestWithLock(), samples(), Plain()
    found, expected = (tb.certify(n, x, plain(x).argmax(1), [1e-3, 1e-2]) for n in (net, plain))
    assert torch.equal(found.margin, expected.margin)


def test_a_pending_gradient_is_still_good() -> None:
    """Versions are as they were: a graph that was recorded before can be gone back through."""
    net, x = HonestWithLock(), samples()
    loss = net(x).square().sum()
    tb.certify(net, x, [0] * 12, 1e-3)
    loss.backward()
    assert net.w.grad is not None


def test_memory_is_put_back_whatever_happens() -> None:
    net = Plain()
    pointer, value = net.w.data_ptr(), net.w.detach().clone()

    def stopped() -> None:
        with swapped(net) as network:
            network.move({"w": torch.zeros_like(net.w)})
            assert not net.w.any()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert net.w.data_ptr() == pointer
    assert torch.equal(net.w, value)


class Both(nn.Module):
    """Reads a view that no walk finds, and has a weight that it does not read."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.more = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.randn(5))
        views = iter_of(self.w.detach().unbind(0))
        self.rows: Callable[[], list[Tensor]] = lambda: views()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, torch.stack(self.rows()))


def iter_of(parts: tuple[Tensor, ...]) -> Callable[[], list[Tensor]]:
    """Behind a C iterator, which nobody can look into."""
    again = itertools.repeat(parts)
    return lambda: list(next(again))


def test_what_can_be_neither_copied_nor_moved() -> None:
    """A weight that no trace reads may be in what the code keeps: it is refused, and may be excluded."""
    net, x = Both(), samples()
    with pytest.raises(tb.InputError, match=r"does not read more, which is in the box.*exclude the tensor"):
        tb.certify(net, x, [0] * 12, 1e-3)
    assert tb.certify(net, x, [0] * 12, 1e-3, box=tb.Box(exclude="more")).checked["unread"] == []


class Stubborn(nn.Parameter):
    """Keeps its memory."""

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        raise RuntimeError("no")


def test_a_tensor_that_keeps_its_memory_leaves_the_others_with_theirs() -> None:
    net = Plain()
    net.v = Stubborn(net.v.detach().clone())
    before = {name: (p.data_ptr(), p._version) for name, p in net.named_parameters()}
    with pytest.raises(Unfaithful), swapped(net):
        pass
    assert {name: (p.data_ptr(), p._version) for name, p in net.named_parameters()} == before


class Fills(nn.Module):
    """Its weight is what a first call computes, in a table outside of the module, of whatever weights it then has."""

    table: dict[str, Tensor] = {}  # noqa: RUF012  # the fault

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.linear(x, self.table.setdefault("w", 2.0 * self.first.weight), self.first.bias).relu())


def test_a_copy_leaves_nothing_outside() -> None:
    net = Fills()
    found = tb.certify(net, samples(), [0] * len(samples()), [0.0, 1e-3])
    assert not Fills.table
    assert found.checked["unread"] == []
