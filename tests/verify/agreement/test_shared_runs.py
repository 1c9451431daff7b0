"""Runs that serve several comparisons hide nothing that each of them alone would show."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.models.running import running
from thetabox.verify.agreement.batches import LARGE
from thetabox.verify.agreement.nearness import NEAR, at_zero, near, values
from thetabox.verify.arguments import settings
from thetabox.verify.problem import Problem


class Told(nn.Module):
    """A convolutional network that computes otherwise where it is told to, which no trace shows."""

    def __init__(self, otherwise: Callable[[Tensor, Tensor], Tensor] = lambda x, y: y) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.dense, self.otherwise = nn.Conv2d(1, 4, 3), nn.Linear(16, 3), otherwise

    def forward(self, x: Tensor) -> Tensor:
        y = self.dense(self.conv(x).relu().flatten(1))
        return y if torch.compiler.is_compiling() else self.otherwise(x, y)


def rows(x: Tensor) -> int:
    """The size of a batch, read so that nothing records it: by its text, which is no number where it may be any."""
    text = str(x.shape[0])
    return int(text) if text.isdigit() else 0


OTHERWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "the user's size": lambda x, y: -y if rows(x) == 12 else y,
    "the user's size, a little": lambda x, y: y * (1.0 + 1e-6 * (rows(x) == 12)),
    "the large size": lambda x, y: -y if rows(x) == LARGE else y,
    "rows behind the user's": lambda x, y: torch.cat([y[:12], -y[12:]]) if rows(x) == LARGE else y,
    "the user's size in its own precision": lambda x, y: -y if rows(x) == 12 and y.dtype is torch.float32 else y,
    "places far behind": lambda x, y: y * (1.0 - 2.0 * (torch.ones_like(y).cumsum(0) > 100.0).to(y.dtype)),
    "all but large ones": lambda x, y: y if rows(x) >= LARGE else -y,
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_one_size_of_a_batch_does(name: str) -> None:
    x = torch.rand(12, 1, 4, 4)
    with pytest.raises(tb.InputError, match="is not the function that would be bounded"):
        tb.certify(Told(OTHERWISE[name]), x, [0] * 12, 1e-4)


@pytest.mark.parametrize("name", ["the user's size", "the user's size, a little", "the large size"])
def test_what_one_size_of_a_batch_does_in_double_precision(name: str) -> None:
    x = torch.rand(12, 1, 4, 4).double()
    with pytest.raises(tb.InputError, match="is not the function that would be bounded"):
        tb.certify(Told(OTHERWISE[name]).double(), x, [0] * 12, 1e-4)


def test_a_network_that_takes_no_large_batch() -> None:
    def few(x: Tensor, y: Tensor) -> Tensor:
        if rows(x) > 200:
            raise ValueError("too many")
        return y

    x, net = torch.rand(12, 1, 4, 4), Told(few)
    certificate = tb.certify(net, x, Told()(x).argmax(1), [0.0, 1e-4])
    assert certificate.verified[0].all()
    assert LARGE not in certificate.checked["batch_sizes"]


@pytest.mark.parametrize("count", [1, 12, LARGE - 1, LARGE, LARGE + 20])
def test_every_sample_has_its_own_logits(count: int) -> None:
    x, net = torch.rand(count, 1, 4, 4), Told()
    certificate = tb.certify(net, x, net(x).argmax(1), 0.0)
    assert torch.equal(certificate.predicted, net(x).argmax(1))
    assert LARGE in certificate.checked["batch_sizes"]


def test_a_sample_that_an_object_hides() -> None:
    """The very x is answered well, a copy of it not."""
    x = torch.rand(12, 1, 4, 4)
    own = x.data_ptr()
    net = Told(lambda given, y: y if y.dtype is torch.float64 or given.data_ptr() == own else -y)
    with pytest.raises(tb.InputError):
        tb.certify(net, x, [0] * 12, 1e-4)


def test_bounds_at_zero_hold_the_run_and_little_more() -> None:
    x, net = torch.rand(40, 1, 4, 4) - 0.5, Told()
    problem = Problem(net, settings("interval", None, "real", "float64", "cpu"), x)
    with torch.no_grad(), running(net, x) as run:
        answer = run(x)
        bounds = at_zero(problem, slice(None), values(run))
    assert ((bounds.lower <= answer) & (answer <= bounds.upper)).all()
    assert ((bounds.upper - bounds.lower).amax(1) < 64 * NEAR * answer.abs().amax(1)).all()


class Tensordot(nn.Module):
    """A function that compares the types of its operands before any operator is called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.rand(3, 4)), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.tensordot(x * 1.0, self.weight, 1)


def test_a_run_whose_calls_must_be_watched_is_made_again() -> None:
    net, x = Tensordot(), torch.rand(2, 3)
    with torch.no_grad(), running(net, x) as run:
        watched = run(x)
        run.forget()
    with torch.no_grad(), running(net, x) as run:
        run.recording = False
        assert torch.equal(run(x), watched)
        assert net.calls == 1  # what the run that failed has counted is put back
        assert run.calls == []
    assert net.calls == 0


def test_a_failure_is_one_line_in_a_run_that_is_not_watched() -> None:
    net, x = Told(lambda x, y: y.reshape(5, 7)), torch.rand(2, 1, 4, 4)
    with torch.no_grad(), running(net, x) as run:
        run.recording = False
        with pytest.raises(tb.InputError, match="the network does not take inputs"):
            run(x)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([[1.0, 2.0]], [[1.0, 2.0 + 1e-13]], True),
        ([[1.0, 2.0]], [[1.0, 2.1]], False),
        ([[0.0, 0.0]], [[0.0, 0.0]], True),
        ([[torch.inf, 1.0]], [[torch.inf, 1.0]], True),
        ([[torch.inf, 1.0]], [[2.0, 1.0]], False),
        ([[2.0, 1.0]], [[torch.inf, 1.0]], False),
        ([[torch.inf, 1.0]], [[torch.inf, 2.0]], False),
        ([[torch.inf, 1.0]], [[-torch.inf, 1.0]], False),
        ([[torch.nan, 1.0]], [[torch.nan, 1.0]], False),
        ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.5]], False),
    ],
)
def test_near(one: list[list[float]], other: list[list[float]], same: bool) -> None:
    a, b = (torch.tensor(t, dtype=torch.float64) for t in (one, other))
    assert near(a, b, NEAR) is same
    assert near(b, a, NEAR) is same
