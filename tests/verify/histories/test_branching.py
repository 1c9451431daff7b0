"""The branching ratio of spikes: networks of which it is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.models import LSNN
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.cells import cells
from thetabox.verify.histories import Histories
from thetabox.verify.histories.branching import Branching, branching
from thetabox.verify.problem import Problem, Settings


class Chain(nn.Module):
    """Cells that are driven near their threshold, and others that spike exactly where one of these does."""

    def __init__(self, onward: float, others: int = 3, back: float = 0.0) -> None:
        super().__init__()
        self.enter, self.onward = nn.Linear(1, 1, bias=False), nn.Linear(1, others, bias=False)
        self.enter.weight.data[:] = 1.0
        self.onward.weight.data[:] = onward
        self.back = nn.Parameter(torch.full((1,), back))

    def forward(self, x: Tensor) -> Tensor:
        first = spike1 = torch.zeros(x.shape[0], 1)
        second, total = torch.zeros(x.shape[0], len(self.onward.weight)), torch.zeros(x.shape[0], 3)
        for t in range(x.shape[1]):
            first = 0.5 * first + self.enter(x[:, t]) + self.back * spike1
            spike1 = (first > 1.0).float()
            first = first * (1 - spike1)
            second = 0.1 * second + self.onward(spike1)
            spike2 = (second > 1.0).float()
            second = second * (1 - spike2)
            total = total + spike2
        return total


def of(model: nn.Module, x: Tensor) -> Branching:
    settings = Settings(tb.Box(), Rounding(torch.float64), torch.device("cpu"), "histories", "float64")
    return branching(Histories(Problem(model, settings, x)).engine, 100)


@pytest.mark.slow
@pytest.mark.parametrize(("onward", "ratio"), [(0.0, 0.0), (0.5, 0.0), (1.5, 3.0)])
def test_a_flip_changes_all_cells_that_hang_on_it_and_no_others(onward: float, ratio: float) -> None:
    # The first cell is nearest to its threshold in each step; the others are far from theirs.
    x = 0.9 + 0.15 * torch.rand(5, 8, 1, generator=torch.Generator().manual_seed(0))
    found = of(Chain(onward), x)
    assert found.flips == 20
    if onward == 0.5:
        # Those that hang on it by too little stay, but for two flips that come together in their potentials.
        assert found.ratio <= 0.5
    else:
        assert found.ratio == pytest.approx(ratio, abs=0.35)


def test_recurrent_weights_are_what_spreads_it_in_one_layer() -> None:
    torch.manual_seed(0)
    x = torch.rand(10, 20, 4)
    model = LSNN(inputs=4, units=12, classes=3)
    free = of(model, x)
    assert free.flips == 40
    assert free.smallest > 0
    with torch.no_grad():
        model.W_rec.zero_()
    assert of(model, x).ratio == 0.0
    with torch.no_grad():
        model.W_rec.fill_(20.0)
    assert of(model, x).ratio > free.ratio


def test_what_is_said_of_a_network() -> None:
    torch.manual_seed(0)
    assert cells(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.rand(2, 3)) == []
    said = cells(Chain(1.5), torch.rand(4, 6, 1), spread=True)
    assert said[0] == "recognised: 2 layers of leaky cells (1, 3), read by the sum of spikes over time"
    assert said[1].startswith("  layer 0: 1 cells of the input and layer 0 of the step before, decay 0.5, threshold 1,")
    assert said[-1].startswith("branching ratio")
    (described,) = cells(LSNN(inputs=4, units=5, classes=3), torch.rand(2, 6, 4))
    assert "describes itself" in described
