"""Networks given to ``torch.compile``: what was made of them is compared, and nothing more is made."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify.agreement.networks import samples
from thetabox.models.running import MODES


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Torch gives a layer up, compiled too often, and all tests compile the same ones."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Own(nn.Module):
    """A layer in a module of one's own."""

    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3) if layer is None else layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu()


class Backend:
    """A compiler that changes results, and counts what it compiles."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda y: y) -> None:
        self.change, self.compiled = change, 0

    def __call__(self, graph: Any, _: Any) -> Callable[..., Any]:
        self.compiled += 1
        return lambda *inputs: [self.change(y) for y in graph.forward(*inputs)]


def in_place(backend: Backend) -> nn.Module:
    net = Own()
    net.compile(backend=backend)
    return net


WAYS: dict[str, Callable[[Backend], nn.Module]] = {
    "a network": lambda backend: torch.compile(Own(), backend=backend),
    "in place": in_place,
    "a part": lambda backend: Own(torch.compile(nn.Linear(6, 3), backend=backend)),
}


def compiled(
    way: str, change: Callable[[Tensor], Tensor], mode: str = "no_grad", *, there: bool = False
) -> tuple[nn.Module, list[int]]:
    """A network that was called once, so that it is compiled, and what its own code answers.

    Args:
        way: how it is compiled.
        change: what the compiler does to results.
        mode: of torch, in the call.
        there: whether the inputs were made in that mode too.
    """
    backend = Backend(change)
    torch.manual_seed(0)
    net = WAYS[way](backend).eval()
    with torch.compiler.set_stance("force_eager"):
        y = net(samples()).argmax(1).tolist()
    x = None if there else samples()
    with MODES[mode]():
        net(samples() if x is None else x)
    assert backend.compiled == 1
    return net, y


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_a_compiler_that_is_wrong(way: str, mode: str, there: bool) -> None:
    net, y = compiled(way, lambda out: 1.01 * out, mode, there=there)
    with pytest.raises(tb.InputError, match=r"torch\.compile made of it returns for sample \d+ what lies outside"):
        tb.certify(net, samples(), y, 1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_a_compiler_that_sums_in_another_order(way: str) -> None:
    net, y = compiled(way, lambda out: out * (1.0 + 2.0**-22))
    assert tb.certify(net, samples(), y, 1e-6).verified.any()


class Two(Own):
    """Of two inputs."""

    def forward(self, x: Tensor, more: Tensor) -> Tensor:
        return super().forward(x) + more


class Shares(Own):
    """Of which the answer is read."""

    def forward(self, x: Tensor) -> Any:
        return {"p": super().forward(x).softmax(1)}


IN_OTHER_FORMS: dict[str, tuple[type[Own], Any]] = {
    "several inputs": (Two, (samples(), samples()[:, :3])),
    "several by name": (Two, {"x": samples(), "more": samples()[:, :3].clone()}),
    "another answer": (Shares, samples()),
}


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", IN_OTHER_FORMS)
def test_what_stands_beside_the_network_is_what_was_compiled(form: str, way: str, wrong: bool) -> None:
    torch.manual_seed(0)
    kind, x = IN_OTHER_FORMS[form]
    net, backend = kind().eval(), Backend(lambda out: 1.01 * out if wrong else out)
    arguments: Any = x if isinstance(x, tuple) else () if isinstance(x, dict) else (x,)
    names: Any = x if isinstance(x, dict) else {}
    whole = net(*arguments, **names)
    y = (whole["p"] if isinstance(whole, dict) else whole).argmax(1)
    if way == "in place":
        net.compile(backend=backend)
    elif way == "a network":
        net = torch.compile(net, backend=backend)
    else:
        net.layer = torch.compile(net.layer, backend=backend)
    with torch.no_grad():
        net(*arguments, **names)
    compiled_before = backend.compiled
    assert compiled_before
    if wrong:
        with pytest.raises(tb.InputError, match=r"torch\.compile made of it returns for sample \d+ what lies outside"):
            tb.certify(net, x, y, 1e-6)
    else:
        assert tb.certify(net, x, y, 1e-6).verified.any()
    assert backend.compiled == compiled_before


def test_what_was_not_compiled_yet_is_not_compiled_here() -> None:
    backend = Backend(torch.neg)
    net = torch.compile(Own(), backend=backend)
    tb.certify(net, samples(), [0] * 12, 1e-6)
    assert backend.compiled == 0


def test_nothing_is_compiled_here_and_everything_afterwards() -> None:
    """Torch compiles a layer's code for eight shapes and modes, and then gives it up in the whole process."""
    backend = Backend()
    x, net = samples(), torch.compile(nn.Linear(6, 3), backend=backend)
    y = net(x).argmax(1)
    tb.certify(net, x, y, 1e-3)
    tb.attack(net, x, y, 1e-2, steps=2, restarts=1)
    tb.mismatch(net, x, y)
    tb.certified_radius(net, x, y)
    assert backend.compiled == 1
    net(x.repeat(2, 1).requires_grad_())
    assert backend.compiled == 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile writes C++, for which there is no compiler here")
def test_a_network_that_is_compiled_to_machine_code() -> None:
    x, net = samples(), torch.compile(nn.Linear(6, 3))
    assert tb.certify(net, x, net(x).argmax(1), [0.0, 1e-7]).verified.all()
