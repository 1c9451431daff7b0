"""Code that tells a run of ours from its own call: by the copy, the precision, the size, the mode, a kept value."""

from __future__ import annotations

import collections
import copy
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify.agreement.networks import samples

ANOTHER = "is not the function that would be bounded"
READ = "asks for numbers of gain "
GAIN = tb.Box(include="gain")


def refused(net: nn.Module, x: Any = None, match: str = ANOTHER, **how: Any) -> None:
    x = samples() if x is None else x
    with pytest.raises(tb.InputError, match=match):
        tb.certify(net, x, [0] * len(x), [0.0, 0.05], **how)


class Gain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gain, self.layer = nn.Parameter(torch.tensor([1.5])), nn.Linear(6, 3)


# --- kept, and seen only by a copy of the module as it is at its own weights


class KeptTwice(Gain):
    """A number of its weights, kept by its own code, beside what a first call computes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale: float | None = None
        self.store: collections.deque[Tensor] = collections.deque()

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = float(self.gain.detach())
        if not self.store:
            self.store.append(self.layer.weight * self.gain)
        return x @ self.store[0].t() * self.scale


class Lazy:
    def __init__(self) -> None:
        self.value: Any = None

    def get(self, make: Callable[[], Any]) -> Any:
        if self.value is None:
            self.value = make()
        return self.value


def in_a_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


class InHelper(Gain):
    """A number in an object that it holds; read in the same thread, or in another, which no operator of ours sees."""

    def __init__(self, thread: bool) -> None:
        super().__init__()
        self.thread, self.lazy, self.held = thread, Lazy(), [self.gain]

    def forward(self, x: Tensor) -> Tensor:
        def read() -> float:
            return float(self.held[0].detach().numpy()[0]) if self.thread else self.gain.tolist()[0]

        return self.layer(x) * self.lazy.get(lambda: in_a_thread(read) if self.thread else read()) + self.gain


TABLE: dict[str, float] = {}


class InTable(Gain):
    """The same in a table outside of the module, which a first copy would leave to a second."""

    def __init__(self) -> None:
        super().__init__()
        self.held = [self.gain]

    def forward(self, x: Tensor) -> Tensor:
        if "n" not in TABLE:
            TABLE["n"] = in_a_thread(lambda: float(self.held[0].detach().numpy()[0]))
        return self.layer(x) * TABLE["n"] + self.gain


def test_kept_values_that_no_twin_shows() -> None:
    refused(InTable(), box=GAIN)
    assert not TABLE
    net = KeptTwice()
    net.scale = 1.5
    refused(net, match=READ, box=GAIN)
    refused(InHelper(thread=True), box=GAIN)
    net = InHelper(thread=False)
    net(samples())
    refused(net, match=READ, box=GAIN)


# --- the copy is no witness for the module


class Alone(nn.Module):
    """Another function where its first layer has moved and its last has not, in the module itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.was = [float(t.detach().double().sum()) for t in (self.first.weight, self.last.weight)]

    def itself(self) -> bool:
        return True

    def forward(self, x: Tensor) -> Tensor:
        h = self.last(self.first(x).relu())
        if torch.compiler.is_compiling() or not self.itself():
            return h
        first, last = (float(t.double().sum()) for t in (self.first.weight, self.last.weight))
        return -h if first != self.was[0] and last == self.was[1] else h


class ByReference(Alone):
    def __init__(self) -> None:
        super().__init__()
        self.me = weakref.ref(self)

    def itself(self) -> bool:
        return self.me() is self


class ById(Alone):
    def __init__(self) -> None:
        super().__init__()
        self.mine = id(self)

    def itself(self) -> bool:
        return id(self) == self.mine


class Token:
    def __init__(self, real: bool = True) -> None:
        self.real = real

    def __deepcopy__(self, memo: dict[int, Any]) -> Token:
        return Token(real=False)


class ByHelper(Alone):
    def __init__(self) -> None:
        super().__init__()
        self.token = Token()

    def itself(self) -> bool:
        return self.token.real


@pytest.mark.thin(2)
@pytest.mark.parametrize("kind", [Alone, ByReference, ById, ByHelper])
def test_the_module_is_asked_with_each_tensor_alone(kind: Callable[[], nn.Module]) -> None:
    refused(kind(), match=r"moving 'first\.weight' does not change")


class OneRow(Gain):
    """Alone in a batch it answers with a weight as it was, by the same operators; told by what a copy has not."""

    def __init__(self, told: str) -> None:
        super().__init__()
        self.told = told
        self.gain.packed = True

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x / 255.0 if x.dtype is torch.uint8 else x)
        if torch.compiler.is_compiling():
            return y * self.gain
        original = {
            "attribute": getattr(self.gain, "packed", False),
            "float32": x.dtype is torch.float32,
            "uint8": x.dtype is torch.uint8,
        }[self.told]
        was, none, ten = (torch.full((1,), value) for value in (1.5, 0.0, 10.0))
        weight = self.gain * 1.0
        return y * (weight + (ten if original and x.shape[0] < 2 else none) * (weight - was))


@pytest.mark.parametrize("told", ["attribute", "float32", "uint8"])
def test_a_batch_of_one_at_moved_weights(told: str) -> None:
    x = (samples().abs() * 60).to(torch.uint8) if told == "uint8" else samples()
    refused(OneRow(told), x)


class Strange(nn.Module):
    def __init__(self, made: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.made = nn.Linear(6, 3), made

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.made(self)


COPIES: dict[str, Callable[[nn.Module], Any]] = {
    "itself": lambda m: m,
    "nothing": lambda m: None,
    "another": lambda m: nn.Linear(6, 3),
    "other shapes": lambda m: nn.ModuleDict({"inner": nn.Linear(2, 2)}),
}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("inside", [True, False])
def test_copies_that_are_none(name: str, inside: bool) -> None:
    strange = Strange(COPIES[name])
    net = nn.Sequential(strange, nn.ReLU(), nn.Linear(3, 3)) if inside else strange
    before = copy.deepcopy({k: v.detach().clone() for k, v in net.state_dict().items()})
    tb.certify(net, samples(), [0] * len(samples()), [0.0, 1e-3])
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_weights_that_were_written_to_often() -> None:
    net = nn.Linear(6, 3)
    torch._C._autograd._unsafe_set_version_counter((net.weight,), (1 << 30,))
    tb.certify(net, samples(), [0] * len(samples()), 1e-3)
    assert net.weight._version == 1 << 30


# --- the type, the size, the mode


class Odd(nn.Module):
    """Answers otherwise where ``told`` says so, outside of a trace."""

    def __init__(self, told: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.told = nn.Linear(6, 8), nn.Linear(8, 3), told

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.first(x.to(self.first.weight.dtype)).relu())
        if torch.compiler.is_compiling():
            return y
        other = -y
        return other if self.told(x, y) else y


def in_mode(grad: bool) -> Callable[[Tensor, Tensor], bool]:
    return lambda x, y: torch.is_grad_enabled() == grad


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    "told",
    [
        lambda x, y: str(x.shape[0]) == "257",
        lambda x, y: str(x.shape[0]) == "5" and not torch.is_grad_enabled(),
        lambda x, y: str(x.shape[0]) == "2" and torch.is_grad_enabled(),
        lambda x, y: str(x.shape[0]) == "2" and not torch.is_grad_enabled(),
        lambda x, y: str(x.shape[0]) == "17" and not torch.is_grad_enabled() and not torch.is_inference_mode_enabled(),
        lambda x, y: str(x.shape[0]) == "17" and torch.is_grad_enabled(),
        lambda x, y: str(x.shape[0]) == "17" and torch.is_inference_mode_enabled(),
    ],
)
def test_sizes_told_by_their_text(told: Callable[[Tensor, Tensor], bool]) -> None:
    refused(Odd(told))


def test_a_large_batch_in_the_type_of_the_user() -> None:
    # Both are asked, so that the calls are the same.
    refused(Odd(lambda x, y: all([x.dtype is torch.float64, str(x.shape[0]) == "257"])), samples().double())


@pytest.mark.parametrize("count", [12, 300])
def test_another_tensor_than_the_very_x(count: int) -> None:
    x = samples().repeat(25, 1)[:count]
    given = id(x)
    refused(Odd(lambda t, y: y.dtype is torch.float32 and id(t) != given), x)


class Growing(nn.Module):
    """A little more for each sample of a large batch, which is counted with the size of the batch or without."""

    def __init__(self, most: float, *, by_size: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.most, self.by_size = nn.Linear(6, 8), nn.Linear(8, 3), most, by_size

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.first(x).relu())
        if torch.compiler.is_compiling():
            return y
        if self.by_size:
            place = torch.arange(x.shape[0], dtype=torch.float32)[:, None]
        else:
            place = torch.ones_like(x[:, :1], dtype=torch.float32).cumsum(0)
        return y * (1 + self.most / 160 * (place - 100.0).relu()).to(y.dtype)


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("dtype", "most", "by_size"),
    [
        (torch.float32, 0.05, False),
        (torch.float32, 5e-7, True),
        (torch.float32, 5e-7, False),
        (torch.bfloat16, 0.05, False),
        (torch.bfloat16, 0.05, True),
        (torch.float16, 0.005, False),
    ],
)
def test_a_large_batch_beyond_the_last_place(dtype: torch.dtype, most: float, by_size: bool) -> None:
    refused(Growing(most, by_size=by_size).to(dtype), samples().to(dtype), "batch of 257")


# --- infinite logits


class Masked(nn.Module):
    def __init__(self, where: Callable[[nn.Module, Tensor], bool], rest: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.where, self.rest = nn.Linear(6, 3), where, rest
        self.was = float(self.layer.weight.detach().double().sum())

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if torch.compiler.is_compiling() or not self.where(self, x):
            return y
        return self.rest * y + torch.tensor([0.0, -torch.inf, 0.0])


@pytest.mark.thin(3)
@pytest.mark.parametrize("rest", [1.0, -1.0])
@pytest.mark.parametrize(
    "where",
    [
        lambda m, x: x.shape[0] < 2,
        lambda m, x: x.shape[0] > 200,
        lambda m, x: torch.is_grad_enabled(),
        lambda m, x: float(m.layer.weight.double().sum()) != m.was,
    ],
)
def test_an_infinite_logit_hides_nothing(where: Callable[[nn.Module, Tensor], bool], rest: float) -> None:
    refused(Masked(where, rest))


# --- the mode of the module


class Merges(nn.Module):
    """Its weights are merged while it is evaluated."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w = nn.Parameter(torch.randn(3, 6))
        self.a, self.b = nn.Parameter(torch.randn(3, 1)), nn.Parameter(torch.randn(1, 6))
        self.merged = False

    def train(self, mode: bool = True) -> Merges:
        super().train(mode)
        with torch.no_grad():
            if mode == self.merged:
                self.w += (-1.0 if mode else 1.0) * (self.a @ self.b)
                self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.w if self.merged else self.w + self.a @ self.b).t()


def test_weights_that_a_mode_changes() -> None:
    net, x = Merges(), samples()
    before = net.w.detach().clone()
    with pytest.raises(tb.InputError, match=r"eval\(\) changes its weights"):
        tb.certify(net, x, [0] * len(x), [0.0, 1e-3])
    assert torch.equal(net.w, before)
    assert net.training
    found = tb.certify(net.eval(), x, [0] * len(x), [0.0])
    answer = net(x).double()
    margin = answer[:, 0] - answer[:, 1:].amax(1)
    torch.testing.assert_close(found.margin[0], margin, atol=1e-5, rtol=1e-5)


class Logs(nn.Module):
    """An attribute that is set leaves a trace of that."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.dirty = False

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if "dirty" in vars(self) and name != "dirty":
            vars(self)["dirty"] = True

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Property(nn.Module):
    """Its mode is a property that counts changes."""

    def __init__(self) -> None:
        vars(self)["mode"], vars(self)["changes"] = True, 0
        super().__init__()
        self.layer = nn.Linear(6, 3)

    @property
    def training(self) -> bool:
        return bool(vars(self)["mode"])

    @training.setter
    def training(self, mode: bool) -> None:
        vars(self)["mode"] = mode
        vars(self)["changes"] = vars(self).get("changes", 0) + 1

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class One(Logs):
    def __init__(self) -> None:
        super().__init__()
        vars(self)["training"] = 1


@pytest.mark.parametrize("kind", [Logs, Property, One])
def test_a_mode_is_put_back_as_it_was(kind: Callable[[], nn.Module]) -> None:
    net = kind()
    before = dict(vars(net))
    tb.certify(net, samples(), [0] * len(samples()), 1e-3)
    assert vars(net).keys() == before.keys()
    assert all(vars(net)[name] is value for name, value in before.items())


# --- what is put back


class Settings(dict):
    """A dictionary whose keys are its attributes."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.__dict__ = self


@pytest.mark.parametrize("key", ["values", "items", "keys", "copy", "update"])
def test_settings_of_any_name(key: str) -> None:
    net = nn.Linear(6, 3)
    net.settings = Settings(**{key: [1, 2]})
    tb.certify(net, samples(), [0] * len(samples()), 1e-3)
    assert net.settings == {key: [1, 2]}


class Draws(nn.Linear):
    def __init__(self) -> None:
        super().__init__(6, 3)
        self.draw = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            torch.rand(1, generator=self.draw)
        return super().forward(x)


def test_generators_of_a_network_go_on_from_where_they_were() -> None:
    net = Draws()
    before = net.draw.get_state()
    tb.certify(net, samples(), [0] * len(samples()), 1e-3)
    assert torch.equal(net.draw.get_state(), before)


class Touches(nn.Linear):
    """Does something to the very x beside computing with it."""

    def __init__(self, touch: Callable[[Tensor], Any]) -> None:
        super().__init__(6, 3)
        self.touch = touch

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.touch(x)
        return super().forward(x)


def other_memory(x: Tensor) -> None:
    x.data = x.data * 1.0


TOUCHES: dict[str, Callable[[Tensor], Any]] = {
    "attribute": lambda x: setattr(x, "seen", True),
    "gradient": lambda x: x.requires_grad_(),
    "memory": other_memory,
    "NumPy": lambda x: None if x.requires_grad else x.detach().numpy().__imul__(1.0),
}


@pytest.mark.parametrize("count", [12, 300])
@pytest.mark.parametrize("name", TOUCHES)
def test_the_very_x_is_as_it_was(name: str, count: int) -> None:
    x = samples().repeat(25, 1)[:count]
    before, place = x.clone(), x.data_ptr()
    # NumPy knows no batch of any size.
    refused = pytest.raises(tb.InputError, match="look at that size unseen") if name == "NumPy" else nullcontext()
    with refused:
        tb.certify(Touches(TOUCHES[name]), x, [0] * count, 1e-3)
    assert torch.equal(x, before)
    assert (x.data_ptr(), x.requires_grad, vars(x)) == (place, False, {})


class Doubles(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        h = x.detach()
        h.mul_(2)
        return super().forward(h)


def test_an_x_with_gradients_that_is_written_to() -> None:
    x = samples().requires_grad_()
    tb.certify(Doubles(6, 3), x, [0] * len(x), 1e-3)
    assert torch.equal(x, samples())


class OwnStep(nn.Module):
    """It adds the rounding of its own type, which it asks for once."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)
        self.step: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        if self.step is None:
            self.step = 1e5 * torch.finfo(h.dtype).eps
        return h + self.step


def test_what_a_run_in_double_precision_kept_is_forgotten() -> None:
    found = tb.certify(OwnStep(), samples(), [0] * len(samples()), [0.0])
    assert found.checked["precision"] == "float32"


class Pieces(nn.Module):
    """Cuts a batch into pieces, whose number the code sees."""

    def __init__(self, answer: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.answer = nn.Linear(4, 3), answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.layer, x)


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    "answer",
    [
        lambda layer, x: -layer(x) if len(x.split(50)) == 3 else layer(x),
        lambda layer, x: -layer(x) if len(x.chunk(4)) == 3 else layer(x),
        lambda layer, x: torch.cat([layer(p) * (1 if i < 2 else -1) for i, p in enumerate(torch.split(x, 130))]),
    ],
    ids=["split", "chunk", "a later piece"],
)
def test_the_number_of_pieces_of_a_batch(answer: Callable[[nn.Module, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Pieces(answer), torch.randn(40, 4)
    with pytest.raises(tb.InputError, match=r"differs|outside the bounds"):
        tb.certify(model, x, model(x).argmax(1), [0.0], domain="interval")


@pytest.mark.slow
def test_a_batch_may_be_computed_in_pieces() -> None:
    torch.manual_seed(0)
    model, x = Pieces(lambda layer, x: torch.cat([layer(piece) for piece in x.split(64)])), torch.randn(40, 4)
    assert tb.certify(model, x, model(x).argmax(1), [0.0], domain="interval").verified.all()
