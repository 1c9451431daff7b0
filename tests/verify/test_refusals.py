"""Refused by name: unknown operators and mixed samples. Nothing stale is served, and models stay as they were."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thetabox as tb


class Wrapped(nn.Module):
    """A linear layer and then any function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(4, 4)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.inner(x))


X = torch.linspace(-1, 1, 12).view(3, 4)


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize(
    "function",
    [
        lambda h: h + h.mean(0),
        lambda h: h - h[0],
        lambda h: h * h.sum(),
        lambda h: torch.softmax(h, 0),
        lambda h: h.t() @ h,
        lambda h: h @ h.t(),
        lambda h: h.flip(0),
        lambda h: h.roll(1, 0),
        lambda h: torch.cat([h, h]),
        lambda h: h[:2],
        lambda h: h[1:],
        lambda h: h.view(4, -1),
        lambda h: h.reshape(2, -1, 2).transpose(0, 1).reshape(-1, 4),
        lambda h: h.t().reshape(-1, 4),
        lambda h: h.unsqueeze(0).flatten(1),
        lambda h: F.batch_norm(h, None, None, training=True),
        lambda h: h.cumsum(0),
        lambda h: h.max(0).values + h,
        lambda h: h * h.shape[0],
        lambda h: h / h.shape[0],
        lambda h: h + h.shape[0],
        lambda h: h - torch.arange(h.shape[0])[:, None],
        lambda h: h + h.view(-1, 1, 4)[:, 0][torch.tensor([0, 0, 0])],
    ],
)
def test_mixing_samples_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(tb.InputError) as caught:
        tb.logit_bounds(Wrapped(function), X, 0.1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["always training", "no statistics"])
def test_batch_norm_of_the_batch_is_refused(kind: str) -> None:
    norm = nn.BatchNorm1d(4, track_running_stats=kind != "no statistics")
    model = Wrapped(lambda h: F.batch_norm(h, norm.running_mean, norm.running_var, training=True))
    with pytest.raises(tb.InputError):
        tb.logit_bounds(nn.Sequential(nn.Linear(4, 4), norm) if kind == "no statistics" else model, X, 0.0)


def test_positions_merged_and_apart_again() -> None:
    """[N, T, F] -> [N T, F] -> [N, T, F]: every sample keeps its own values and its own ε."""
    model = Wrapped(lambda h: h.view(-1, 2).tanh().mul(torch.tensor([2.0, -1.0])).view(-1, 2, 2).mean(1))
    together = tb.logit_bounds(model, X, [0.0, 0.1])
    for n in range(3):
        alone = tb.logit_bounds(model, X[n : n + 1], [0.0, 0.1])
        torch.testing.assert_close(together.lower[:, n], alone.lower[:, 0], rtol=1e-12, atol=1e-12)
    mixed = tb.logit_bounds(model, X, torch.tensor([0.1, 0.0, 0.1], dtype=torch.float64))
    torch.testing.assert_close(mixed.upper[0], together.upper[1, 0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mixed.upper[1], together.upper[0, 1], rtol=1e-12, atol=1e-12)


def test_answers_of_positions_are_no_logits() -> None:
    with pytest.raises(tb.InputError, match="logits"):
        tb.logit_bounds(Wrapped(lambda h: h.reshape(-1, 2)), X, 0.0)
    with pytest.raises(tb.InputError):
        tb.certify(Wrapped(lambda h: h.reshape(-1, 2)), X, torch.zeros(3, dtype=torch.int64), 0.0)


def test_several_answers_are_refused() -> None:
    with pytest.raises(tb.InputError, match="which of these are the logits is open"):
        tb.logit_bounds(Wrapped(lambda h: {"one": h, "two": h}), X, 0.0)


def test_unknown_operator_is_named_with_its_place() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.RReLU()))
    with pytest.raises(tb.UnsupportedOperator, match=r"rrelu.* at 1\.0") as caught:
        tb.certify(model, X, torch.zeros(3, dtype=torch.int64), 0.0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "function",
    [
        lambda h: F.dropout(h),
        lambda h: h.to(torch.bfloat16).to(h.dtype),
        lambda h: h.half().to(h.dtype),
        lambda h: h.clamp(0, 1).int().to(h.dtype),
        lambda h: h.clamp(0, 1).add(1).clamp(0, 1).bool().to(h.dtype),
        lambda h: ((h > 0).to(torch.uint8) - 1).to(h.dtype),
        lambda h: (~(h > 0).int()).to(h.dtype),
        lambda h: h**2.5,
        lambda h: h.sqrt(),
        lambda h: h.log1p(),
        lambda h: h / 0,
        lambda h: F.avg_pool1d(h[:, None], 2).flatten(1).frac(),
        lambda h: F.interpolate(h[:, None, None], scale_factor=2, mode="bicubic").flatten(1),
        lambda h: h.flip(0),
        lambda h: h.roll(1),
        lambda h: h.tril(),
        lambda h: h.cumsum(0),
        lambda h: h.sort(0).values,
        lambda h: torch.topk(h, 2, sorted=False).values,
        lambda h: torch.channel_shuffle(h.t()[None].expand(2, -1, -1).transpose(1, 2), 3).flatten(1),
        lambda h: torch.einsum("bc,bd->cd", h, h),
        lambda h: torch.einsum("bc,bd,be->bcde", h, h, h).flatten(1),
        lambda h: h.norm(p=3, dim=1, keepdim=True),
    ],
)
def test_no_guess(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(tb.InputError) as caught:
        tb.logit_bounds(Wrapped(function), X, [0.0, 0.1])
    assert "\n" not in str(caught.value)


def contains_own_answer(model: nn.Module, x: Tensor, epsilon: float = 0.0, **kwargs: Any) -> None:
    bounds = tb.logit_bounds(model, x, epsilon, **kwargs)
    with torch.no_grad():
        answer = copy.deepcopy(model).double().eval()(x.double())
    assert (bounds.lower - 1e-12 <= answer).all()
    assert (answer <= bounds.upper + 1e-12).all()


def test_changed_parameters_are_read_anew() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    contains_own_answer(model, X)
    with torch.no_grad():
        model[0].weight.mul_(-2)
        model[2].bias = nn.Parameter(torch.ones(3))
    contains_own_answer(model, X)
    model.double()
    contains_own_answer(model, X)


class Settings:
    gain = 1.0

    def __init__(self) -> None:
        self.gain = 2.0


class Attributes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.number, self.flag, self.many = 1.0, False, [1.0, [2.0]]
        self.table, self.settings = {"gain": 1.0}, Settings()
        self.function: Any = torch.relu
        self.tensor, self.array = torch.ones(3), np.ones(3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.function(self.inner(x)) * self.number * self.many[1][0] * self.table["gain"] * self.settings.gain
        h = h * self.tensor * float(self.array[0])
        return -h if self.flag else h


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "number", 3.0),
        lambda m: setattr(m, "flag", True),
        lambda m: m.many[1].__setitem__(0, -1.0),
        lambda m: m.table.update(gain=5.0),
        lambda m: setattr(m.settings, "gain", -3.0),
        lambda m: setattr(m, "function", torch.sigmoid),
        lambda m: setattr(m, "function", lambda t: t * 3),
        lambda m: setattr(m, "tensor", torch.zeros(3)),
        lambda m: m.tensor.mul_(4),
        lambda m: m.array.fill(7),
        lambda m: m.inner.register_forward_hook(lambda module, args, out: out * 2),
        lambda m: m.inner.register_forward_pre_hook(lambda module, args: (args[0] + 1,)),
        lambda m: setattr(m, "inner", nn.Sequential(nn.Linear(4, 3), nn.Tanh())),
        lambda m: setattr(m, "forward", lambda x: m.inner(x) * 11),
    ],
)
def test_changed_attributes_are_not_served_from_a_stale_graph(change: Callable[[Attributes], Any]) -> None:
    torch.manual_seed(0)
    model = Attributes()
    contains_own_answer(model, X)
    change(model)
    bounds = tb.logit_bounds(model, X, 0.0)
    with torch.no_grad():
        answer = model(X)
    assert (bounds.lower - 1e-5 <= answer).all()
    assert (answer <= bounds.upper + 1e-5).all()


def test_functions_at_one_address() -> None:
    """A function that is gone may leave its address to the next one."""
    model = Attributes()
    for gain in range(1, 6):
        model.function = eval(f"lambda t: t * {gain}")
        contains_own_answer(model, X)


def test_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 3))
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[4].bias.grad = torch.full((3,), 2.0)
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    y = torch.tensor([0, 1, 2])
    tb.certify(model, X, y, [0.0, 0.1], precision="float32")
    tb.certified_radius(model, X, y, max_epsilon=0.01)
    tb.logit_bounds(model, X, 0.1, arithmetic="float32")
    assert [m.training for m in model.modules()] == modes
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) and before[k].dtype == after[k].dtype for k in before)
    assert not model[0].weight.requires_grad
    assert model[4].weight.requires_grad
    assert torch.equal(model[4].bias.grad, torch.full((3,), 2.0))
    assert model[4].weight.grad is None
    assert torch.is_grad_enabled()


class Tied(nn.Module):
    """One weight under two names, used twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x).tanh())


def test_tied_weights() -> None:
    model = Tied()
    alone = tb.logit_bounds(model, X, 0.1, box=tb.Box(include="encoder.weight"))
    other = tb.logit_bounds(model, X, 0.1, box=tb.Box(include="decoder.weight"))
    assert torch.equal(alone.lower, other.lower)
    for trial in range(40):
        noise = (2 * torch.rand(4, 4) - 1).sign() if trial % 2 else 2 * torch.rand(4, 4) - 1
        point = {"encoder.weight": model.encoder.weight.detach().double() * (1 + 0.1 * noise)}
        point |= {n: p.detach().double() for n, p in model.named_parameters() if n not in point}
        answer = torch.func.functional_call(model, point, (X.double(),), tie_weights=True)
        assert (alone.lower - 1e-12 <= answer).all()
        assert (answer <= alone.upper + 1e-12).all()


class Nested(nn.Module):
    """Names that look like those of the wrapper in which parts of a recurrent network are traced."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.cell = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x) + x @ self.weight.sigmoid()


def test_parameters_are_read_by_their_full_name() -> None:
    contains_own_answer(Nested(), X)


class Reader(nn.Module):
    """A hidden value read by several others, in views and copies, beside its ReLU."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.inner, self.kind, self.drop = nn.Linear(4, 4), kind, nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        views = {
            "view": lambda: h.view(-1, 2, 2).flatten(1),
            "clone": lambda: h.clone(),
            "dropout": lambda: self.drop(h),
            "once": lambda: h * 1.0,
            "nothing": lambda: h + 0,
            "cast": lambda: h.to(torch.float64).to(h.dtype),
            "chunk": lambda: torch.cat(h.chunk(2, 1), 1),
            "select": lambda: h[:, :1].expand(-1, 4),
            "transpose": lambda: h.t().t(),
            "slice": lambda: h[:],
        }
        other = views[self.kind]()
        first = F.relu(h)
        second = F.relu(other + 0 if self.kind == "view" else other)
        return torch.cat([first, other, second, h if self.kind in ("clone", "view") else other * 2], 1)


@pytest.mark.thin(quick=7)
@pytest.mark.parametrize(
    "kind", ["view", "clone", "dropout", "once", "nothing", "cast", "chunk", "select", "transpose", "slice"]
)
def test_values_that_share_memory(kind: str) -> None:
    model = Reader(kind).eval()
    for epsilon in (0.0, 0.1):
        contains_own_answer(model, X, epsilon)


HEADS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "scaled afterwards": lambda m, h: -2 * m.last(h),
    "residual": lambda m, h: m.last(h) + h,
    "used twice": lambda m, h: m.last(m.last(h).relu()),
    "read again": lambda m, h: m.last(h) + m.last(h).relu(),
    "weight elsewhere": lambda m, h: F.linear(h @ m.last.weight, m.last.weight, m.last.bias),
    "bias by itself": lambda m, h: (h @ m.last.weight) + m.last.bias,
    "bias twice": lambda m, h: ((h @ m.last.weight) + m.last.bias) + m.last.bias,
    "addmm": lambda m, h: torch.addmm(m.last.bias, h, m.last.weight),
    "computed bias": lambda m, h: F.linear(h, m.last.weight) + m.last.bias * 2,
    "computed weight": lambda m, h: F.linear(h, m.last.weight.tanh(), m.last.bias),
    "no layer": lambda m, h: h * 3,
    "negative hidden": lambda m, h: m.last(h - 1),
}


class Headed(nn.Module):
    def __init__(self, head: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.last, self.head = nn.Linear(4, 4), nn.Linear(4, 4), head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self, self.first(x).relu())


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize("name", HEADS)
def test_margins_of_every_last_layer(name: str) -> None:
    model, y = Headed(HEADS[name]), torch.tensor([0, 3, 1])
    for epsilon in (0.0, 0.05, 1.5):
        margin = tb.certify(model, X, y, epsilon).margin[0]
        assert (margin >= tb.certify(model, X, y, epsilon, criterion="logits").margin[0] - 1e-9).all()
        for trial in range(40):
            point = {}
            for n, p in model.named_parameters():
                noise = 2 * torch.rand(p.shape, dtype=torch.float64) - 1
                point[n] = p.detach().double() * (1 + epsilon * (noise.sign() if trial % 2 else noise))
            with torch.no_grad():
                answer = torch.func.functional_call(model, point, (X.double(),))
            own = answer.gather(1, y[:, None])
            others = answer.scatter(1, y[:, None], -torch.inf).amax(1, keepdim=True)
            assert (margin <= (own - others)[:, 0] + 1e-12).all()
