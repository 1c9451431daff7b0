"""Loops over time in the styles in which people write them: recognised, or one line that says why not.

That what was read runs as the network does is looked at by ``recognised`` itself, and again here.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify import unrolled
from tests.verify.histories.spiking_cells import TwoLayers
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.histories.forward import run
from thetabox.verify.histories.recognition import NotRecognised, looks_spiking, recognised
from thetabox.verify.problem import Problem, Settings

READ = {
    unrolled.ChargeFireReset: [6, 3],
    unrolled.SumOfList: [6],
    unrolled.DirectCoding: [6, 3],
    unrolled.DirectNumbers: [6, 3],
    unrolled.RepeatedInput: [6, 3],
    unrolled.WithoutItself: [6],
    unrolled.LargestOverTime: [6, 3],
    unrolled.CurrentsFirst: [6],
    unrolled.Slices: [6],
    unrolled.RecurrentInPlace: [6],
    unrolled.CurrentsInAList: [6],
    unrolled.LayerByLayer: [6, 3],
    unrolled.OneStepLate: [3, 6],
    unrolled.ParametersAsStart: [6],
    unrolled.Convolutional: [8, 3],
    unrolled.ConvolutionalInPools: [32],
    unrolled.ThreeLayers: [6, 6, 3],
}
NOT_READ = {
    unrolled.ResetFromMembrane: "reads the potential of a cell that spikes",
    unrolled.LastMembrane: "reads the potential of a cell that spikes",
    unrolled.Dictionary: "hangs on 'beta', which is in the box; exclude it",
    unrolled.DirectOnce: "hangs on 'beta', which is in the box; exclude it",
    unrolled.LearnedStart: "hangs on 'start', which is in the box; exclude it",
}


def problem(model: nn.Module, x: Tensor, box: tb.Box | None = None) -> Problem:
    settings = Settings(box or tb.Box(), Rounding(torch.float64), torch.device("cpu"), "histories", "float64")
    return Problem(model, settings, x)


def inputs(style: type[nn.Module]) -> Tensor:
    shape = (1, 6, 6) if style.__name__.startswith("Conv") else (unrolled.INPUTS,)
    return torch.randn(20, 7, *shape)


def assert_runs_alike(model: nn.Module, x: Tensor, box: tb.Box | None = None) -> list[int]:
    asked = problem(model, x, box)
    found = recognised(asked)
    ran = run(found.net, found.inputs(x))
    sure = ran.nearest > 1e-5  # the network runs in float32
    assert sure.sum() > len(x) // 2
    assert torch.allclose(ran.logits[sure], model(x).double()[sure], atol=1e-4)
    return [layer.units for layer in found.net.layers]


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize("style", READ)
def test_loops_are_read(style: type[nn.Module]) -> None:
    torch.manual_seed(0)
    assert assert_runs_alike(style(), inputs(style)) == READ[style]


@pytest.mark.slow
@pytest.mark.parametrize("style", NOT_READ)
def test_what_is_not_read_is_said_in_a_line(style: type[nn.Module]) -> None:
    with pytest.raises(NotRecognised) as error:
        recognised(problem(style(), inputs(style)))
    assert NOT_READ[style] in str(error.value)


@pytest.mark.parametrize("style", [unrolled.Dictionary, unrolled.DirectOnce])
def test_decays_that_are_excluded_are_numbers(style: type[nn.Module]) -> None:
    torch.manual_seed(0)
    assert assert_runs_alike(style(), inputs(style), tb.Box(exclude="beta"))


@pytest.mark.thin(2)
@pytest.mark.parametrize("change", unrolled.CHANGES)
def test_loops_that_change_are_not_read(change: str) -> None:
    with pytest.raises(NotRecognised):
        recognised(problem(unrolled.Changed(change), torch.randn(2, 9, unrolled.INPUTS)))


@pytest.mark.slow
def test_long_loops_and_networks_without_spikes() -> None:
    torch.manual_seed(0)
    assert assert_runs_alike(TwoLayers("subtract at once"), torch.randn(6, 60, 5)) == [7, 3]
    plain = problem(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.rand(2, 4))
    assert not looks_spiking(plain)
    with pytest.raises(NotRecognised, match="compares a potential with a threshold"):
        recognised(plain)


def test_a_first_step_that_is_another_where_no_sample_shows_it() -> None:
    """Twice the drive, in front of a state of its own; without inputs nothing tells the two apart."""

    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = nn.Linear(3, 4, bias=False), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            v, total = None, None
            for t in range(x.shape[1]):
                u = self.fc(x[:, t])
                v = 2 * u if v is None else 0.9 * v + u
                z = (v > 1).to(v.dtype)
                v = v - z
                total = z if total is None else total + z
            return self.out(total)

    with pytest.raises(NotRecognised, match="first step"):
        recognised(problem(Doubled(), torch.zeros(4, 6, 3)))


def test_steps_that_read_what_is_computed_for_each_where_no_sample_shows_it() -> None:
    """Currents of all steps at once, those of later ones scaled up; without inputs they are all alike."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = nn.Linear(3, 4, bias=False), nn.Linear(4, 2)
            self.register_buffer("scale", torch.arange(1.0, 7.0)[:, None])

        def forward(self, x: Tensor) -> Tensor:
            drive = self.fc(x * self.scale)
            v = total = x.new_zeros(x.shape[0], 4)
            for t in range(x.shape[1]):
                v = 0.9 * v + drive[:, t]
                z = (v > 1).to(v.dtype)
                v = v - z
                total = total + z
            return self.out(total)

    with pytest.raises(NotRecognised, match="alike"):
        recognised(problem(Scaled(), torch.zeros(4, 6, 3)))
