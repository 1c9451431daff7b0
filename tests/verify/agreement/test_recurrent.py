"""A recurrent network runs by its forward: what that does beside step and readout is no part of a proof."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.models import LSNN, RecurrentModule


def sequences(count: int = 6) -> Tensor:
    return 3 * torch.randn(count, 12, 4, generator=torch.Generator().manual_seed(1))


class Reversed(LSNN):
    def forward(self, x: Tensor, return_outputs: bool = False) -> Tensor:  # type: ignore[override]  # one answer
        return super().forward(x.flip(1))  # type: ignore[return-value]  # as above


class Turned(LSNN):
    def forward(self, x: Tensor, return_outputs: bool = False) -> Tensor:  # type: ignore[override]  # one answer
        return super().forward(x.roll(1, 2))  # type: ignore[return-value]  # as above


class Scaled(LSNN):
    def forward(self, x: Tensor, return_outputs: bool = False) -> Tensor:  # type: ignore[override]  # one answer
        return super().forward(2 * x)  # type: ignore[return-value]  # as above


class ScaledOutputs(LSNN):
    def outputs(self, x: Tensor) -> Tensor:
        return 2 * super().outputs(x)


class ScaledAnswer(LSNN):
    def forward(self, x: Tensor, return_outputs: bool = False) -> Tensor:  # type: ignore[override]  # one answer
        return -super().forward(x)  # type: ignore[operator]  # as above


class Short(LSNN):
    """Leaves the last steps out."""

    def outputs(self, x: Tensor) -> Tensor:
        return super().outputs(x[:, :-3])


@pytest.mark.parametrize("kind", [Reversed, Turned, Scaled, ScaledOutputs, ScaledAnswer, Short])
@pytest.mark.parametrize("domain", ["interval", "histories", "auto"])
def test_other_forwards_are_refused(kind: type[LSNN], domain: str) -> None:
    torch.manual_seed(0)
    net, x = kind(4, 12, 3), sequences()
    with pytest.raises(tb.InputError, match="something else than step and readout"):
        tb.certify(net, x, [0] * len(x), [0.0, 1e-3], domain=domain)


@pytest.mark.parametrize(
    "hang",
    [
        lambda net: net.register_forward_hook(lambda module, inputs, output: -output),
        lambda net: net.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],)),
    ],
)
def test_hooks_are_part_of_what_runs(hang: Callable[[nn.Module], object]) -> None:
    torch.manual_seed(0)
    net, x = LSNN(4, 12, 3), sequences()
    hang(net)
    with pytest.raises(tb.InputError, match="hooks"):
        tb.logit_bounds(net, x, 1e-3)


class Timed(RecurrentModule):
    """A cell that counts its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.O = nn.Parameter(torch.eye(4)), nn.Parameter(torch.randn(4, 3))
        self.time = 0

    def initial_state(self, batch: int) -> Tensor:
        self.time = 0
        return self.W.new_zeros(batch, 4)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        self.time += 1
        state = 0.9 * state + x_t @ self.W * (1.0 if self.time <= 5 else -1.0)
        return state, state

    def readout(self, outputs: Tensor) -> Tensor:
        return outputs.mean(1) @ self.O


def test_a_step_that_counts_time_is_refused() -> None:
    torch.manual_seed(0)
    x = sequences()
    with pytest.raises(tb.InputError, match="not the function"):
        tb.certify(Timed(), x, [0] * len(x), 1e-3)


def test_honest_networks_pass() -> None:
    torch.manual_seed(0)
    for net in (LSNN(4, 12, 3), LSNN(4, 12, 3, recurrent=False), LSNN(4, 12, 3, refractory=0)):
        x = sequences()
        found = tb.certify(net, x, net(x).argmax(1), [0.0, 1e-4])
        assert found.checked["samples"] == len(x)
