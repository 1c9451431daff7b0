"""Backward rules at their edges: shapes of one number a sample, numbers below the normal ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify.linear.test_operators import problem_of
from thetabox.box import Box
from thetabox.verify.linear import Linear

pytestmark = pytest.mark.usefixtures("traced_once")


class Table(nn.Module):
    """A table read at one place of each sample."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.last = nn.Embedding(5, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.table(x[:, 1])))


@pytest.mark.parametrize("domain", ["linear", "auto"])
def test_table_read_at_one_place(domain: str) -> None:
    module, x = Table().eval(), torch.tensor([[0, 1], [4, 3], [1, 3]])
    bounds, truth = tb.logit_bounds(module, x, 0.1, domain=domain), module(x).detach().double()
    assert (bounds.lower < truth).all()
    assert (bounds.upper > truth).all()
    # What is read at no place does not matter.
    assert torch.equal(bounds.lower[1], bounds.lower[2])
    assert tb.certify(module, x, truth.argmax(1), 1e-3, domain=domain).verified.all()


class Chosen(nn.Module):
    """A number between two that float32 holds, made large."""

    def __init__(self, fill: bool) -> None:
        super().__init__()
        self.fill, self.last = fill, nn.Linear(2, 2, bias=False)
        self.register_buffer("mask", torch.tensor([True, False]))
        with torch.no_grad():
            self.last.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        number = 1.4e-45 * 0.6
        h = x * 0.0
        h = h.masked_fill(self.mask, number) if self.fill else torch.where(self.mask, number, h)
        return self.last(h * 1e38)


@pytest.mark.parametrize("fill", [False, True])
def test_numbers_below_the_normal_ones(fill: bool) -> None:
    module, x = Chosen(fill).eval(), torch.ones(2, 2)
    bounds = tb.logit_bounds(module, x, 0.0, domain="linear", arithmetic="float32")
    with torch.no_grad():
        truth = module(x).double()
    assert (bounds.lower <= truth).all()
    assert (bounds.upper >= truth).all()


class Masked(nn.Module):
    """Scores without some of their entries, by either operator."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.way, self.first, self.last = way, nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("mask", torch.tensor([True, False, False, True]))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = h.masked_fill(self.mask, -torch.inf) if self.way == "fill" else torch.where(self.mask, -torch.inf, h)
        return self.last(h.softmax(1))


def test_masks_say_the_same() -> None:
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    found = [
        Linear(problem_of(Masked(way).eval(), x, Box(), "real")).logits(
            slice(None), torch.full((1, len(x)), 0.05, dtype=torch.float64)
        )
        for way in ("fill", "choose")
    ]
    torch.testing.assert_close(found[0].lower, found[1].lower, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[0].upper, found[1].upper, rtol=1e-12, atol=1e-12)
