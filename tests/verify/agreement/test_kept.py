"""What an earlier call computed of the weights and kept does not move with them: it is no constant."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thetabox as tb
from tests.verify.agreement.networks import samples
from thetabox.models import snapshot
from thetabox.models.forgetting import keeps, kept

KEPT = "computes with what an earlier call computed of its weights and kept"
ANOTHER = "is not the function that would be bounded"
READ = "asks for numbers of gain "


class Keeps(nn.Module):
    """A layer behind another thing that is computed of weights, in the first call alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.gain = nn.Parameter(torch.rand(8) + 0.5)
        self.register_buffer("places", torch.arange(8).flip(0), persistent=False)
        self.register_buffer("fold", None, persistent=False)
        self.kept: Any = None
        self.by_device: dict[str, Tensor] = {}
        self.parts: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class InTable(Keeps):
    def bias(self, device: str) -> Tensor:
        if device not in self.by_device:
            self.by_device[device] = self.gain[self.places]
        return self.by_device[device]

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.first(x) + self.bias(str(x.device))).relu())


class OfAnotherSize(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = torch.cat([self.gain, self.gain * 2])
        return self.last((self.first(x) * self.kept[4:12]).relu())


class InBuffer(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        if self.fold is None:
            self.fold = self.gain.detach().clone()
        return self.last((self.first(x) * self.fold).relu())


class InNumber(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = float(self.gain[0])
        return self.last(self.first(x).clamp(0.0, self.kept))


class InNumbers(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.gain.tolist()
        return self.last((self.first(x) * torch.tensor(self.kept)).relu())


class InList(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        if not self.parts:
            self.parts.append(self.gain * 1.0)
        return self.last((self.first(x) * self.parts[0]).relu())


class ReadElsewhereToo(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.gain.detach() + 0.0
        return self.last((self.first(x) * self.kept).relu() * self.gain)


class ByAttribute(Keeps):
    def __init__(self) -> None:
        super().__init__()
        del self.kept

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "kept"):
            self.kept = self.gain.detach() * 1.0
        return self.last((self.first(x) * self.kept).relu())


class InProperty(Keeps):
    @cached_property
    def doubled(self) -> Tensor:
        return torch.cat([self.gain.detach() * 2.0, torch.ones(1)])

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.first(x) * self.doubled[:8]).relu())


class InObject(Keeps):
    def __init__(self) -> None:
        super().__init__()
        self.store = SimpleNamespace(value=None)

    def forward(self, x: Tensor) -> Tensor:
        if self.store.value is None:
            self.store.value = self.gain.detach()[self.places]
        return self.last((self.first(x) * self.store.value).relu())


class ByName(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        if self.__dict__.get("kept") is None:
            setattr(self, "kept", self.gain.detach().exp())  # noqa: B010  # as code may
        return self.last((self.first(x) * self.kept).relu())


class Elsewhere(Keeps):
    """Kept where no code of the module shows that it writes."""

    kept_in_class: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.deep = SimpleNamespace(parts=[SimpleNamespace(value=None)])

    def value(self) -> Tensor:
        if self.deep.parts[0].value is None:
            self.deep.parts[0].value = torch.cat([self.gain.detach(), torch.ones(1)])
        return self.deep.parts[0].value

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.first(x) * self.value()[:8]).relu())


class InClass(Elsewhere):
    def value(self) -> Tensor:
        if InClass.kept_in_class is None:
            InClass.kept_in_class = torch.cat([self.gain.detach(), torch.ones(1)])
        return InClass.kept_in_class


class ByFunction(Elsewhere):
    def value(self) -> Tensor:
        return kept_by_function(self)


def kept_by_function(net: Keeps) -> Tensor:
    if net.kept is None:
        net.kept = torch.cat([net.gain.detach(), torch.ones(1)])
    kept: Tensor = net.kept
    return kept


KEEPING = [
    Elsewhere,
    InClass,
    ByFunction,
    InProperty,
    InObject,
    ByName,
    InTable,
    OfAnotherSize,
    InBuffer,
    InNumber,
    InNumbers,
    InList,
    ReadElsewhereToo,
    ByAttribute,
]


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("kind", KEEPING)
def test_what_was_kept_before_is_refused(kind: type[Keeps]) -> None:
    net, x = kind().eval(), samples()
    with torch.no_grad():
        y = net(x).argmax(1)
    state = {name: value for name, value in vars(net).items() if name in ("kept", "by_device", "parts")}
    for call in (lambda: tb.certify(net, x, y, [0.0, 1e-3]), lambda: tb.certified_radius(net, x, y)):
        with pytest.raises(tb.InputError, match=f"{KEPT}|{ANOTHER}|{READ}|a constant that is kept"):
            call()
    assert all(vars(net)[name] is value for name, value in state.items())


class Table(Keeps):
    """What is kept is of no weights, or not read again."""

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = torch.sin(torch.arange(8) * 0.7)
        return self.last((self.first(x) * self.gain + self.kept).relu())


class Counter(Keeps):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.shown, self.scale = 0, [], 2.0

    def rescale(self, scale: float) -> None:
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.kept = self.first(x) * self.gain
        self.shown.append(self.kept)
        return self.last(self.kept.relu() * self.scale)


@pytest.mark.parametrize("kind", [Table, Counter])
def test_honest_networks_that_keep_something(kind: type[Keeps]) -> None:
    net, x = kind().eval(), samples()
    with torch.no_grad():
        y = net(x).argmax(1)
    assert tb.certify(net, x, y, 1e-4).verified.any()


def test_what_code_may_keep() -> None:
    nets = {kind: kind() for kind in (InTable, OfAnotherSize, InBuffer)}
    with torch.no_grad():
        for net in nets.values():
            net(samples())
    assert "by_device" in {name for _, name in kept(nets[InTable])}
    assert {name for _, name in kept(nets[OfAnotherSize])} == {"kept"}
    assert {name for _, name in kept(nets[InBuffer])} == {"fold"}
    assert keeps(nets[InBuffer])
    assert not keeps(nn.Linear(2, 2))


class ByVersion(nn.Module):
    """Its weight is read twice, once as it was when it was last written to."""

    def __init__(self, act: nn.Module, lock: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.last, self.act, self.lock = nn.Linear(6, 6, bias=False), nn.Linear(6, 3), act, lock
        self.layer.weight = nn.Parameter(0.4 * torch.randn(6, 6))  # never written to, as where it is traced
        self.kept: tuple[int, Tensor] | None = None

    def turned(self) -> Tensor:
        if self.kept is None or self.kept[0] != self.layer.weight._version:
            self.kept = (self.layer.weight._version, self.layer.weight.detach().t().contiguous())
        return self.kept[1]

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.layer(x))
        return self.last(h + 0.5 * F.linear(h, self.turned()))


def compiled() -> nn.Module:
    return torch.jit.trace(nn.ReLU(), torch.randn(3, 6))


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("act", [nn.ReLU, compiled])
def test_written_to_whatever_stands_beside_it(act: Callable[[], nn.Module], inference: bool) -> None:
    net, x = called_before(ByVersion(act())), samples()
    with pytest.raises(tb.InputError, match=f"{ANOTHER}|{KEPT}"), torch.inference_mode(inference):
        tb.certify(net, x, [0] * 12, 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_written_to_in_its_own_precision(dtype: torch.dtype) -> None:
    """Where there is no copy: rounding is that of the type, and no more."""
    net = called_before(ByVersion(nn.ReLU(), threading.Lock()).to(dtype))
    with pytest.raises(tb.InputError, match=ANOTHER):
        tb.certify(net, samples().to(dtype), [0] * 12, 0.1)


def called_before(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        net(samples().to(next(net.parameters()).dtype))
    return net


class WithTable(nn.Module):
    def __init__(self, seed: int, act: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last, self.act, self.table = nn.Linear(6, 6), nn.Linear(6, 3), act, torch.randn(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x) + self.table.to(x.dtype)))


def test_an_honest_network_with_a_compiled_part() -> None:
    tb.certify(WithTable(0, compiled()), samples(), [0] * 12, 1e-4, domain="interval")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_honest_networks_of_half_precision(dtype: torch.dtype) -> None:
    for seed in range(4):
        tb.certify(WithTable(seed, nn.ReLU()).to(dtype), samples().to(dtype), [0] * 12, 1e-4, domain="interval")


class Guarded(nn.Module):
    """A branch on numbers that it computes, which no trace shows."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit, self.w = limit, nn.Parameter(torch.eye(6)[:3] * 1.0)

    def forward(self, x: Tensor) -> Tensor:
        h = x @ self.w.T
        if not torch.compiler.is_compiling() and bool((h[:, 0] > self.limit).any()):
            h = h.clamp(max=0.1)
        return h


def test_a_branch_on_what_is_computed() -> None:
    """Neither among the first samples nor the loudest: all are moved where the code asks for numbers."""
    x = 0.1 * torch.rand(40, 6)
    x[7:9, 4] = 9.0
    x[20, 0] = 3.0
    tb.certify(Guarded(100.0), x, [0] * 40, 0.01)
    with pytest.raises(tb.InputError, match=ANOTHER):
        tb.certify(Guarded(3.0 * 1.04), x, [0] * 40, 0.01)


def test_an_interrupt_waits_until_all_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    put_back, count = snapshot.put_back, 0

    def interrupted(*given: Any) -> None:
        nonlocal count
        count += 1
        if count == 5:
            signal.raise_signal(signal.SIGINT)
        put_back(*given)

    monkeypatch.setattr(snapshot, "put_back", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tb.certify(net, samples(), [0] * 12, 1e-3)
    assert all(module.training for module in net.modules())
    assert signal.getsignal(signal.SIGINT) is before
