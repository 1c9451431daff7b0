"""Modules as people have them: pruned, parametrised, compiled, writing to their inputs, keeping what they computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

import thetabox as tb
from tests.verify.contract import Case, RuleContract

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # the older weight and spectral norm are meant
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # so is torch.jit
]

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


class Wrapped(nn.Module):
    """The network behind a function of its own."""

    def __init__(self, call: Callable[[Wrapped, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.call = network(), call
        self.kept: Any = None

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


class Absolute(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.abs()


class Grid(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return torch.round(w * 16) / 16


def changed(change: Callable[[nn.Sequential], Any]) -> nn.Module:
    net = network()
    made = change(net)
    return made if isinstance(made, nn.Module) and made is not net[0] else net


def subtracting(m: Wrapped, x: Tensor) -> Tensor:
    x -= 0.5
    return m.net(x.div_(2))


def writing(m: Wrapped, x: Tensor) -> Tensor:
    x[:, 0] = 0
    return m.net(x)


def keeping(m: Wrapped, x: Tensor) -> Tensor:
    m.kept = m.net[0](x)
    return m.net[2](m.kept.relu())


CERTIFIED = {
    "pruned": lambda: changed(lambda n: prune.l1_unstructured(n[0], "weight", amount=0.5)),
    "pruned in rows": lambda: changed(lambda n: prune.ln_structured(n[0], "weight", 0.5, n=2, dim=0)),
    "pruned for good": lambda: changed(lambda n: prune.remove(prune.random_unstructured(n[0], "weight", 3), "weight")),
    "weight norm": lambda: changed(lambda n: parametrizations.weight_norm(n[0])),
    "weight norm as before": lambda: changed(lambda n: nn.utils.weight_norm(n[0])),
    "spectral norm": lambda: changed(lambda n: parametrizations.spectral_norm(n[0])).eval(),
    "spectral norm as before": lambda: changed(lambda n: nn.utils.spectral_norm(n[0])).eval(),
    "parametrised": lambda: changed(lambda n: parametrize.register_parametrization(n[0], "weight", Absolute())),
    "first layer in place": lambda: nn.Sequential(nn.ReLU(inplace=True), *network()),
    "arithmetic in place": lambda: Wrapped(subtracting),
    "writing to x": lambda: Wrapped(writing),
    "keeps an activation": lambda: Wrapped(keeping),
    "checkpointed": lambda: Wrapped(lambda m, x: checkpoint(m.net, x, use_reentrant=False)),
    "data parallel": lambda: nn.DataParallel(network()),
    "traced": lambda: torch.jit.trace(network(), X),
    "double": lambda: network().double(),
    "half": lambda: network().half(),
    "bfloat16": lambda: network().bfloat16(),
}


@pytest.mark.thin(2, quick=3)
@pytest.mark.parametrize("make", CERTIFIED.values(), ids=CERTIFIED.keys())
def test_certified(make: Callable[[], nn.Module]) -> None:
    model = make()
    dtype = next(p.dtype for p in model.parameters())
    x = X.to(dtype)
    before = x.clone()
    with torch.no_grad():
        y = model(x.clone()).argmax(1)
    names, hooks = list(dict(model.named_parameters())), list(model._forward_pre_hooks)
    found = tb.certify(model, x, y, [0.0, 1e-4])
    assert found.verified[0].all()
    assert found.model_info["perturbed"] == found.model_info["parameters"]
    assert torch.equal(x, before)
    assert list(dict(model.named_parameters())) == names
    assert list(model._forward_pre_hooks) == hooks
    with torch.no_grad():
        assert torch.equal(model(x.clone()).argmax(1), y)
    lowest = tb.logit_bounds(model, x, 0.05)
    assert (lowest.lower <= lowest.upper).all()


def test_weights_on_a_grid_are_bounded_by_what_they_may_become() -> None:
    """Rounding to a grid jumps: a box that holds a jump holds both sides of it."""
    model = changed(lambda n: parametrize.register_parametrization(n[0], "weight", Grid()))
    bounds = tb.logit_bounds(model, X, 0.05)
    original = model[0].parametrizations.weight.original  # type: ignore[union-attr, index]  # a parametrised layer
    random = torch.Generator().manual_seed(3)
    for _ in range(20):
        noise = torch.rand(original.shape, generator=random) * 2 - 1
        with torch.no_grad():
            weight = torch.round(original * (1 + 0.0499 * noise) * 16) / 16
            hidden = torch.nn.functional.linear(X, weight, model[0].bias).relu()  # type: ignore[index]  # a sequence of layers
            answer = model[2](hidden).double()  # type: ignore[index, operator]  # a sequence of layers
        assert (answer >= bounds.lower - 1e-6).all()
        assert (answer <= bounds.upper + 1e-6).all()


def state(m: Wrapped, x: Tensor) -> Tensor:
    h = m.net[0](x)
    m.kept = h if m.kept is None or len(m.kept) != len(h) else m.kept * 0.5 + h
    return m.net[2](m.kept.relu())


class Buffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.register_buffer("h", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.net[0](x) + self.h
        self.h = h.mean(0).detach()
        return self.net[2](h.relu())


REFUSED = {
    "a state in a buffer": (Buffer, "writes to 'h' and reads it"),
    "statistics of the batch": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)),
        "mixes",
    ),
    "a script": (lambda: torch.jit.script(network()), "scripted modules"),
    "a script inside": (lambda: nn.Sequential(torch.jit.script(nn.Linear(4, 4)), nn.Linear(4, 3)), "^0 is scripted"),
    "dropout that is on": (lambda: Wrapped(lambda m, x: m.net(F.dropout(x, 0.5))), "it draws at random"),
    "draws in front of a softmax": (lambda: Wrapped(lambda m, x: F.gumbel_softmax(m.net(x))), "in every call"),
    "control flow by values": (
        lambda: Wrapped(lambda m, x: torch.cond(x.sum() > 0, lambda v: m.net(v), lambda v: -m.net(v), (x,))),
        "calls torch's cond in test_as_people_have_them.py",
    ),
    "a size that it computes": (
        lambda: Wrapped(lambda m, x: m.net(x) + len(torch.unique(x > 0))),
        "branches on numbers that it computes",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_in_one_line(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(tb.InputError, match=message) as caught:
        tb.certify(make().eval(), X, torch.zeros(6).long(), 0.1)
    assert "\n" not in str(caught.value)


def test_a_state_between_calls_is_no_function() -> None:
    """Certified as neither its first call answers nor a later one."""
    model = Wrapped(state)
    with pytest.raises(tb.InputError, match="counts its calls"):
        tb.certify(model, X, torch.zeros(6).long(), 0.1)
    assert model.kept is None


SURROGATES = {
    "of the layer": (lambda m, x: m.net[2]((m.net[0](x) > 0).float()), "layer 'net.2' \\(Linear\\)"),
    "of a product": (lambda m, x: (m.net[0](x) > 0).float() @ m.net[2].weight.T, "test_as_people_have_them.py:"),
}


@pytest.mark.thin(2)
@pytest.mark.parametrize(("call", "place"), SURROGATES.values(), ids=SURROGATES.keys())
@pytest.mark.parametrize("use", [tb.certify, tb.attack, tb.mismatch])
def test_a_surrogate_in_another_precision(call: Any, place: str, use: Any) -> None:
    model = Wrapped(call).double()
    with pytest.raises(tb.InputError, match=place) as caught:
        use(model, X.double(), torch.zeros(6).long(), [0.1])
    assert "write (u > 0).to(u.dtype)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.thin(5)
@pytest.mark.parametrize(
    ("model", "x", "place"),
    [
        (network(), torch.randn(6, 7), r"shape \[7\] in layer '0' \(Linear\)"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), torch.randn(6, 16), r"layer '0' \(Conv2d\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 3)), torch.randn(6, 1, 4, 4), r"layer '1' \(Linear\)"),
        # Of which torch also logs a traceback where there are no numbers.
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), torch.randn(6, 2, 1, 1), r"shape \[2, 1, 1\]"),
    ],
)
@pytest.mark.parametrize("use", [tb.certify, tb.attack, tb.mismatch, tb.logit_bounds, tb.inspect, tb.certified_radius])
def test_a_wrong_shape(model: nn.Module, x: Tensor, place: str, use: Any, capfd: pytest.CaptureFixture[str]) -> None:
    y = torch.zeros(6).long()
    arguments = {tb.logit_bounds: (0.1,), tb.inspect: (), tb.certified_radius: (y,)}.get(use, (y, [0.1]))
    with pytest.raises(tb.InputError, match=place) as caught:
        use(model, x, *arguments)
    assert "give x of the shape" in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def zeroed(h: Tensor, g: Tensor) -> Tensor:
    h = h.clone()
    h[:, 0] = 0
    return h + g


def filled(h: Tensor, g: Tensor) -> Tensor:
    h = h.clone()
    h[:, 1] = 0.25  # a trace holds the number in float32
    h[:, 2] = g[:, 0]
    return h


class TestWrittenTo(RuleContract):
    cases: ClassVar = {
        "zero in a column": Case(zeroed),
        "a number in a column, a value in another": Case(filled),
        "fill": Case(lambda h, g: h.clone().fill_(0.3) + g),
    }
