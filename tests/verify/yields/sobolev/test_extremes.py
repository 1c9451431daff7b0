"""Numbers so small or large that their squares are lost, and sums of which little is left."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

import thetabox as tb


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
