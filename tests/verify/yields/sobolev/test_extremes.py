"""Numbers so small or large that their squares are lost, and sums of which little is left."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn

import thetabox as tb
from tests.verify.yields.sobolev import chains
from thetabox.verify.yields.chain import LARGEST, ChainConvolution, ChainPool, ChainStage
from thetabox.verify.yields.sobolev.convolved import Convolved, StageInputs
from thetabox.verify.yields.sobolev.ends import known
from thetabox.verify.yields.sobolev.patterns import Pattern


def delta(model: nn.Module, x: torch.Tensor, sigma: float, include: str) -> float:
    found = tb.certify_yield(
        model.double(), x, torch.tensor([0]), sigma, 0.1, method="log-sobolev", box=tb.Box(include=include)
    )
    return float(found.delta)


@pytest.mark.parametrize("size", [1.0, 1e-60, 1e-120, 1e-165])
def test_errors_of_tiny_inputs_are_not_lost(size: float) -> None:
    first, hidden, last = nn.Conv2d(1, 1, (1, 2), bias=False), nn.Linear(1, 1, bias=False), nn.Linear(1, 2)
    model = nn.Sequential(first, nn.ReLU(), nn.Flatten(), hidden, nn.ReLU(), last).double()
    with torch.no_grad():
        first.weight.copy_(torch.tensor([-0.5, 0.4999]).view_as(first.weight))
        hidden.weight.fill_(size**-0.5)
        last.weight.copy_(torch.tensor([[0.0], [100.0 * size**-0.5]], dtype=torch.float64))
        last.bias.copy_(torch.tensor([2.0, 1.0]))
    # Some 44 % of chips are wrong.
    assert delta(model, torch.full((1, 1, 1, 2), size, dtype=torch.float64), 0.1, "0.weight,5.bias") > 0.3


@pytest.mark.parametrize("size", [1.0, 1e30, 1e104])
def test_tiny_errors_of_large_inputs_are_not_made_larger(size: float) -> None:
    many = 150
    first, last = nn.Conv2d(4, many + 1, 1, bias=False), nn.Linear(many + 1, 2, bias=False)
    model = nn.Sequential(first, nn.ReLU(), nn.Flatten(), last).double()
    weight = torch.zeros(many + 1, 4, dtype=torch.float64)
    weight[:many, 0], weight[:many, 1] = 10.0 / size, -9.999 / size
    weight[many, 2], weight[many, 3] = -5.01, 5.0
    with torch.no_grad():
        first.weight.copy_(weight.view_as(first.weight))
        last.weight.zero_()
        last.weight[0, :many], last.weight[1, many] = 1.0, 1e4
    # Some 49 % are wrong.
    x = torch.tensor([size, size, 1.0, 1.0], dtype=torch.float64).view(1, 4, 1, 1)
    assert delta(model, x, 0.1, "0.*") > 0.3


@pytest.mark.parametrize("step", range(1, 8))
def test_what_cancels_in_an_average_of_kernels_is_rounded(step: int) -> None:
    numbers = [0.3500675884866145, -0.055852636363094864, -0.29421495212351484]
    true = float(sum(map(Fraction, numbers)) / 3)
    first, last = nn.Conv2d(1, 1, (1, 3), bias=False), nn.Linear(1, 2)
    model = nn.Sequential(first, nn.AvgPool2d((1, 3)), nn.ReLU(), nn.Flatten(), last).double()
    with torch.no_grad():
        first.weight.copy_(torch.tensor(numbers, dtype=torch.float64).view_as(first.weight))
        last.weight.copy_(torch.tensor([[3.0], [0.0]], dtype=torch.float64) / (true * (1.0 + step * 1e-3)))
        last.bias.copy_(torch.tensor([0.0, 3.0]))
    # In real numbers the margin is below 0 on every chip.
    assert Fraction(true) * Fraction(float(last.weight[0, 0].detach())) < 3
    x = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64).view(1, 1, 1, 5)
    assert delta(model, x, 1e-7, "4.bias") == 1.0


@pytest.mark.parametrize("size", [1.0, 1e-120, 1e-165, 1e-300])
def test_a_network_of_one_tiny_scale(size: float) -> None:
    first, last = nn.Conv2d(1, 1, (1, 2), bias=False), nn.Linear(1, 2)
    model = nn.Sequential(first, nn.ReLU(), nn.Flatten(), last).double()
    with torch.no_grad():
        first.weight.copy_(torch.tensor([-0.5, 0.4999]).view_as(first.weight))
        last.weight.copy_(torch.tensor([[0.0], [100.0]]))
        last.bias.copy_(torch.tensor([2.0 * size, size], dtype=torch.float64))
    # Some 44 % of chips are wrong.
    assert delta(model, torch.full((1, 1, 1, 2), size, dtype=torch.float64), 0.1, "0.weight") > 0.3


@pytest.mark.parametrize("method", ["entropic", "log-sobolev"])
def test_numbers_beyond_the_largest_are_left_to_others(method: str) -> None:
    front = nn.Flatten() if method == "entropic" else nn.Conv2d(1, 1, 1)
    model = nn.Sequential(front, nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2)).double()
    if method == "log-sobolev":
        model.insert(1, nn.ReLU())
    for share, proven in ((1e-3, True), (1e3, False)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1.0)
            model[-1].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        x = torch.full((1, 1, 1, 1), LARGEST * share / 10.0, dtype=torch.float64)
        found = [tb.certify_yield(model, x, [0], 1e-3, method=m) for m in (method, "martingale")]
        assert [bool(f.proven) for f in found] == [proven, True]


def test_kernels_that_are_averages_are_as_exact_as_they_say() -> None:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 1, 3, 3, generator=g, dtype=torch.float64)
    none, size = torch.zeros(3, dtype=torch.float64), weight.abs()
    layer = ChainConvolution(weight, none, size, none, (1, 1), (0, 0, 0, 0))
    stage = Convolved.of(ChainStage(layer, average=ChainPool(False, (3, 3), (3, 3))), (1, 7, 7), 0.1)
    patch = stage.windows.patch
    worst = Fraction(0)
    for c in range(3):
        exact = [[Fraction(0)] * patch[1] for _ in range(patch[0])]
        for up in range(3):
            for left in range(3):
                for i in range(3):
                    for j in range(3):
                        exact[up + i][left + j] += Fraction(float(weight[c, 0, i, j])) / 9
        for i in range(patch[0]):
            for j in range(patch[1]):
                n = i * patch[1] + j
                off = abs(Fraction(float(stage.kernels[c, 0, n])) - exact[i][j])
                assert off <= Fraction(stage.kernel_error) * Fraction(float(stage.magnitude[c, 0, n]))
                worst = max(worst, off)
    assert worst > 0
    plain = Convolved.of(ChainStage(layer), (1, 7, 7), 0.1)
    assert plain.kernel_error == 0.0
    assert torch.equal(plain.kernels.view_as(weight), weight)


def test_an_end_that_is_no_number_leaves_a_candidate_open() -> None:
    chain, x, _ = chains.samples("plain", 1, seed=9)
    read = StageInputs.of(Convolved.of(chain.stages[0], (1, 6, 6), 0.1), x[0], x[0], x[0])
    ends = known(read, 1e-6)
    for name in ("most", "beyond"):
        unknown = torch.full_like(ends.most, torch.nan)
        pattern = Pattern.of(read, replace(ends, **{name: unknown}))
        whole = Pattern.of(read, replace(ends, **{name: torch.full_like(ends.most, torch.inf)}))
        assert torch.equal(pattern.open, whole.open)
        assert not bool((pattern.off & ~whole.off).any())
