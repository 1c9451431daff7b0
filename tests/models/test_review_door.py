"""Ways in which a certificate of a network that answers otherwise, or of a file, could have been wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.data.arrays import load_arrays
from thetabox.models.outputs import reading

pytestmark = pytest.mark.usefixtures("without_notices")


class One(nn.Module):
    """A small network of one number for two classes, which answers by a function of its logit and itself."""

    def __init__(self, answer: Callable[[One, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last, self.aside = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(1, 3)
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(self, self.last(self.first(x).relu()))


X = 2 * torch.randn(7, 4, generator=torch.Generator().manual_seed(2))


def _written(z: Tensor) -> Tensor:
    z[:] = torch.sigmoid(z)
    return z


# What is called last does not say what the first of several results is.
MADE = {
    "a logit and its probability": (lambda m, z: (z, torch.sigmoid(z)), "logit"),
    "by name": (lambda m, z: {"logits": z, "p": torch.sigmoid(z)}, "logit"),
    "a logit and another's": (lambda m, z: (z, torch.sigmoid(m.aside(z))), "logit"),
    "a probability and its logit": (lambda m, z: (torch.sigmoid(z), z + 0.0), "probability"),
    "a probability and what is aside": (lambda m, z: (torch.sigmoid(z), m.aside(z)), "probability"),
    "a row of it": (lambda m, z: (torch.sigmoid(z).squeeze(1), m.aside(z)), "probability"),
    "a copy of it": (lambda m, z: (torch.sigmoid(z).reshape(-1).clone().contiguous(), m.aside(z)), "probability"),
    "a part of it": (lambda m, z: torch.sigmoid(m.aside(z)).chunk(3, 1)[1], "probability"),
    "by out": (lambda m, z: torch.sigmoid(z, out=torch.empty_like(z)), "probability"),
}


@pytest.mark.parametrize(("answer", "kind"), MADE.values(), ids=MADE.keys())
def test_one_number_is_what_made_it(answer: Any, kind: str) -> None:
    network = One(answer)
    found = reading(network, X)
    assert found is not None
    assert found.kind == kind


@pytest.mark.slow
@pytest.mark.parametrize("key", ["a logit and its probability", "a probability and what is aside"])
def test_first_of_two_is_certified_as_itself(key: str) -> None:
    network = One(MADE[key][0])
    with torch.no_grad():
        y = (One(lambda m, z: z)(X)[:, 0] > 0).long()
    assert 0 < int(y.sum()) < len(y)
    found = tb.certify(network, X, y, [0.0, 1e-3])
    assert found.clean_accuracy == 1.0
    assert found.verified[0].all()
    assert not tb.certify(network, X, 1 - y, 0.0).verified.any()


UNKNOWN = {
    "written in place": lambda m, z: _written(z),
    "in place": lambda m, z: z.sigmoid_(),
    "copied into": lambda m, z: z.copy_(torch.sigmoid(z)),
    "mean of several": lambda m, z: torch.sigmoid(m.aside(z)) @ torch.full((3, 1), 1 / 3),
    "rounded to more than 1": lambda m, z: torch.sigmoid(z) * (1 + 1e-6) + 1e-6,
    "mixture": lambda m, z: torch.sigmoid(m.aside(z))[:, None] @ m.aside(z).softmax(1)[:, :, None],
}


@pytest.mark.parametrize("answer", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_between_0_and_1_by_no_known_way_is_refused(answer: Any) -> None:
    with pytest.raises(tb.InputError, match="whether it is a logit or a prob"):
        tb.certify(One(answer), X, torch.zeros(7).long(), 0.1)


def test_small_logits_by_weights_that_are_computed() -> None:
    network = nn.Linear(2, 1, bias=False)
    network.weight.data.fill_(1.0)
    nn.utils.parametrizations.weight_norm(network)
    found = reading(network, torch.tensor([[0.2, 0.3], [0.1, 0.5]]))
    assert found is not None
    assert found.kind == "logit"


class Cut(nn.Module):
    """Logits of sigmoids that are cut, each times a factor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.logit(torch.sigmoid(x * self.scale), 0.4) * x.new_tensor([1.0, 3.0])


def test_a_logit_that_is_cut_stays_in_the_proof() -> None:
    x, network = torch.tensor([[10.0, 0.13]]), Cut()
    found = tb.certify(network, x, torch.tensor([0]), [0.0, 0.2])
    assert found.verified[:, 0].tolist() == [True, False]
    with torch.no_grad():
        network.scale.fill_(1.2)
        assert int(network(x).argmax()) == 1  # what a proof of the logits alone had missed


class Doubled(nn.Module):
    """A probability, of which calling the module makes a logit around its hooks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.last(x))

    def __call__(self, x: Tensor) -> Tensor:
        return 2 * super().__call__(x) - 1


def test_a_class_that_calls_itself_around_its_hooks() -> None:
    for call in (tb.certify, tb.attack):
        with pytest.raises(tb.InputError, match="Doubled returns something else where its answer is read by a hook"):
            call(Doubled(), X, torch.ones(7).long(), [0.1])


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def of(self, x: Tensor, y: Tensor) -> Tensor:
        return self.left(x).relu() - self.right(y)


class Swapped(Named):
    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        return self.of(x, y)


class Anything(Named):
    def forward(self, **given: Tensor) -> Tensor:
        return self.of(given["x"], given["y"])


class Elsewhere(Named):
    def forward(self, image: Tensor, y: Tensor) -> Tensor:
        return self.of(image, y)


@pytest.mark.parametrize("kind", [Swapped, Anything])
@pytest.mark.parametrize("order", [("x", "y"), ("y", "x")])
def test_a_name_is_that_argument_wherever_it_stands(kind: type, order: tuple[str, str]) -> None:
    network, held = kind(), {"x": X, "y": X.flip(0)}
    with torch.no_grad():
        y = network(**held).argmax(1)
    given = {name: held[name] for name in order}
    assert tb.certify(network, given, y, 0.0).clean_accuracy == 1.0


@pytest.mark.parametrize("order", [("x", "x_y"), ("x_y", "x")])
def test_arrays_of_a_file_in_any_order(order: tuple[str, str]) -> None:
    network, held = Elsewhere(), {"x": X, "x_y": X.flip(0)}
    with torch.no_grad():
        y = network(X, X.flip(0)).argmax(1)
    assert tb.certify(network, {name: held[name] for name in order}, y, 0.0).clean_accuracy == 1.0


def test_names_are_text() -> None:
    with pytest.raises(tb.InputError, match="must name its inputs by text, not by 0, 1"):
        tb.certify(Elsewhere(), {0: X, 1: X}, torch.zeros(7).long(), 0.1)


def test_scripted_code_is_refused_in_one_line() -> None:
    with pytest.raises(tb.InputError, match="scripted modules"):
        tb.certify(torch.jit.script(Elsewhere().double()), (X, X), torch.zeros(7).long(), 0.1)
    with pytest.raises(tb.InputError, match="scripted modules"):
        tb.certify(torch.jit.script(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))), X, torch.zeros(7).long(), 0.1)


class Slotted(nn.Module):
    __slots__ = ("factor",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.factor, self.last = -2.0, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.last(x) * self.factor).softmax(1)


def test_attributes_in_slots_go_along() -> None:
    network = Slotted()
    with torch.no_grad():
        y = network(X).argmax(1)
    assert tb.certify(network, X, y, 0.0).clean_accuracy == 1.0


def test_a_file_whose_arrays_have_changed_their_names_is_another(tmp_path: Path) -> None:
    """Laid side by side, the numbers are the same; to the network they are not."""
    left, right = X.numpy(), X.flip(0).numpy()
    hashes = set()
    for names in (("x_left", "x_right"), ("x_right", "x_left")):
        np.savez(tmp_path / "data.npz", x=left, y=np.zeros(7, int), **dict(zip(names, (left, right), strict=True)))
        hashes.add(load_arrays(tmp_path / "data.npz").sha256)
    # One row of eight numbers is no two of four.
    np.savez(tmp_path / "data.npz", x=left, y=np.zeros(7, int), x_left=np.concatenate([left, right], 1))
    hashes.add(load_arrays(tmp_path / "data.npz").sha256)
    assert len(hashes) == 3
