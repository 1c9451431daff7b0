"""Copies of networks compute what the networks do, whatever torch makes of them when it copies them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import symbolic_trace

import thetabox as tb
from thetabox.deep_copy import deep_copy
from thetabox.workers.pickled import pickled, unpickled

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def exported() -> nn.Module:
    return torch.export.export(plain(), (X[:2],), dynamic_shapes=({0: torch.export.Dim("n")},)).module()


def inside(make: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(make())


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "compiled": lambda: torch.compile(plain()),
    "graph": lambda: symbolic_trace(plain()),
    "exported": exported,
    "a part compiled": lambda: inside(lambda: torch.compile(plain())),
    "a part a graph": lambda: inside(lambda: symbolic_trace(plain())),
}


def after(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output * module.factor


def always(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return after(module, inputs, output)


def before(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0] * module.factor,)


def before_with(module: nn.Module, inputs: tuple[Tensor], named: dict[str, Any]) -> tuple[tuple[Tensor], Any]:
    return before(module, inputs), named


def with_hooks(name: str, hook: Callable[..., Any]) -> nn.Module:
    model = NETWORKS[name]()
    one = model[0] if name.startswith("a part") else model
    one.factor = -3.0
    if hook in (after, always):
        one.register_forward_hook(hook, always_call=hook is always)
    else:
        one.register_forward_pre_hook(hook, with_kwargs=hook is before_with)
    return model


@pytest.mark.parametrize("hook", [after, always, before, before_with])
@pytest.mark.parametrize("name", NETWORKS)
def test_copies_call_the_hooks(name: str, hook: Callable[..., Any]) -> None:
    model = with_hooks(name, hook)
    copies = [deep_copy(model)]
    if name != "exported":  # it cannot be pickled, with or without hooks
        copies.append(unpickled(pickled(model)))
    with torch.no_grad():
        expected = model(X)
        assert not torch.allclose(expected, plain()(X))
        for one in copies:
            torch.testing.assert_close(one(X), expected)
        # They are copies: what is done to one of them changes nothing else.
        for one in copies:
            for parameter in one.parameters():
                parameter.zero_()
        torch.testing.assert_close(model(X), expected)


def turned_round(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """A network whose hook turns its logits round, one that is written so, and the labels of both."""
    expected = plain().append(Times(-3.0))
    return with_hooks(name, after), expected, expected(X).argmax(1)


@pytest.mark.parametrize("name", NETWORKS)
def test_measurements_are_those_of_the_network_with_its_hooks(name: str) -> None:
    """A copy without the hook gets nearly everything wrong."""
    model, expected, y = turned_round(name)
    for measure in (
        lambda one: tb.attack(one, X, y, [0.05], seed=0).accuracy,
        lambda one: tb.mismatch(one, X, y, [0.01], samples=4, seed=0).accuracy,
        lambda one: tb.sampled_yield(one, X, y, [0.01], draws=459, seed=0).correct,
        lambda one: tb.pcm(one, X, y, samples=2, seed=0).accuracy,
    ):
        assert measure(model).double().mean() == pytest.approx(float(measure(expected).double().mean()), rel=0.1)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_certified_is_the_network_with_its_hooks(name: str) -> None:
    model, expected, y = turned_round(name)
    radii = tb.certified_radius(model, X, y)
    torch.testing.assert_close(radii, tb.certified_radius(expected, X, y))
    assert bool((radii > 0.0).all())
    proven = tb.certify_yield(model, X, y, [0.01]).delta
    torch.testing.assert_close(proven, tb.certify_yield(expected, X, y, [0.01]).delta, rtol=1e-6, atol=0.0)


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Deep(nn.Sequential):
    """Its copies are of another class."""

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return nn.Sequential(*(copy.deepcopy(one, memo) for one in self))

    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


class Pickled(nn.Sequential):
    """Its pickles forget the sign, and its copies do not."""

    sign = 1.0

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        copied = type(self)(*(copy.deepcopy(one, memo) for one in self))
        copied.sign = self.sign
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "sign"}

    def forward(self, x: Tensor) -> Tensor:
        return self.sign * super().forward(x)


def forward_of_its_own(make: Callable[[], nn.Module]) -> nn.Module:
    model = make()
    forward = model.forward
    model.forward = lambda x: -forward(x)
    return model


def measurements(model: nn.Module, y: Tensor, executor: Any = None) -> Iterator[Callable[[], Any]]:
    yield lambda: tb.mismatch(model, X, y, [0.01], samples=2, executor=executor)
    yield lambda: tb.sampled_yield(model, X, y, [0.01], executor=executor)
    yield lambda: tb.pcm(model, X, y, samples=2, executor=executor)
    yield lambda: tb.attack(model, X, y, [0.05], executor=executor)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Deep(*plain()),
        lambda: forward_of_its_own(NETWORKS["graph"]),
        lambda: forward_of_its_own(NETWORKS["compiled"]),
        lambda: forward_of_its_own(NETWORKS["exported"]),
    ],
)
def test_what_copies_do_not_compute_is_not_measured(make: Callable[[], nn.Module]) -> None:
    model = make()
    for measure in measurements(model, plain()(X).argmin(1)):
        with pytest.raises(tb.InputError, match="returns other logits than the network itself"):
            measure()


def test_what_pickles_do_not_compute_is_not_measured_by_workers() -> None:
    model = Pickled(*plain()).eval()
    model.sign = -1.0
    y = plain()(X).argmin(1)
    assert float(tb.mismatch(model, X, y, [0.01], samples=2).accuracy.mean()) > 0.8
    for measure in measurements(model, y, ThreadPoolExecutor(1)):
        with pytest.raises(tb.InputError, match="returns other logits than the network itself"):
            measure()


def test_a_forward_of_a_plain_object_is_measured() -> None:
    model = forward_of_its_own(plain)
    assert float(tb.mismatch(model, X, plain()(X).argmin(1), [0.01], samples=2).accuracy.mean()) > 0.8


def test_a_copy_that_lacks_what_has_hooks_is_refused() -> None:
    class Forgetful(nn.Sequential):
        def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
            return nn.Sequential(copy.deepcopy(self[0], memo))

    model = Forgetful(nn.Linear(4, 3), nn.ReLU())
    assert len(deep_copy(model)) == 1
    model[1].factor = -3.0
    model[1].register_forward_hook(after)
    with pytest.raises(tb.InputError, match=r"^the network cannot be copied: the copy has no '1', which has hooks"):
        tb.mismatch(model, X, torch.zeros(len(X), dtype=torch.int64), [0.1], samples=1)
