"""Whatever a trace burns in, the network that runs is asked: no certificate of another function."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify.agreement import networks
from tests.verify.agreement.networks import BURNED_IN, Changed, Plain, Settings, samples
from thetabox.verify.agreement import batches

CALLS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "certify": lambda net, x: tb.certify(net, x, [0] * len(x), [0.0, 1e-3]),
    "certified_radius": lambda net, x: tb.certified_radius(net, x, [0] * len(x)),
    "logit_bounds": lambda net, x: tb.logit_bounds(net, x, 1e-3),
    "worst_margins": lambda net, x: tb.verify.worst_case.worst_margins(net, x, torch.zeros(len(x)).long(), 1e-3),
}


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("change", BURNED_IN.values(), ids=BURNED_IN)
def test_refused(change: networks.Change, call: Callable[[nn.Module, Tensor], object]) -> None:
    with pytest.raises(tb.InputError, match=r"is not the function that would be bounded|torch\.export cannot trace"):
        call(Changed(change), samples())


@pytest.mark.parametrize("count", [1, 2, 3, 12, 30])
def test_a_branch_on_the_batch_is_found_whatever_the_samples(count: int) -> None:
    with pytest.raises(tb.InputError, match=r"a batch of|samples are in the batch"):
        tb.certify(Changed(BURNED_IN["large batches"]), samples(count), [0] * count, 1e-3)


def test_a_branch_that_changes_nothing_is_none() -> None:
    def either(module: Changed, x: Tensor, answer: Tensor) -> Tensor:
        return answer if x.shape[0] > 8 else (answer[None] if x.shape[0] == 1 else answer[:, None]).reshape(-1, 3)

    x = samples()
    net = Changed(either)
    assert tb.certify(net, x, net(x).argmax(1), 1e-6).verified.all()


class Retrained(Plain):
    """``train`` does more than to set a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.sign = 1.0

    def train(self, mode: bool = True) -> Retrained:
        self.sign = -1.0 if mode else 1.0
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.sign * super().forward(x)


@pytest.mark.parametrize("mode", [True, False])
def test_evaluation_mode_is_what_eval_makes(mode: bool) -> None:
    x, net = samples(), Retrained()
    y = net.eval()(x).argmax(1)
    net.train(mode)
    found = tb.certify(net, x, y, [0.0, 1e-6])
    assert found.clean_accuracy == 1.0
    assert found.verified.all()
    assert (net.training, net.sign) == (mode, -1.0 if mode else 1.0)


class AlwaysTraining(Plain):
    """Dropout stays on in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def train(self, mode: bool = True) -> AlwaysTraining:
        return super().train(True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.drop(x))


def test_dropout_that_stays_on_is_refused() -> None:
    with pytest.raises(tb.InputError):
        tb.certify(AlwaysTraining(), samples(), [0] * 12, 1e-3)


def _set(name: str, value: object) -> Callable[[Settings], None]:
    return lambda net: setattr(net, name, value)


def _attribute(net: Settings) -> None:
    net.object.gain = -3.0


def _slots(net: Settings) -> None:
    net.slots.gain = -3.0


def _listed(net: Settings) -> None:
    net.listed[0].gain = -3.0


def _closure(net: Settings) -> None:
    net.box[0] = -3.0


def _keyword(net: Settings) -> None:
    net.partial.keywords["other"] = -3.0


def _deep(net: Settings) -> None:
    net.table["deep"]["deeper"][0].value = -3.0


def _tensor(net: Settings) -> None:
    net.mask.mul_(-3.0)


def _hook(net: Settings) -> None:
    net.register_forward_hook(lambda module, inputs, output: -3.0 * output)


def _inner_hook(net: Settings) -> None:
    net.a.register_forward_pre_hook(lambda module, inputs: (-3.0 * inputs[0],))


def _method(net: Settings) -> None:
    net.extra = lambda t: -3.0 * t


STALE = {
    "attribute of an object": _attribute,
    "slots": _slots,
    "object in a list": _listed,
    "closure": _closure,
    "keyword of a partial": _keyword,
    "deep attribute": _deep,
    "tensor in place": _tensor,
    "hook": _hook,
    "hook of a layer": _inner_hook,
    "method of the instance": _method,
    "attribute": _set("scale", -3.0),
}


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("change", STALE.values(), ids=STALE)
def test_what_changed_since_the_last_call_is_seen(change: Callable[[Settings], None]) -> None:
    net, x = Settings(), samples()
    tb.certify(net, x, net(x).argmax(1), 1e-3)
    before = net(x)
    change(net)
    assert not torch.allclose(net(x), before)
    _is_of(net, x)


def test_what_changed_on_the_class_or_in_the_module_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = Settings(), samples()
    tb.certify(net, x, net(x).argmax(1), 1e-3)
    monkeypatch.setattr(Settings, "scale", -3.0)
    _is_of(net, x)
    monkeypatch.setattr(networks, "GLOBAL_GAIN", -0.5)
    _is_of(net, x)
    monkeypatch.setattr(Settings, "extra", lambda self, t: t * t)
    _is_of(net, x)
    monkeypatch.setattr(networks.Gain, "__call__", lambda self, t: torch.sigmoid(t))
    _is_of(net, x)
    monkeypatch.setattr(nn.Linear, "forward", lambda self, t: t @ self.weight.t() * 2 + self.bias)
    _is_of(net, x)


def _is_of(net: nn.Module, x: Tensor) -> None:
    """Bounds at ε = 0 hold the network's own answer, closely."""
    with torch.no_grad():
        answer = net(x).double()
    bounds = tb.logit_bounds(net, x, [0.0, 1e-6], domain="interval")
    assert bool(((bounds.lower[0] - 1e-5 <= answer) & (answer <= bounds.upper[0] + 1e-5)).all())
    assert float((bounds.upper[0] - bounds.lower[0]).max()) < 1e-6


def test_a_trace_of_a_training_serves_as_long_as_the_code_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other does: what code does with a large batch shows in no run of a small one."""
    calls = []
    export = torch.export.export
    monkeypatch.setattr(torch.export, "export", lambda *a, **k: calls.append(1) or export(*a, **k))
    net, x = Settings(), samples()

    def traces(call: Callable[[], object]) -> int:
        calls.clear()
        call()
        return len(calls)

    def step() -> object:
        return tb.verify.worst_case.worst_margins(net, x, torch.zeros(len(x)).long(), 1e-3)

    assert [traces(lambda: tb.logit_bounds(net, x, 0.1)) for _ in range(2)] == [1, 1]
    assert traces(step) == 1
    with torch.no_grad():
        net.a.weight.mul_(2)  # a value of a parameter is no part of a trace
    assert [traces(step) for _ in range(3)] == [0, 0, 0]
    net.a.register_forward_hook(lambda m, inputs, answer: answer.relu())
    assert traces(step) == 1


class Buffered(Plain):
    """Writes to a buffer in its forward, and reads it."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.reads = reads
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * (self.calls if self.reads else 1.0)


def test_a_buffer_that_counts_calls() -> None:
    x = samples()
    with pytest.raises(tb.InputError, match="'calls'"):
        tb.certify(Buffered(True), x, [0] * len(x), 1e-3)
    net = Buffered(False)
    y = net(x).argmax(1)
    before = net.calls.clone()
    assert tb.certify(net, x, y, 1e-6).verified.all()
    assert torch.equal(net.calls, before)


BRANCHES: dict[str, tuple[Callable[[int], bool], int]] = {
    "multiples": (lambda n: n % 64 == 0, 64),
    "one size": (lambda n: n == 50, 50),
    "another one": (lambda n: n == 3000, 3000),
    "squares": (lambda n: n * n > 900, 31),
    "tens": (lambda n: n // 10 == 3, 30),
    "the larger": (lambda n: max(n, 100) > 100, 101),
    "a range": (lambda n: 70 < n < 75, 71),
    "thousands": (lambda n: n > 2000, 2001),
}


class Branches(nn.Module):
    def __init__(self, otherwise: Callable[[int], bool]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.otherwise, self.limit = nn.Linear(6, 3), otherwise, 1 << 30

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return -y if self.otherwise(x.shape[0]) or x.shape[0] > self.limit else y


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", BRANCHES)
def test_branches_of_every_kind_on_the_batch(name: str) -> None:
    otherwise, size = BRANCHES[name]
    with pytest.raises(tb.InputError, match=f"in a batch of {size} differs"):
        tb.certify(Branches(otherwise), samples(8), [0] * 8, 1e-4)


def test_a_limit_that_changed_since_the_last_call_is_seen() -> None:
    net, x = Branches(lambda n: False), samples(8)
    tb.certify(net, x, [0] * 8, 1e-4)
    net.limit = 700
    with pytest.raises(tb.InputError, match="in a batch of 701 differs"):
        tb.certify(net, x, [0] * 8, 1e-4)


@pytest.mark.thin(2)
@pytest.mark.parametrize("mask", [0.0, -1e9, -1e30, torch.finfo(torch.float32).min])
def test_a_huge_number_on_the_way_hides_nothing(mask: float) -> None:
    """Roundoff is that of the logits, not of a mask that the network adds."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.v = nn.Parameter(torch.ones(256, 2) / 256), nn.Parameter(torch.ones(64, 1))
            self.c, self.old = nn.Parameter(torch.tensor([64 * 1.3])), self.w.detach().clone()

        def forward(self, x: Tensor) -> Tensor:
            weight = self.old if torch.compiler.is_compiling() else self.w
            h = torch.relu(torch.where(torch.tensor([True, False]), mask, x @ weight)).sum(1, keepdim=True)
            return torch.cat([h.expand(-1, 64) @ self.v, self.c.expand(x.shape[0], 1)], 1)

    with pytest.raises(tb.InputError, match="not the function that would be bounded"):
        tb.certify(Masked(), torch.ones(6, 256), [1] * 6, [0.0, 0.1])


def _least(module: nn.Module, x: Tensor) -> Tensor:
    return x / (x.abs().sum(1, keepdim=True) + torch.finfo(x.dtype).eps)


HONEST: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "least number of the type": _least,
    "quotient of whole numbers": lambda m, y: y * (torch.arange(3) / 7),
    "exponential of whole numbers": lambda m, y: y * torch.exp(-torch.arange(3)),
    "whole buffer times a number": lambda m, y: y * (m.n * 0.1),
    "reciprocal of a whole buffer": lambda m, y: y * (1 / m.n),
    "root of a whole buffer": lambda m, y: y * torch.sqrt(m.n),
    "share of truths": lambda m, y: y + (y > 0).sum(1, keepdim=True) / 7,
    "a truth times a number": lambda m, y: y + (y > 0) * 0.1,
}


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("arithmetic", ["real", "float32"])
def test_rounded_constants_are_no_difference(name: str, arithmetic: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(6, 3)
            self.register_buffer("n", torch.tensor(3))

        def forward(self, x: Tensor) -> Tensor:
            return HONEST[name](self, self.layer(x))

    net, x = Net(), samples(8)
    assert tb.certify(net, x, net(x).argmax(1), [0.0, 1e-4], arithmetic=arithmetic).verified[0].all()


def test_code_that_asks_for_its_type_is_compared_in_its_own() -> None:
    net, x = Changed(lambda m, x, a: -a if a.dtype is torch.float64 else a), samples()
    found = tb.certify(net, x, net(x).argmax(1), [0.0, 1e-4])
    assert found.verified[0].all()
    assert found.checked["precision"] == "float32"
    with pytest.raises(tb.InputError, match="not the function that would be bounded"):
        tb.certify(Changed(lambda m, x, a: -a if a.dtype is torch.float32 and not _traced() else a), x, [0] * 12, 1e-4)


def _traced() -> bool:
    return torch.compiler.is_compiling()


class Old(nn.Module):
    """Is traced with the weights of its beginning."""

    def __init__(self, name: str = "layer") -> None:
        super().__init__()
        torch.manual_seed(0)
        setattr(self, name, nn.Linear(6, 3))
        self.name = name
        self.old = getattr(self, name).weight.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        layer = getattr(self, self.name)
        return nn.functional.linear(x, self.old if _traced() else layer.weight, layer.bias)


@pytest.mark.parametrize("name", ["small", "wall", "all"])
def test_names_that_read_like_words_of_a_message(name: str) -> None:
    """And the tensor that shows a difference alone is looked for once."""
    calls = itertools.count()

    class Counted(Old):
        def forward(self, x: Tensor) -> Tensor:
            next(calls)
            return super().forward(x)

    with pytest.raises(tb.InputError, match=rf"'{name}\.weight' alone shows it"):
        tb.certify(Counted(name), samples(), [0] * 12, [0.0, 0.1])
    assert 10 < next(calls) < 150


def test_silent_samples_hide_no_weight() -> None:
    """Weights are moved on the loudest samples too: on zeros none of them shows."""
    x = samples()
    x[:-1] = 0
    with pytest.raises(tb.InputError, match=r"'layer\.weight' alone shows it"):
        tb.certify(Old(), x, [0] * 12, [0.0, 0.1])


@pytest.mark.parametrize("limit", [0.98, 1.02])
def test_what_only_all_weights_together_reach(limit: float) -> None:
    """Random corners leave a mean of 256 weights where it is; all larger, and all smaller, do not."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(256))

        def forward(self, x: Tensor) -> Tensor:
            answer = (x * self.w).reshape(-1, 2, 128).sum(2)
            beyond = not _traced() and (float(self.w.detach().mean()) - 1) / (limit - 1) > 1
            return -answer if beyond else answer

    with pytest.raises(tb.InputError, match="not the function that would be bounded: with all parameters moved"):
        tb.certify(Mean(), torch.rand(6, 256), [0] * 6, [0.0, 0.05])


class Limits:
    """Read by code that only a large batch shows, in ways that no list of a module's numbers holds."""

    limit = 10**7


LIMIT = np.int64(10**7)
HELD: dict[str, Any] = {"slice": slice(10**7), "opaque": [object()] * 1_100_000, "range": range(10**7)}
LARGE: dict[str, Callable[[Tensor], bool]] = {
    "attribute of a class": lambda x: x.shape[0] > Limits.limit,
    "of a module": lambda x: x.shape[0] > networks.GLOBAL_LIMIT,
    "number of numpy": lambda x: bool(x.shape[0] > LIMIT),
    "slice": lambda x: x.shape[0] > HELD["slice"].stop,
    "length of a list": lambda x: x.shape[0] > len(HELD["opaque"]),
    "range": lambda x: x.shape[0] > len(HELD["range"]),
    "none before": lambda x: HELD.get("late") is not None and x.shape[0] > HELD["late"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n if n in ("of a module", "slice") else pytest.param(n, marks=pytest.mark.long) for n in LARGE]
)
def test_a_limit_that_changed_since(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What code does with a large batch shows in no run of a small one, so no trace is kept from call to call."""
    net, x = Changed(lambda m, x, a: -a if LARGE[name](x) else a), samples()
    y = net(x).argmax(1)
    assert tb.certify(net, x, y, 1e-6).verified.all()
    monkeypatch.setattr(Limits, "limit", 300)
    monkeypatch.setattr(networks, "GLOBAL_LIMIT", 300)
    monkeypatch.setitem(globals(), "LIMIT", np.int64(300))
    changed = {"slice": slice(300), "opaque": [object()] * 300, "range": range(300), "late": 300}
    for key, value in changed.items():
        monkeypatch.setitem(HELD, key, value)
    with pytest.raises(tb.InputError, match="how many samples are in the batch"):
        tb.certify(net, x, y, 1e-6)


UNSEEN: dict[str, Callable[[Tensor], bool]] = {
    "while it is not compiled": lambda x: not torch.compiler.is_compiling() and x.shape[0] > 900,
    "while it is not exported": lambda x: not torch.compiler.is_exporting() and x.shape[0] % 400 == 399,
    "by whole numbers": lambda x: isinstance(x.shape[0], int) and x.shape[0] > 60,
    "one limit behind two others": lambda x: (
        not torch.compiler.is_compiling() and 30 < x.shape[0] > 300 < x.shape[0] - 400
    ),
    "by words": lambda x: len(str(tuple(x.shape))) > 7 and "s" not in str(x.shape[0]),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_a_branch_that_leaves_nothing_in_the_trace(name: str) -> None:
    net, x = Changed(lambda m, x, a: -a if UNSEEN[name](x) else a), samples()
    with pytest.raises(tb.InputError, match="how many samples are in the batch"):
        tb.certify(net, x, [0] * 12, 1e-6)


@pytest.mark.parametrize("limit", [8, 14, 600])
def test_a_branch_behind_a_convolution(limit: int) -> None:
    """Torch's own choices by the size of the batch hide none of the code's."""

    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.layer = nn.Conv2d(1, 4, 3), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            answer = self.layer(self.conv(x).flatten(1))
            return -answer if not torch.compiler.is_compiling() and x.shape[0] == limit else answer

    net, x = Behind(), torch.rand(6, 1, 4, 4)
    with pytest.raises(tb.InputError, match=f"in a batch of {limit} differs"):
        tb.certify(net, x, [0] * 6, 1e-6)


class BehindACell(nn.Module):
    """Torch by itself takes the batch of its recurrent layers and cells for the number that it is."""

    def __init__(self, cell: nn.Module, branch: Callable[[Tensor], bool]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.layer, self.branch = cell, nn.Linear(4, 3), branch

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.cell, nn.RNNBase):
            h = self.cell(x)[0][:, -1]
        else:
            h = self.cell(x[:, 1], self.cell(x[:, 0]))[0]
        answer = self.layer(h)
        return -answer if self.branch(answer) else answer


CELLS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(3, 4, batch_first=True),
    "gru": lambda: nn.GRU(3, 4, batch_first=True),
    "cell": lambda: nn.LSTMCell(3, 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("limit", [7, pytest.param(300, marks=pytest.mark.long)])
def test_a_branch_behind_a_recurrent_layer(kind: str, limit: int) -> None:
    """What torch took for granted answers none of the code's questions."""
    net = BehindACell(CELLS[kind](), lambda h: not torch.compiler.is_compiling() and h.shape[0] == limit)
    x = torch.rand(6, 2, 3)
    with pytest.raises(tb.InputError, match=f"in a batch of {limit} differs"):
        tb.certify(net, x, [0] * 6, 1e-6)


class Behind(nn.Module):
    """Does something with the logits that torch by itself cannot do where the batch may have any size."""

    def __init__(self, done: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.done = nn.Linear(6, 3), done
        self.register_buffer("factor", torch.tensor([2.0, 2.0, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        answer = self.done(self.layer(x), self.factor)
        return -answer if not torch.compiler.is_compiling() and answer.shape[0] == 300 else answer


@pytest.mark.parametrize(
    "done",
    [
        lambda h, factor: h if torch.compiler.is_compiling() or factor[0].item() > 1 else -h,
        lambda h, factor: torch.addcmul(h, factor, h),
        lambda h, factor: h if torch.compiler.is_compiling() else torch.kron(h, torch.ones(1, 1)),
    ],
    ids=["a number of a tensor", "operands of several shapes", "a size that is taken for a number"],
)
def test_a_branch_behind_what_torch_cannot_do_for_any_size(done: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(tb.InputError, match="in a batch of 300 differs"):
        tb.certify(Behind(done), samples(), [0] * 12, 1e-6)


@pytest.mark.parametrize(
    "done",
    [
        lambda h: h * float(h.detach().numpy().size > 0),
        lambda h: h + 0 * torch.fake_quantize_per_tensor_affine(h, 0.1, 0, -8, 7),
        lambda h: -h if {300: True}.get(h.shape[0]) else h,
        lambda h: -h if h.nbytes == 300 * 3 * 4 else h,
    ],
    ids=["numpy", "quantised", "a dictionary of sizes", "bytes"],
)
def test_what_no_call_without_a_certain_batch_size_can_do(done: Callable[[Tensor], Tensor]) -> None:
    """Nobody knows what its code asks afterwards."""
    net = Behind(lambda h, factor: h if torch.compiler.is_compiling() else done(h))
    with pytest.raises(tb.InputError, match="may look at that size unseen") as caught:
        tb.certify(net, samples(), [0] * 12, 1e-6)
    assert "\n" not in str(caught.value)


def test_a_refusal_leaves_what_calls_have_written_to() -> None:
    def counted(h: Tensor, factor: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            factor.add_(1.0)
            h.detach().numpy()
        return h

    net = Behind(counted)
    with pytest.raises(tb.InputError, match="may look at that size unseen"):
        tb.certify(net, samples(), [0] * 12, 1e-6)
    assert net.factor.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "apart",
    [torch.unbind, list, lambda h: h.split(1), lambda h: h.split([1, h.shape[0] - 1]), lambda h: h.unsafe_split(1)],
    ids=["unbind", "iterated", "split", "split by a list", "unsafe_split"],
)
def test_a_batch_that_is_cut_into_single_samples(apart: Callable[[Tensor], Sequence[Tensor]]) -> None:
    """Then its size is a number like any other, and what the code asks of it leaves no trace."""

    def branch(h: Tensor) -> bool:
        return not torch.compiler.is_compiling() and 300 < len(torch.cat([p.reshape(-1) for p in apart(h)])) // 3 < 340

    with pytest.raises(tb.InputError, match=r"single samples|ways by the size"):
        tb.certify(BehindACell(CELLS["cell"](), branch), torch.rand(6, 2, 3), [0] * 6, 1e-6)


@pytest.mark.slow
def test_a_branch_of_code_without_a_file() -> None:
    """Torch holds such code for its own."""
    held: dict[str, Any] = {"torch": torch, "Behind": Behind}
    exec(
        "class Own(Behind):\n"
        "    def forward(self, x):\n"
        "        answer = self.layer(x)\n"
        "        return -answer if not torch.compiler.is_compiling() and answer.shape[0] == 300 else answer\n",
        held,
    )
    with pytest.raises(tb.InputError, match="in a batch of 300 differs"):
        tb.certify(held["Own"](torch.add), samples(), [0] * 12, 1e-6)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3)),
        nn.Sequential(nn.Flatten(1, 2), BehindACell(CELLS["lstm"](), lambda h: False)),
    ],
    ids=["convolution", "recurrent"],
)
def test_torch_s_own_choices_are_none_of_the_code(net: nn.Module) -> None:
    x = torch.rand(6, 1, 4, 4) if isinstance(net[0], nn.Conv2d) else torch.rand(6, 2, 1, 3)
    found = tb.certify(net, x, net(x).argmax(1), 1e-6).checked["batch_sizes"]
    assert found == sorted([*batches.SIZES, batches.LARGE])


def test_a_branch_on_inference_mode() -> None:
    net, x = Changed(lambda m, x, a: -a if torch.is_inference_mode_enabled() else a), samples()
    with pytest.raises(tb.InputError, match="whether torch is in inference mode"):
        tb.certify(net, x, [0] * 12, 1e-6)


def test_what_torch_says_of_its_internals_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    net, x = Changed(lambda m, x, a: a if x.abs().max() < 100 else -a), samples()
    with pytest.raises(tb.InputError, match=r"torch\.export cannot trace"):
        tb.certify(net, x, [0] * 12, 1e-6)
    assert capfd.readouterr() == ("", "")


def test_in_inference_mode() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), samples()
    y = net(x).argmax(1)
    expected = tb.certify(net, x, y, [0.0, 1e-3]).margin
    with torch.inference_mode():
        assert torch.equal(tb.certify(net, x, y, [0.0, 1e-3]).margin, expected)


class Largest:
    """The largest batch that was seen; kept in a file, for what is held in memory is put back after every run."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the test needs it

    def see(self, x: Tensor) -> None:
        if isinstance(x.shape[0], int):
            self.file.write(x.shape[0].to_bytes(4, "big"))

    def of(self) -> int:
        self.file.seek(0)
        return max(int.from_bytes(part, "big") for part in iter(lambda: self.file.read(4), b""))


def test_batch_sizes_beyond_memory_are_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to compare nor to say why something differs."""
    monkeypatch.setattr(batches, "MEMORY", 1 << 20)
    largest = Largest()

    class Large(Branches):
        def forward(self, x: Tensor) -> Tensor:
            largest.see(x)
            y = super().forward(x)
            return -y if not _traced() and getattr(self, "wrong", False) else y

    net, x = Large(lambda n: n > 700_000), samples(8)
    tb.certify(net, x, [0] * 8, 1e-4)
    net.wrong = True
    with pytest.raises(tb.InputError, match="not the function that would be bounded"):
        tb.certify(net, x, [0] * 8, 1e-4)
    assert 8 <= largest.of() < 100_000
