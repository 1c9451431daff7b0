"""A network that does something else than it says of itself must not be spoken of, at its own values or elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.errors import InputError
from thetabox.models import LSNN, LeakyCells
from thetabox.verify import arguments
from thetabox.verify.histories import Histories
from thetabox.verify.histories.description.check import check_description
from thetabox.verify.problem import Problem


class Cell(nn.Module):
    """Integrate and fire; ``twist`` changes something that the description does not tell."""

    def __init__(self, twist: str = "", levels: int = 6) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.twist = twist
        self.enter = nn.Parameter(0.3 * torch.randn(3, 6))
        self.loop = nn.Parameter(0.1 * torch.randn(6, 6) * (1 - torch.eye(6)))
        self.leave = nn.Parameter(torch.randn(6, 3))
        self.offset = nn.Parameter(torch.zeros(3))
        self.register_buffer("threshold", torch.full((levels,), 0.02))
        self.register_buffer("tau", torch.full((levels,), 10.0))
        self.register_buffer("mask", 1 - torch.eye(6))
        if twist == "gain":
            self.gain = nn.Parameter(torch.ones(6))
        if twist == "shift":
            self.shift = nn.Parameter(torch.zeros(6))

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        return self.enter.new_zeros(batch, 6), self.enter.new_zeros(batch, 6)

    def step(self, x_t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        v, z = state
        alpha = torch.exp(-1.0 / self.tau)
        enter = self.enter.clamp(max=1.0) if self.twist == "clamped" else self.enter
        loop = self.loop if self.twist == "diagonal" else self.loop * self.mask
        drive = x_t @ enter + z @ loop
        if self.twist == "order":
            drive = z @ loop + sum(x_t[:, i : i + 1] * enter[i] for i in (2, 0, 1))
        if self.twist == "gain":
            drive = drive * self.gain
        if self.twist == "shift":
            drive = drive + self.shift
        v = alpha * v + (1 - alpha) * drive - z * self.threshold
        z = (v >= self.threshold if self.twist == "tie" else v > self.threshold).to(v.dtype)
        return z, (v, z)

    def readout(self, outputs: Tensor) -> Tensor:
        mean = outputs.mean(1)
        if self.twist == "readout":
            mean = mean * (1 + 1e-4 * mean)
        return mean @ self.leave + self.offset

    def leaky_cells(self) -> LeakyCells:
        return LeakyCells("enter", "loop", "leave", "offset", "threshold", "tau", None, None, 1.0, 0)


def histories(model: nn.Module, box: tb.Box | None = None) -> Histories:
    x = torch.randn(4, 20, 3, generator=torch.Generator().manual_seed(1))
    return Histories(Problem(model, arguments.settings("interval", box, "real", "float64", "cpu"), x))


def test_a_true_description_is_taken() -> None:
    histories(Cell(levels=1), tb.Box(kind="absolute"))
    named = "*,beta,tau_adapt,threshold"
    histories(LSNN(3, 6, 3, refractory=3, tau=[5.0, 20.0] * 3), tb.Box(kind="range", include=named))


@pytest.mark.parametrize("twist", ["gain", "shift"])
def test_a_tensor_in_the_box_that_is_not_named(twist: str) -> None:
    """At its own value it does nothing, elsewhere in the box it does."""
    with pytest.raises(InputError, match=f"'{twist}'.*interval"):
        histories(Cell(twist), tb.Box(kind="absolute"))
    histories(Cell(twist), tb.Box(kind="absolute", exclude=twist))


def test_the_mask_of_the_diagonal_is_not_to_be_off() -> None:
    with pytest.raises(InputError, match="'off_diagonal'"):
        histories(LSNN(3, 6, 3), tb.Box(include="*,off_diag*"))


def test_roles_that_show_only_elsewhere_in_the_box() -> None:
    """No weight is above 1 and the diagonal is 0, but not in the whole of an absolute box."""
    for twist in ("clamped", "diagonal"):
        with pytest.raises(InputError, match="something else"):
            histories(Cell(twist), tb.Box(kind="absolute", scale={"*": 10.0}))
    # A diagonal of zeros stays one in a relative box.
    histories(Cell("diagonal"))


def test_a_readout_that_is_not_linear() -> None:
    with pytest.raises(InputError, match="something else"):
        histories(Cell("readout"))


def test_ties_may_differ() -> None:
    """On a threshold to the last bit two orders of a sum disagree: no reason to refuse."""
    model = Cell("order").double()
    x = torch.randn(300, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        said = (1 - torch.exp(-1.0 / model.tau)) * (x[:, 0] @ model.enter)
        found = model.step(x[:, 0], model.initial_state(300))[1][0]
        sample = int(((found > said) & (said > 0)).any(1).nonzero()[0])
        cell = int(((found > said) & (said > 0))[sample].nonzero()[0])
        model.threshold[cell] = said[sample, cell]
    problem = Problem(model, arguments.settings("interval", None, "real", "float64", "cpu"), x[sample : sample + 1])
    check_description(problem, [model.leaky_cells()])


def test_a_spike_at_a_tie_is_another_network() -> None:
    """Silent by its description, it spikes at every step."""
    model = Cell("tie")
    with torch.no_grad():
        model.enter.zero_()
        model.threshold.zero_()
    with pytest.raises(InputError, match="equal to A"):
        histories(model)


WRONG: list[dict[str, Any]] = [
    {"refractory": 1.05},
    {"refractory": -1},
    {"dt": 0.0},
    {"weight_in": "leave"},
    {"weight_out": "enter"},
    {"bias_out": "tau"},
    {"threshold": "offset"},
    {"beta": "threshold"},
]


def test_descriptions_that_cannot_be() -> None:
    problem = histories(Cell()).problem
    for says in WRONG:
        with pytest.raises(InputError, match="leaky_cells"):
            check_description(problem, [replace(Cell().leaky_cells(), **says)])
