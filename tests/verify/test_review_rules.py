"""Where rules met what their writers had not thought of: unknown ends, rounded places, weights of a row each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thetabox as tb
from tests.verify.contract import EVALUATION, assert_inside, evaluate, points

pytestmark = pytest.mark.usefixtures("traced_once")


class Around(nn.Module):
    """``function(a x - 1/2)``, with one value near 0 in every sample."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.function = nn.Parameter(torch.ones(4)), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x * self.a - 0.5)


NEAR_ZERO = torch.tensor([[0.51, 1, 2, 3], [0.49, 1, 2, 3], [1, 0.51, 2, 3]])
UNKNOWN = {
    "sort": lambda h: (1 / h).sort(1)[0],
    "sort, largest first": lambda h: (1 / h).sort(1, descending=True)[0],
    "topk": lambda h: (1 / h).topk(2, 1)[0],
    "least of topk": lambda h: (1 / h).topk(2, 1, largest=False)[0],
    "kthvalue": lambda h: (1 / h).kthvalue(2, 1, keepdim=True)[0] + h,
    "median": lambda h: (1 / h).median(1, keepdim=True)[0] + h,
    "cummax": lambda h: (1 / h).cummax(1)[0],
    "sort of one dimension": lambda h: (1 / h).unbind(1)[0][:, None].sort(1)[0] + h,
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_values_that_are_unknown_have_no_place_in_an_order(name: str) -> None:
    """``1 / h`` with h around 0 is beyond all bounds, which sorting behind the others would forget."""
    model = Around(UNKNOWN[name])
    bounds = tb.logit_bounds(model, NEAR_ZERO, 0.05, domain="interval")
    for point in points(model, 0.05, 20):
        assert_inside(bounds, evaluate(model, point, NEAR_ZERO), EVALUATION)


@pytest.mark.parametrize(
    "function",
    [
        lambda h: torch.logit((h + 0.03) * 0.2).clamp(-1, 1),
        lambda h: torch.logit((h + 0.03) * 0.2).tanh(),
    ],
    ids=["logit, clamped", "logit, hyperbolic tangent"],
)
def test_what_may_be_no_number_stays_unbounded(function: Callable[[Tensor], Tensor]) -> None:
    """A logit of numbers below 0 is none, whatever stands behind it."""
    model = Around(function)
    bounds = tb.logit_bounds(model, NEAR_ZERO, 0.1, domain="interval")
    for point in points(model, 0.1, 20):
        assert_inside(bounds, evaluate(model, point, NEAR_ZERO), EVALUATION)


def test_a_direction_of_length_0_stays_unbounded() -> None:
    class Directed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v, self.g = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, torch._weight_norm(self.v, self.g, 0).clamp(-1, 1))

    bounds = tb.logit_bounds(Directed(), torch.ones(1, 3), 1.0, domain="interval")
    assert (bounds.lower == -torch.inf).all()
    assert (bounds.upper == torch.inf).all()


class Resized(nn.Module):
    """A product, and the nearest value to each place of another size."""

    def __init__(self, size: int, places: int, mode: str) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(2, size))
        self.places, self.mode = places, mode

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x * self.a, size=self.places, mode=self.mode).flatten(1)


@pytest.mark.slow
@pytest.mark.thin(4)
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize(("size", "places"), [(6, 74), (14, 46), (26, 22), (5, 10), (7, 3)])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_nearest_neighbours_in_both_arithmetics(size: int, places: int, mode: str, precision: str) -> None:
    """A quotient of sizes rounded in float32 points elsewhere than one rounded in float64."""
    torch.manual_seed(0)
    model, x = Resized(size, places, mode), torch.randn(2, 2, size)
    now = {n: p.detach() for n, p in model.named_parameters()}
    real, rounded = (
        tb.logit_bounds(model, x, 0.0, domain="interval", arithmetic=arithmetic, precision=precision)
        for arithmetic in ("real", "float32")
    )
    runs = evaluate(model, now, x)
    assert_inside(rounded, runs)
    # What is certified in real numbers is the network that runs, whose neighbours are those of its own type.
    assert_inside(real, runs, 1e-5)
    exact = evaluate(model, {n: p.double() for n, p in now.items()}, x)
    assert_inside(real, exact, EVALUATION)
    assert_inside(rounded, exact, EVALUATION)
    agree = (exact - runs).abs() < 1e-5
    assert ((real.upper - real.lower)[agree] < 1e-5).all()
    wide = tb.logit_bounds(
        Resized(size, places, mode).double(), x.double(), 0.0, domain="interval", precision=precision
    )
    assert (wide.upper - wide.lower).max() < 1e-5


@pytest.mark.thin(4)
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize(("size", "places"), [(6, 74), (14, 46), (26, 22), (5, 10)])
def test_rows_go_back_to_the_neighbours_of_both_arithmetics(size: int, places: int, mode: str) -> None:
    """The same in ``linear``, where a row could go back to the neighbour of one type alone."""
    torch.manual_seed(0)
    model, x = Resized(size, places, mode), torch.randn(2, 2, size)
    now = {n: p.detach() for n, p in model.named_parameters()}
    # Torch's own derivative goes back to the neighbours of float32 in float64 too.
    for held in (model, Resized(size, places, mode).double()):
        values = {n: p.detach().double() for n, p in held.named_parameters()}
        exact = evaluate(held, values, x.double())
        assert_inside(tb.logit_bounds(held, x, 0.0, domain="linear"), exact, EVALUATION)
    assert_inside(tb.logit_bounds(model, x, 0.0, domain="linear"), evaluate(model, now, x), 1e-5)
    for how in ("interval", "backward"):
        bounds = tb.logit_bounds(model, x, 0.0, domain="linear", arithmetic="float32", options={"intermediate": how})
        assert_inside(bounds, evaluate(model, now, x))


WEIGHTS = {
    "convolution of one output": (lambda h, w: F.conv1d(h, w).sum(1, keepdim=True), [(1, 4, 2)]),
    "convolution's bias": (lambda h, b: F.conv1d(h, torch.ones(2, 4, 2).to(h), b), [(2,)]),
    "transposed convolution": (lambda h, w: F.conv_transpose1d(h[:, :1], w).amax(1), [(1, 2, 2)]),
    "linear of one output": (lambda h, w: F.linear(h[:, 0], w).amax(1, keepdim=True) + h[:, 0], [(1, 3)]),
    "linear of matrices": (lambda h, w: F.linear(h, w), [(2, 3)]),
    "product with a vector": (lambda h, w: (h @ w).amax(-1, keepdim=True) + h[:, 0], [(3,)]),
    "group norm": (lambda h, w, b: F.group_norm(h, 2, w, b), [(4,), (4,)]),
    "instance norm": (lambda h, w, b: F.instance_norm(h, None, None, w, b), [(4,), (4,)]),
    "layer norm": (lambda h, w, b: F.layer_norm(h, (3,), w, b), [(3,), (3,)]),
    "einsum": (lambda h, w: torch.einsum("ncl,cd->ndl", h, w), [(4, 2)]),
    "prelu": (F.prelu, [(4,)]),
    "a row for every sample": (lambda h, w: torch.cat([h, w.expand(h.shape[0], 2, 3)], 1), [(2, 3)]),
}


class Computed(nn.Module):
    """A layer whose weights are computed from parameters."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.function, shapes = WEIGHTS[name]
        torch.manual_seed(3)
        self.a = nn.Parameter(torch.randn(4, 3))
        self.count = len(shapes)
        for place, shape in enumerate(shapes):
            setattr(self, f"w{place}", nn.Parameter(torch.randn(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x * self.a, *[getattr(self, f"w{n}").tanh() for n in range(self.count)]).flatten(1)


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("name", WEIGHTS)
def test_computed_weights_with_another_epsilon_for_each_sample(name: str) -> None:
    """Such weights have a row for each sample, which is no dimension of theirs."""
    model = Computed(name)
    x, epsilon = torch.randn(3, 4, 3), [0.0, 0.02, 1.2]
    bounds = tb.logit_bounds(model, x, torch.tensor(epsilon, dtype=torch.float64), domain="interval")
    for n, e in enumerate(epsilon):
        alone = tb.logit_bounds(model, x, e, domain="interval")
        torch.testing.assert_close(bounds.lower[n], alone.lower[n], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(bounds.upper[n], alone.upper[n], rtol=1e-9, atol=1e-9)
        for point in points(model, e, 6):
            answer = evaluate(model, point, x)[n]
            assert_inside(tb.Interval(bounds.lower[n], bounds.upper[n]), answer, EVALUATION)
