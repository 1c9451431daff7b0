"""Softmax and its like behind the logits: left out of a proof, and part of the comparison all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.verify.network import network

pytestmark = pytest.mark.usefixtures("without_notices")

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(2))


class Ending(nn.Module):
    def __init__(self, ending: Callable[[Tensor], Tensor], classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, classes))
        self.ending = ending

    def forward(self, x: Tensor) -> Tensor:
        return self.ending(self.body(x))


PLAIN = Ending(lambda z: z)
SAME = {
    "softmax": lambda z: z.softmax(1),
    "softmax of the last": lambda z: torch.softmax(z, -1),
    "a module": nn.Softmax(dim=1),
    "log-softmax": lambda z: z.log_softmax(1),
    "sigmoids": lambda z: z.sigmoid(),
    "logarithm of a softmax": lambda z: z.softmax(1).clamp(min=1e-12).log(),
    "of an image": lambda z: z[:, :, None, None].softmax(1).flatten(1),
}


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("ending", SAME.values(), ids=SAME.keys())
@pytest.mark.parametrize("domain", ["interval", "linear"])
def test_as_if_it_were_not_there(ending: Any, domain: str) -> None:
    y = PLAIN(X).argmax(1)
    mine = tb.certify(Ending(ending), X, y, [0.0, 1e-3, 1e-1], domain=domain)
    plain = tb.certify(PLAIN, X, y, [0.0, 1e-3, 1e-1], domain=domain)
    assert torch.equal(mine.margin, plain.margin)
    assert torch.equal(mine.predicted, plain.predicted)
    assert "keeps their order" in mine.model_info["answer"]
    # Bounds are of what the network answers.
    bounds = tb.logit_bounds(Ending(ending), X, 0.1, domain=domain)
    with torch.no_grad():
        answer = Ending(ending).double()(X.double())
    assert (bounds.lower <= answer).all()
    assert (answer <= bounds.upper).all()
    assert (bounds.lower < bounds.upper).all()


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("shape", [lambda p: p, lambda p: p.squeeze(1), lambda p: p[:, 0], lambda p: p.flatten()])
def test_the_probability_of_one_of_two(shape: Any) -> None:
    logit, probability = Ending(lambda z: z, 1), Ending(lambda z: shape(z.sigmoid()), 1)
    y = (logit(X)[:, 0] > 0).long()
    assert 0 < int(y.sum()) < len(y)
    mine, plain = (tb.certify(m, X, y, [0.0, 1e-3, 1e-1]) for m in (probability, logit))
    torch.testing.assert_close(mine.margin, plain.margin, rtol=1e-10, atol=1e-12)
    assert mine.clean_accuracy == 1.0
    wrong = tb.certify(probability, X, 1 - y, [0.0])
    assert not wrong.verified.any()


OTHER = {
    "over samples": (lambda z: z.softmax(0), "mixes samples"),
    "over halves": (lambda z: z.view(-1, 2, 2).softmax(2).flatten(1), None),
    "softmax, then weights": (lambda z: z.softmax(1) @ z.new_tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 0.5]]), None),
    "cut off high": (lambda z: z.softmax(1).clamp(min=0.4).log(), None),
    "softmax plus logits": (lambda z: z.softmax(1) + z, None),
    "minus softmax": (lambda z: -z.softmax(1), None),
}


@pytest.mark.parametrize(("ending", "message"), OTHER.values(), ids=OTHER.keys())
def test_what_may_change_the_order_is_bounded(ending: Any, message: str | None) -> None:
    model = Ending(ending, 4 if message is None and ending is OTHER["over halves"][0] else 3)
    y = model(X).argmax(1)
    if message is not None:
        with pytest.raises(tb.InputError, match=message):
            tb.certify(model, X, y, 0.0)
        return
    traced = network(model, X)
    assert not traced.ending
    assert traced.with_ending is traced
    found = tb.certify(model, X, y, [0.0, 1e-4])
    with torch.no_grad():
        answer = model.double()(X.double())
    others = answer.scatter(1, y[:, None], -torch.inf).amax(1)
    least = answer.gather(1, y[:, None])[:, 0] - others
    assert (found.margin[0] <= least.abs() + 1e-6).all()


def test_saturated_probabilities_are_still_proven() -> None:
    """Logits in the thousands: every probability is 0 or 1 in float32, and the network is certified like its logits."""
    model, plain = Ending(lambda z: (1e4 * z).softmax(1)), Ending(lambda z: 1e4 * z)
    y = PLAIN(X).argmax(1)
    mine, other = tb.certify(model, X, y, [0.0, 1e-3]), tb.certify(plain, X, y, [0.0, 1e-3])
    assert torch.equal(mine.margin, other.margin)
    assert mine.verified[0].all()


def test_a_tie_is_no_proof() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Softmax(1))
    with torch.no_grad():
        model[0].weight.copy_(torch.ones(2, 2))
    assert not tb.certify(model, torch.eye(2), torch.tensor([0, 0]), 0.0).verified.any()


def test_what_the_module_does_behind_its_logits_is_compared() -> None:
    """An ending that turns over in large batches is another function, though the logits in front are the same."""

    def ending(z: Tensor) -> Tensor:
        return (-z if len(z) == 17 else z).softmax(1)

    with pytest.raises(tb.InputError):
        tb.certify(Ending(ending), X, PLAIN(X).argmax(1), 0.0)


def test_attack_and_bounds_speak_of_one_network() -> None:
    y = PLAIN(X).argmax(1)
    model = Ending(nn.Softmax(dim=1))
    found = tb.attack(model, X, y, [0.05, 0.3])
    proven = tb.certify(model, X, y, [0.05, 0.3])
    assert not (proven.verified & ~found.correct).any()
    assert torch.equal(found.predicted, proven.predicted)


def logits_of(rows: list[list[float]], ending: Callable[[Tensor], Tensor]) -> tuple[nn.Module, Tensor]:
    """A network that answers an ending of given logits."""
    model = nn.Sequential(nn.Linear(len(rows), len(rows[0]), bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(rows).T)

    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: Tensor) -> Tensor:
            return ending(self.body(x))

    return Behind(), torch.eye(len(rows))


@pytest.mark.parametrize("ending", [lambda z: z.softmax(1), lambda z: z.log_softmax(1), lambda z: z.sigmoid()])
def test_what_float32_makes_equal_is_not_proven_in_it(ending: Any) -> None:
    """Logits that real numbers tell apart and float32 probabilities do not."""
    rows = [[18.0, 20.0, 1.0], [1.0, 1.0 + 2**-23, 0.0], [0.0, 2.0**-30, -1.0], [0.0, 1.0, -1.0], [30.0, 31.0, 32.0]]
    model, x = logits_of(rows, ending)
    y = torch.tensor([1, 1, 1, 1, 2])
    with torch.no_grad():
        answer = model(x)
    others = answer.scatter(1, y[:, None], -torch.inf).amax(1)
    told = answer.gather(1, y[:, None])[:, 0] > others
    assert not told.all()
    found = tb.certify(model, x, y, 0.0, arithmetic="float32")
    assert not (found.verified[0] & ~told).any()
    assert found.verified[0, 3]
    assert tb.certify(model, x, y, 0.0).verified.all()


def test_one_probability_near_a_half_is_not_proven_in_float32() -> None:
    model, x = logits_of([[1e-9], [1e-3], [-1e-9], [-1e-3]], lambda z: z.sigmoid()[:, 0])
    y = torch.tensor([1, 1, 0, 0])
    found = tb.certify(model, x, y, 0.0)
    assert found.verified.all()
    assert torch.equal(found.predicted, y)  # float32's tie is no other class
    found = tb.certify(model, x, y, 0.0, arithmetic="float32")
    assert found.verified[0].tolist() == [False, True, False, True]
