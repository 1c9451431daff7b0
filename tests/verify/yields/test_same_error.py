"""One error that several places meet, with whatever sign: claims beside what is true."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.special import ndtr

import thetabox as tb
from thetabox.noise import Noise

DRAWS = 400_000
X = torch.tensor([[2.2, 0.0, 1.0, 0.5]], dtype=torch.float64)
NORMALISED = functional.layer_norm(X, (4,))[0]


class Of(nn.Module):
    """A function of the inputs and one parameter."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], start: Tensor) -> None:
        super().__init__()
        self.function, self.p = function, nn.Parameter(start.double())

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.p)


def claimed(function: Callable[[Tensor, Tensor], Tensor], start: Tensor, x: Tensor, sigma: float) -> float:
    model = Of(function, start)
    y = torch.zeros(len(x), dtype=torch.int64)
    assert bool((model(x).argmax(1) == y).all())
    return float(tb.certify_yield(model, x, y, sigma, 0.4).delta)


def beside(z: Tensor) -> Tensor:
    """The first of these numbers above 0."""
    return torch.stack([z[:, 0], torch.zeros_like(z[:, 0])], 1)


def below(z: Tensor, limit: float) -> Tensor:
    """Whether none of these numbers is far above a limit."""
    return torch.stack([torch.ones_like(z[:, 0]), 1000.0 * (z - limit).relu().sum(1)], 1)


@pytest.mark.parametrize("sigma", [0.3, 0.8, 2.0])
@pytest.mark.parametrize(
    "function",
    [
        lambda x, p: torch.cat([x + p, x - p], 1),
        lambda x, p: torch.cat([3.0 * x - p, p - x], 1),
        lambda x, p: torch.cat([x * p + p, x - p], 1),
        lambda x, p: torch.cat([3.0 * x * p - p, x - p], 1),
    ],
)
def test_a_parameter_that_is_added_and_taken_off(function: Callable[[Tensor, Tensor], Tensor], sigma: float) -> None:
    """Both logits are linear in the parameter, so that the margin is a normal number."""
    x, at, off = torch.ones(1, 1).double(), torch.ones(1).double(), torch.full((1,), 2.0).double()
    margins = [float(z[0, 0] - z[0, 1]) for z in (function(x, at), function(x, off))]
    slope = abs(margins[1] - margins[0])
    truth = float(ndtr(torch.tensor(-margins[0] / (slope * sigma)).double()))
    found = claimed(function, torch.ones(1), x, sigma)
    assert truth * (1.0 - 1e-9) <= found <= max(3.0 * truth, 1e-3), (truth, found)


def drawn(sigma: float, count: int) -> Tensor:
    stream = torch.Generator().manual_seed(0)
    return 1.0 + sigma * torch.randn(DRAWS, count, generator=stream, dtype=torch.float64)


def least(wrong: Tensor) -> float:
    """What a failure probability is at least, but for 1e-9."""
    share = wrong.double().mean()
    return float(share - 6.0 * (share / len(wrong)).sqrt())


@pytest.mark.parametrize("sigma", [0.5, 0.8])
def test_one_parameter_is_scale_and_shift_of_a_norm(sigma: float) -> None:
    found = claimed(lambda x, p: beside(functional.layer_norm(x, (4,), p, p)), torch.ones(4), X, sigma)
    truth = least(((NORMALISED + 1.0) * drawn(sigma, 4))[:, 0] <= 0.0)
    assert truth <= found < 1.2 * truth


@pytest.mark.parametrize("sigma", [0.3, 0.4, 0.5])
def test_ends_of_a_norm_whose_scale_is_its_shift(sigma: float) -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(4, dtype=torch.float64)
            self.norm.bias = self.norm.weight

        def forward(self, x: Tensor) -> Tensor:
            return below(self.norm(x), 6.0)

    found = float(tb.certify_yield(Norm(), X, torch.tensor([0]), sigma, 0.4).delta)
    z = (NORMALISED + 1.0) * drawn(sigma, 4)
    assert least(1000.0 * (z - 6.0).relu().sum(1) >= 1.0) <= found < 1.0


@pytest.mark.parametrize("equation", ["bsc,oc->bo", "bsc,oc->b"])
@pytest.mark.parametrize("sigma", [0.05, 0.1])
def test_one_entry_that_a_sum_reads_at_many_places(equation: str, sigma: float) -> None:
    def function(x: Tensor, p: Tensor) -> Tensor:
        return below(torch.einsum(equation, x, p).view(-1, 1) + 80.0, 0.0)

    x, start = torch.ones(1, 100, 1).double(), -torch.ones(1, 1)
    if equation.endswith("o"):
        assert least(-100.0 * drawn(sigma, 1)[:, 0] + 80.0 > 1e-3) <= claimed(function, start, x, sigma) < 1.0
    else:  # a result of one number for each sample
        with pytest.raises(tb.InputError, match="use sampled_yield"):
            claimed(function, start, x, sigma)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, p: sum(functional.linear(x, part) for part in p.chunk(2)),
        lambda x, p: functional.linear(x, *p.split([2, 2])[:1]) + p.split([2, 2])[1].T,
        lambda x, p: x * p.unbind(0)[0] + p.unbind(0)[1],
    ],
)
def test_a_factor_of_a_tensor_that_is_cut_up_is_refused(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Of(function, torch.rand(4, 1) + 1.0)
    with pytest.raises(tb.InputError, match="use sampled_yield"):
        tb.certify_yield(model, X[:, :1], torch.tensor([0]), 0.1, noise=Noise(correlated={"layer": 3.0}))


def steps_first(layer: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, p: layer(x.transpose(0, 1), p).transpose(0, 1).flatten(1)[:, :2]


@pytest.mark.parametrize("samples", [2, 3, 5])
@pytest.mark.parametrize(
    "function",
    [
        steps_first(lambda x, p: functional.layer_norm(x, (4,), p, p)),
        steps_first(lambda x, p: functional.rms_norm(x, (4,), p)),
        steps_first(lambda x, p: functional.prelu(x, p[:1])),
        lambda x, p: functional.layer_norm(x.reshape(-1, 4), (4,), p).reshape(-1, 12)[:, :2],
        lambda x, p: functional.prelu(x.reshape(-1, 4), p[:1]).reshape(-1, 12)[:, :2],
        lambda x, p: (x.reshape(-1, 4) @ p.view(4, 1)).reshape(-1, 3)[:, :2],
    ],
)
def test_samples_that_do_not_stand_first_are_refused_in_batches_of_any_size(
    function: Callable[[Tensor, Tensor], Tensor], samples: int
) -> None:
    x = torch.randn(samples, 3, 4, dtype=torch.float64)
    model = Of(function, torch.ones(4))
    with pytest.raises(tb.InputError, match="use sampled_yield"):
        tb.certify_yield(model, x, model(x).argmax(1), 0.05)


def test_numbers_of_which_a_sample_has_one() -> None:
    """A value of shape ``[samples]`` on the way."""
    x = torch.rand(4, 4, dtype=torch.float64)

    def function(x: Tensor, p: Tensor) -> Tensor:
        return torch.stack([(x + p).sum(1), 2.0 * x.sum(1) - 1.0], 1)

    found = tb.certify_yield(Of(function, torch.ones(4)), x, torch.zeros(4, dtype=torch.int64), 0.1, 0.4).delta[0]
    z = (drawn(0.1, 4)).sum(1)[:, None]
    for sample, margin in enumerate(z.T + x.sum(1)[:, None] - (2.0 * x.sum(1) - 1.0)[:, None]):
        assert least(margin <= 0.0) <= found[sample] < 1.0
