"""A quotient by zero is no number, and nothing that is computed from it is one: no bound brings it back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb

BEYOND: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a difference that a clamp makes finite": lambda x, w: (x / w - (2 * x) / w).clamp(-1, 1),
    "a quotient that a sigmoid makes finite": lambda x, w: torch.sigmoid((x - x.detach() * 1.0) / w),
    "a quotient under tanh": lambda x, w: torch.tanh((x * w) / w),
    "a reciprocal that is cut": lambda x, w: (x * w.reciprocal()).clamp(max=1.0).clamp(min=-1.0),
    "a root": lambda x, w: (x * w.abs().rsqrt()).clamp(-1, 1),
    "a power": lambda x, w: (x * w**-1).clamp(-1, 1),
}

# Those that are 0 / 0 or ∞ − ∞ at a weight of zero; the others torch answers by the limit.
UNDEFINED = [name for name in BEYOND if name.startswith(("a difference", "a quotient"))]


class Divided(nn.Module):
    """Two logits, 3 apart whatever lies in front of them is, as long as it is a number."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.w = function, nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        h = self.function(x, self.w)
        return torch.stack([h[:, 0], h[:, 1] + 5.0], 1)


@pytest.mark.parametrize("domain", ["interval", "linear", "auto"])
@pytest.mark.parametrize("name", BEYOND)
def test_nothing_is_verified_where_a_divisor_may_be_zero(name: str, domain: str) -> None:
    net, x = Divided(BEYOND[name]), torch.ones(1, 2)
    found = tb.certify(net, x, [1], [0.5, 1.0, 1.5], domain=domain)
    assert found.verified[:, 0].tolist() == [True, False, False]
    assert float(tb.certified_radius(net, x, [1])) < 1.0
    with torch.no_grad():
        net.w.zero_()
    assert bool(net(x).isnan().any()) == (name in UNDEFINED)


def test_a_comparison_with_a_pole_is_a_truth_value() -> None:
    net, x = Divided(lambda x, w: (x / w > 0).to(x.dtype)), torch.ones(1, 2)
    bounds = tb.logit_bounds(net, x, [0.5, 1.5])
    expected = torch.tensor([[[1.0, 6.0]], [[0.0, 5.0]]], dtype=torch.float64)
    torch.testing.assert_close(bounds.lower, expected)
    torch.testing.assert_close(bounds.upper, expected[:1].expand(2, 1, 2))


def test_a_silent_sample_beside_a_loud_one() -> None:
    """Slack is one number a tensor: nothing is known of the silent one, and the network is no other function."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, 2.0]))

        def forward(self, x: Tensor) -> Tensor:
            z = x * self.w
            return z / (z.abs() + 1e-12)

    for x in ([[0.0, 0.0], [1e5, 1.0]], [[1e-30, 0.0], [1.0, 1.0]]):
        bounds = tb.logit_bounds(Normed(), torch.tensor(x), 1e-2)
        assert bounds.lower[1, 0] > 0.9
        assert not (bounds.lower[0] > 0).any()


@pytest.mark.parametrize("domain", ["interval", "linear"])
def test_a_weight_of_the_last_layer_that_is_read_again(domain: str) -> None:
    """By the very operation that is withheld for the margin, in either order of the sum."""

    class Twice(nn.Module):
        def __init__(self, first: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.w = first, nn.Parameter(torch.randn(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            product, size = nn.functional.linear(x.relu(), self.w), self.w.abs().sum(1)
            return product + size if self.first else size + product

    x = torch.randn(5, 4)
    one, other = (tb.logit_bounds(Twice(first), x, [0.0, 0.1], domain=domain) for first in (True, False))
    torch.testing.assert_close(one.lower, other.lower)
    torch.testing.assert_close(one.upper, other.upper)
    with torch.no_grad():
        truth = Twice(True)(x).double()
    assert ((one.lower[1] <= truth) & (truth <= one.upper[1])).all()
