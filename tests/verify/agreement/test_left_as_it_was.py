"""Modules that keep things while they run: certified, and afterwards what they were."""

from __future__ import annotations

import copy
import threading
import types
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune, weight_norm

import thetabox as tb
from tests.verify.agreement.networks import Plain, samples
from thetabox.models.twins import RUNNING


class Keeps(nn.Module):
    """Keeps an activation, appends to a log, counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.log, self.calls = nn.Linear(6, 8), nn.Linear(8, 3), [], 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen = self.a(x).relu()
        self.log.append(self.seen)
        return self.b(self.seen)


def _calls(net: nn.Module, x: Tensor, y: object) -> list[Callable[[], object]]:
    """Public functions that bound, attack and measure."""
    return [
        lambda: tb.certify(net, x, y, [1e-3]),
        lambda: tb.certified_radius(net, x, y),
        lambda: tb.logit_bounds(net, x, 1e-3),
        lambda: tb.attack(net, x, y, [1e-3]),
        lambda: tb.mismatch(net, x, y, 0.1, samples=2),
    ]


def test_kept_activations() -> None:
    torch.manual_seed(0)
    net, x = Keeps(), samples()
    y = net(x).argmax(1)
    seen, log = net.seen, list(net.log)
    for call in _calls(net, x, y):
        call()
        assert net.seen is seen
        assert net.calls == 1
        assert all(a is b for a, b in zip(net.log, log, strict=True))


def test_pruned_and_reparametrised_modules() -> None:
    torch.manual_seed(0)
    x = samples()
    pruned = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    prune.l1_unstructured(pruned[0], "weight", 0.5)
    normed = nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))
    for net in (pruned, normed):
        y = net(x).argmax(1)
        kept = net[0].weight
        if net is pruned:
            assert tb.certify(net, x, y, [0.0, 1e-6], domain="interval").checked["unread"] == []
        tb.attack(net, x, y, [1e-3])
        assert net[0].weight is kept


def test_nothing_of_the_module_changes() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)).train()
    net[2].eval()
    x = samples()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    objects = [id(p) for p in net.parameters()]
    tb.certify(net, x, [0] * len(x), [0.0, 1e-3])
    assert [m.training for m in net] == [True, True, False, True, True]
    assert objects == [id(p) for p in net.parameters()]
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(
    "net",
    [
        nn.DataParallel(nn.Linear(6, 3)),
        torch.compile(nn.Linear(6, 3), backend="eager"),
        torch.jit.trace(nn.Linear(6, 3), torch.zeros(2, 6)),
    ],
    ids=["DataParallel", "compiled", "traced"],
)
def test_wrapped_modules(net: nn.Module) -> None:
    x = samples()
    assert tb.certify(net, x, net(x).argmax(1), [0.0, 1e-7]).verified.all()


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    "net",
    [
        torch.jit.script(nn.Sequential(nn.Linear(6, 3))),
        nn.Sequential(nn.LazyLinear(3)),
        nn.Linear(6, 3, device="meta"),
        nn.Sequential(nn.Linear(6, 3), nn.Softmax(1)),
        nn.Linear(5, 3),
        nn.Sequential(nn.Linear(6, 3), nn.Flatten(0)),
    ],
    ids=["scripted", "lazy", "meta", "softmax", "other inputs", "flattened samples"],
)
def test_one_line_else(net: nn.Module) -> None:
    x, y = samples(), [0] * 12
    for call in _calls(net, x, y):
        _one_line_at_most(call)


@pytest.mark.parametrize("answer", [lambda a: (a, a), lambda a: {"logits": a}, lambda a: [a], lambda a: a[0]])
def test_answers_that_are_not_logits(answer: object) -> None:
    class Net(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return answer(super().forward(x))

    x, y = samples(), [0] * 12
    for call in (
        lambda: tb.certify(Net(), x, y, [1e-3]),
        lambda: tb.certified_radius(Net(), x, y),
        lambda: tb.logit_bounds(Net(), x, 1e-3),
        lambda: tb.attack(Net(), x, y, [1e-3]),
        lambda: tb.random_attack(Net(), x, y, [1e-3], draws=2),
        lambda: tb.mismatch(Net(), x, y, 0.1, samples=2),
        lambda: tb.pcm(Net(), x, y, samples=1),
        lambda: tb.landscape(Net(), x, y),
    ):
        _one_line_at_most(call)


@pytest.mark.slow
def test_two_threads_certify_at_once() -> None:
    torch.manual_seed(0)
    nets = [Keeps(), nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), Plain()]
    nets.append(nets[0])  # one network in two threads
    x = samples()
    labels = [net(x).argmax(1) for net in nets]
    expected = [tb.certify(net, x, y, [0.0, 1e-3, 1e-2]).margin for net, y in zip(nets, labels, strict=True)]
    found: list[Tensor | BaseException | None] = [None] * len(nets)

    def work(place: int) -> None:
        try:
            for _ in range(3):
                found[place] = tb.certify(nets[place], x, labels[place], [0.0, 1e-3, 1e-2]).margin
        except BaseException as error:  # shown by the assertion below
            found[place] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(nets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Tensor), one
        assert torch.equal(one, other)
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize(
    "call",
    [
        lambda net, x, y: tb.certify(net, x, y, [1e-3]),
        lambda net, x, y: tb.certified_radius(net, x, y),
        lambda net, x, y: tb.logit_bounds(net, x, 1e-3),
        lambda net, x, y: tb.inspect(net, x),
        lambda net, x, y: tb.attack(net, x, y, [1e-3]),
        lambda net, x, y: tb.random_attack(net, x, y, [1e-3], draws=2),
        lambda net, x, y: tb.shared_attack(net, x, y, [1e-3]),
        lambda net, x, y: tb.mismatch(net, x, y, 0.1, samples=2),
        lambda net, x, y: tb.pcm(net, x, y, samples=1),
        lambda net, x, y: tb.landscape(net, x, y),
    ],
)
def test_weights_are_read_when_they_are_back(call: Callable[..., object]) -> None:
    """Another thread traces the network, which has tensors without values for that time: no call reads those."""
    net, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), samples()
    y = net(x).argmax(1)
    call(net, x, y)  # what is imported and compiled at the first call is
    found: list[object] = []

    def work() -> None:
        try:
            found.append(call(net, x, y))
        except BaseException as error:  # shown by the assertion below
            found.append(error)

    weight = net[0].weight
    with RUNNING:
        net[0].weight = nn.Parameter(weight.to("meta"))
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(0.3)
        net[0].weight = weight
    thread.join()
    assert not isinstance(found[0], BaseException), found[0]


def _one_line_at_most(call: Callable[[], object]) -> None:
    """An answer, or a refusal in one line."""
    line = ""
    try:
        call()
    except tb.InputError as error:
        line = str(error)
    assert "\n" not in line


class Counts(nn.Module):
    """Counts its calls in a tensor that it merely holds, where no program is made of it."""

    def __init__(self, dtype: torch.dtype, *, always: bool) -> None:
        super().__init__()
        self.layer, self.calls, self.always = nn.Linear(6, 3), torch.zeros(1, dtype=dtype), always

    def forward(self, x: Tensor) -> Tensor:
        if self.always or not torch.compiler.is_compiling():
            self.calls += 1
        return self.layer(x)


@pytest.mark.thin(3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
@pytest.mark.parametrize("always", [True, False])
def test_tensors_that_it_merely_holds(dtype: torch.dtype, always: bool) -> None:
    net, x = Counts(dtype, always=always), samples()
    calls = net.calls
    for call in _calls(net, x, [0] * len(x)):
        with suppress(tb.InputError):
            call()
        assert net.calls is calls
        assert not bool(calls.any())


def test_weights_that_it_replaces() -> None:
    class Normalises(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 3))

        def forward(self, x: Tensor) -> Tensor:
            if not torch.compiler.is_compiling():
                self.w.data = self.w.data / self.w.data.norm()
            return x @ self.w

    net, x = Normalises(), samples()
    net(x)
    data = net.w.data_ptr()
    with suppress(tb.InputError):
        tb.certify(net, x, [0] * len(x), 1e-3)
    assert (net.w.dtype, net.w.data_ptr()) == (torch.float32, data)
    net(x)


def test_containers_of_every_kind() -> None:
    class Slots:
        __slots__ = ("last",)

        def __init__(self) -> None:
            self.last: object = None

    class Odd(dict):
        def copy(self) -> dict[object, object]:
            raise TypeError("not to be copied")

    class Logs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd = Odd(a=[])
            self.layer, self.recent, self.named = nn.Linear(6, 3), deque(maxlen=100), {"a": [[]]}
            self.around, self.slots, self.ring = ([],), Slots(), types.SimpleNamespace()
            self.ring.ring = self.ring

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            self.odd["b"] = y
            for log in (self.recent, self.named["a"][0], self.around[0], self.odd["a"]):
                log.append(y)
            self.slots.last = self.ring.last = y
            return y

    net, x = Logs(), samples()
    tb.certify(net, x, [0] * len(x), 1e-3)
    assert not net.recent
    assert not net.named["a"][0]
    assert not net.around[0]
    assert net.odd == {"a": []}
    assert net.slots.last is None
    assert not hasattr(net.ring, "last")
    copy.deepcopy(net)
