"""Folded batch norm, and networks that make tensors of the default dtype on their way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.models.fold import folded


def normalised() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    for _ in range(3):
        model(torch.randn(20, 1, 4, 4))
    return model.eval()


def test_folded_network_computes_the_same() -> None:
    model, x = normalised(), torch.randn(8, 1, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(folded(model)(x), model(x), rtol=1e-4, atol=1e-5)
    assert isinstance(model[1], nn.BatchNorm2d)


def parts_compiled(model: nn.Sequential) -> nn.Module:
    return nn.Sequential(torch.compile(model[:3]), nn.DataParallel(model[3:]))


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, parts_compiled])
def test_wrappers_of_torch_are_seen_through(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model, x = normalised(), torch.randn(8, 1, 4, 4)
    wrapped = wrap(model).eval()
    y, modules = model(x).argmax(1), dict(wrapped.named_modules())
    expected = tb.certified_radius(model, x, y, box=tb.Box(fold=True))
    assert tb.certified_radius(wrapped, x, y, box=tb.Box(fold=True)).equal(expected)
    assert dict(wrapped.named_modules()) == modules


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_hooks_of_wrappers_are_not_lost(wrap: Callable[[nn.Module], nn.Module]) -> None:
    wrapped = wrap(normalised())
    wrapped.register_forward_hook(lambda module, inputs, output: -output)
    with pytest.raises(tb.InputError, match="with hooks"):
        tb.sampled_yield(wrapped, torch.randn(8, 1, 4, 4), [0] * 8, 0.1, box=tb.Box(fold=True))


def test_fold_is_another_box_and_the_certificate_says_which() -> None:
    model, x = normalised(), torch.randn(8, 1, 4, 4)
    y = model(x).argmax(1)
    epsilon = [0.0, 1e-3, 1e-2]
    plain = tb.certify(model, x, y, epsilon)
    fold = tb.certify(model, x, y, epsilon, box=tb.Box(fold=True))
    assert fold.to_json()["box"]["fold"] is True
    assert plain.to_json()["box"]["fold"] is False
    direct = tb.certify(folded(model), x, y, epsilon)
    torch.testing.assert_close(fold.margin, direct.margin)
    assert not torch.allclose(fold.margin[2], plain.margin[2])


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([nn.ReLU(), nn.BatchNorm1d(4)], "a ReLU stands before it"),
        ([nn.BatchNorm1d(4)], "no convolution stands before it"),
        ([nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)], "no running statistics"),
        ([nn.Unflatten(1, (1, 4)), nn.ConvTranspose1d(1, 1, 1), nn.BatchNorm1d(1), nn.Flatten()], "a ConvTranspose1d"),
    ],
)
def test_fold_needs_a_convolution_before(layers: list[nn.Module], why: str) -> None:
    model = nn.Sequential(*layers, nn.Linear(4, 2)).eval()
    with pytest.raises(tb.InputError, match=why):
        tb.certify(model, torch.randn(3, 4), [0, 0, 0], 0.0, box=tb.Box(fold=True))


class Cell(nn.Module):
    """A user's own recurrent network; its state has the default dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.back, self.out = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        return {"h": torch.zeros(batch, 8)}

    def step(self, x_t: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        h = torch.tanh(self.inner(x_t) + self.back(state["h"]))
        return h, {"h": h}

    def readout(self, outputs: Tensor) -> Tensor:
        return self.out(outputs[:, -1])


def test_default_dtype_state_is_certified_and_attacked() -> None:
    model, x = Cell(), torch.randn(6, 5, 3)
    y = tb.models.logits(model, x).argmax(1)
    certificate = tb.certify(model, x, y, [0.0, 1e-4])
    assert certificate.clean_accuracy == 1.0
    assert bool(certificate.verified[0].all())
    assert tb.attack(model, x, y, epsilon=[1e-2], steps=2, restarts=1).correct.shape == (1, 6)
    assert torch.get_default_dtype() == torch.float32


class Twice(nn.Module):
    """Its convolution, or the weight of it, is used beside the batch norm too."""

    def __init__(self, use: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.n, self.l, self.use = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Linear(50, 3), use
        self.n.running_mean.normal_()
        self.n.running_var.fill_(4.0)
        self.d = nn.Conv2d(2, 2, 3, padding=1)
        if use == "tied":
            self.d.weight = self.c.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.n(self.c(x))
        more = {
            "again": lambda: y + self.c(torch.relu(x)),
            "in a row": lambda: self.n(self.c(y)),
            "read": lambda: y * self.c.weight.sum(),
            "tied": lambda: y + self.d(x),
            "once": lambda: y + self.d(x),
        }
        return self.l(more[self.use]().flatten(1))


@pytest.mark.parametrize("use", ["again", "in a row", "read", "tied"])
def test_fold_of_what_is_used_elsewhere_is_refused(use: str) -> None:
    with pytest.raises(tb.InputError, match="used elsewhere"):
        tb.certify(Twice(use), torch.randn(4, 2, 5, 5), [0] * 4, 1e-4, box=tb.Box(fold=True))
    with pytest.raises(tb.InputError, match="used elsewhere"):
        tb.attack(Twice(use), torch.randn(4, 2, 5, 5), [0] * 4, [1e-4], box=tb.Box(fold=True))


def test_fold_is_compared_with_the_users_network() -> None:
    """Hooks, calls and branches that folding drops."""
    x = torch.randn(4, 2, 5, 5)

    class Called(Twice):
        def __call__(self, x: Tensor) -> Tensor:
            return -super().__call__(x)

    class Proxied(Twice):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if isinstance(x, torch.fx.Proxy) else -super().forward(x)

    honest = Twice("once").eval()
    found = tb.certify(honest, x, honest(x).argmax(1), [0.0, 1e-4], box=tb.Box(fold=True))
    assert found.verified[0].all()
    hooked = Twice("once")
    hooked.n.register_forward_hook(lambda m, i, o: -o)
    for net, told in ((hooked, "hooks"), (Called("once"), "folded"), (Proxied("once"), "folded")):
        with pytest.raises(tb.InputError, match=told):
            tb.certify(net, x, [0] * 4, 1e-4, box=tb.Box(fold=True))


class Shifted(nn.Module):
    """Several inputs and results."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, shift: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(x + shift), "shift": shift}


@pytest.mark.slow
@pytest.mark.parametrize("ending", [nn.Softmax(1), nn.LogSoftmax(1)], ids=["softmax", "log-softmax"])
def test_a_folded_network_of_probabilities(ending: nn.Module) -> None:
    """How its answers are read is a hook of this package, none of the user's."""
    model, x = normalised(), torch.randn(8, 1, 4, 4)
    y, epsilon, box = model(x).argmax(1), [0.0, 1e-3, 1e-2], tb.Box(fold=True)
    certificate = tb.certify(nn.Sequential(*model, ending).eval(), x, y, epsilon, box=box)
    assert torch.equal(certificate.margin, tb.certify(model, x, y, epsilon, box=box).margin)


def test_a_folded_network_of_several_inputs_and_results() -> None:
    model, x, shift = normalised(), torch.randn(8, 1, 4, 4), torch.randn(8, 1, 4, 4)
    y, epsilon, box = model(x + shift).argmax(1), [0.0, 1e-3, 1e-2], tb.Box(fold=True)
    net = Shifted(model).eval()
    certificate = tb.certify(net, (x, shift), y, epsilon, box=box)
    torch.testing.assert_close(certificate.margin, tb.certify(model, x + shift, y, epsilon, box=box).margin)
    assert certificate.verified[0].all()
    assert not net._forward_hooks
    assert not net._forward_pre_hooks
    net.register_forward_hook(lambda module, given, answer: answer)
    with pytest.raises(tb.InputError, match="hooks"):
        tb.certify(net, (x, shift), y, epsilon, box=box)
