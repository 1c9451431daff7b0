"""What shows at other weights alone: a network that is its trace at its own, in some mode or for some inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thetabox as tb
from tests.verify.agreement.networks import samples
from thetabox.models.running import Running

ANOTHER = "is not the function that would be bounded"


class Amplified(nn.Module):
    """Moves a thousand times as far as its weight does, where something holds; at its own weights the plain layer."""

    def __init__(self, when: Callable[[Any], bool]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.when, self.layer = when, nn.Linear(6, 3)
        self.register_buffer("own", self.layer.weight.detach().clone())

    def forward(self, x: Any) -> Tensor:
        w = self.layer.weight
        w = w + 1000 * (w - self.own) if self.when(x) else w
        return F.linear(x if isinstance(x, Tensor) else torch.as_tensor(x), w, self.layer.bias)


WHEN: dict[str, tuple[Callable[[Any], bool], Callable[[Tensor], Any]]] = {
    "in inference mode": (lambda x: torch.is_inference_mode_enabled(), lambda x: x),
    "with gradients": (lambda x: torch.is_grad_enabled() and not torch.compiler.is_exporting(), lambda x: x),
    "a size by its text": (lambda x: str(x.shape[0]) == "5", lambda x: x),
    "an array": (lambda x: not isinstance(x, Tensor), lambda x: x.numpy()),
    "x with gradients": (lambda x: x.requires_grad, lambda x: x.requires_grad_()),
    "a view": (lambda x: x._is_view(), lambda x: torch.cat([x, x])[: len(x)]),
    "much memory": (lambda x: x.untyped_storage().nbytes() > 1000, lambda x: torch.cat([x] * 9)[: len(x)]),
}


@pytest.mark.parametrize("name", WHEN)
def test_refused(name: str) -> None:
    when, make = WHEN[name]
    with pytest.raises(tb.InputError, match=ANOTHER):
        tb.certify(Amplified(when), make(samples()), [0] * 12, 1e-6)


def test_under_a_cast() -> None:
    net = Amplified(lambda x: torch.is_autocast_enabled("cpu"))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(tb.InputError, match=r"under torch\.autocast"):
        tb.certify(net, samples(), [0] * 12, 1e-6)


def test_another_tensor_in_another_mode() -> None:
    """The same calls of torch on another buffer, which the first samples do not show."""

    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(6, 3)
            self.register_buffer("a", torch.ones(6))
            self.register_buffer("b", torch.tensor([1.0] * 5 + [-1.0]))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x * (self.b if torch.is_inference_mode_enabled() else self.a))

    x = samples()
    x[:10, 5] = 0.0
    with pytest.raises(tb.InputError, match=ANOTHER):
        tb.certify(Chosen(), x, [0] * 12, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("least", [64, pytest.param(1024, marks=pytest.mark.long)])
def test_a_way_for_each_power_of_two(least: int) -> None:
    class Buckets(Amplified):
        def forward(self, x: Any) -> Tensor:
            size = 1
            while not torch.compiler.is_compiling() and size < x.shape[0]:
                size *= 2
            return self.layer(-x if size >= least else x)

    with pytest.raises(tb.InputError, match=ANOTHER):
        tb.certify(Buckets(lambda x: False), samples(), [0] * 12, 1e-6)


@pytest.mark.long
def test_ways_without_end() -> None:
    class Steps(Amplified):
        def forward(self, x: Any) -> Tensor:
            size = 0
            while not torch.compiler.is_compiling() and size < x.shape[0]:
                size += 3
            return self.layer(x)

    with pytest.raises(tb.InputError, match=r"takes more than .* ways by the size of the batch"):
        tb.certify(Steps(lambda x: False), samples(), [0] * 12, 1e-6)


HONEST: dict[str, Callable[[Tensor, nn.Linear], Tensor]] = {
    "gradients off and on": lambda x, layer: _without_gradients(layer(x)),
    "zeros of its type": lambda x, layer: layer(x) + torch.zeros(x.shape[0], 3, dtype=x.dtype),
    "filled": lambda x, layer: layer(x) + torch.full((x.shape[0], 3), 0.5),
    "turned twice": lambda x, layer: layer(x.T.T),
}


def _without_gradients(answer: Tensor) -> Tensor:
    with torch.no_grad():
        return answer + answer.detach() * 0.0


@pytest.mark.parametrize("name", HONEST)
def test_honest_code_is_asked_for_few_samples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Net(Amplified):
        def forward(self, x: Any) -> Tensor:
            return HONEST[name](x, self.layer)

    def counted(self: Running, x: Tensor, mode: str = "no_grad") -> Tensor:
        calls.append(len(x))
        return once(self, x, mode)

    calls: list[int] = []
    once = Running.logits
    monkeypatch.setattr(Running, "logits", counted)
    net, x = Net(lambda x: False), torch.randn(300, 6)
    y = net(x).argmax(1)
    assert tb.certify(net, x, y, 1e-9).verified.all()
    assert calls.count(1) + calls.count(2) < 60


def test_a_value_that_grows_with_the_batch_is_no_size() -> None:
    net = Amplified(lambda x: False)
    net.layer.bias = None  # with one, silent samples would show it
    net.forward = lambda x: net.layer(x) * torch.full((3,), 2 if x.shape[0] == 1 else 24) / 24
    x = samples()
    x[:2] = 0.0
    with pytest.raises(tb.InputError, match=ANOTHER):
        tb.certify(net, x, [0] * 12, 1e-6)


def test_constant_rows_in_the_type_of_the_input() -> None:
    """Their logits are nothing but rounding, of which bounds in real numbers know nothing."""

    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(6, 30, bias=False), nn.Linear(30, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x - x.mean(1, keepdim=True))
            return self.second((h + torch.zeros(x.shape[0], 30, dtype=x.dtype)).relu())

    net, x = Centred(), samples()
    x[1], x[3] = 0.3, 0.7
    y = net(x).argmax(1)
    assert tb.certify(net, x, y, 1e-5).verified.sum() >= 10


def test_channels_last_of_one_channel() -> None:
    """Contiguous by torch's own word, with strides of another layout."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    x = torch.from_numpy(np.random.default_rng(0).random((5, 6, 6, 1), np.float32)).permute(0, 3, 1, 2)
    assert x.is_contiguous()
    assert tb.certify(net, x, net(x).argmax(1), 1e-6).verified.all()


def test_a_table_of_a_run_in_inference_mode() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.table = nn.Linear(6, 3), None

        def forward(self, x: Tensor) -> Tensor:
            if self.table is None:
                self.table = torch.linspace(0, 1, 6)
            return self.layer(x + self.table)

    net, x = Lazy(), samples()
    with torch.inference_mode():
        y = net(x).argmax(1)
    assert tb.certify(net, x, y.clone(), 1e-6).verified.all()


def test_generators_go_on_from_where_they_were() -> None:
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            torch.rand(3)
            return self.layer(x)

    net, x = Drawing(), samples()
    before = torch.get_rng_state()
    tb.certify(net, x, [0] * 12, 1e-6)
    assert torch.equal(torch.get_rng_state(), before)
