"""Networks that were once recognised as something that they are not, and what once ended in a traceback."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify.histories.test_recognition import problem
from thetabox.models import RecurrentModule
from thetabox.verify.histories.forward import run
from thetabox.verify.histories.recognition import NotRecognised, recognised
from thetabox.verify.histories.recognition.constants import Uncertain
from thetabox.verify.histories.recognition.matrices import Matrix


class BeginsWithASpike(RecurrentModule):
    """The spike of the step before is read by a weight alone, and is there in front of the first step."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.back, self.fc = nn.Parameter(torch.tensor([[0.95]])), nn.Parameter(torch.tensor([[1.0]]))
        self.out, self.bias = nn.Parameter(torch.tensor([[0.0, 1.0]])), nn.Parameter(torch.tensor([0.5, 0.0]))

    def initial_state(self, batch: int):
        zero = self.fc.new_zeros(batch, 1)
        return zero + (2.0 if self.how == "found anew" else 0.0), zero + float(self.how == "kept")

    def step(self, x_t: Tensor, state):
        v, kept = state
        z = (v > 1).to(v.dtype) if self.how == "found anew" else 1 - kept if self.how == "inverted" else kept
        v = 0.9 * v + x_t @ self.fc + z @ self.back
        z = (v > 1).to(v.dtype)
        return z, (v if self.how == "found anew" else v - z, 1 - z if self.how == "inverted" else z)

    def readout(self, outputs: Tensor) -> Tensor:
        return outputs.sum(1) @ self.out + self.bias


@pytest.mark.parametrize("how", ["kept", "inverted", "found anew"])
def test_a_cell_that_begins_as_if_it_had_spiked(how: str) -> None:
    with pytest.raises(NotRecognised, match="spiked"):
        recognised(problem(BeginsWithASpike(how), torch.zeros(1, 4, 1)))


def test_states_that_say_different_things_of_the_step_before_the_first() -> None:
    class Twice(BeginsWithASpike):
        """The spike is kept twice; the potential reads what begins with none, a weight what begins with one."""

        def initial_state(self, batch: int):
            zero = self.fc.new_zeros(batch, 1)
            return zero, zero, zero + 1

        def step(self, x_t: Tensor, state):
            v, first, second = state
            v = 0.9 * v + x_t @ self.fc + second @ self.back - first
            z = (v > 1).to(v.dtype)
            return z, (v, z, z.clone())

    with pytest.raises(NotRecognised, match="and that it did not"):
        recognised(problem(Twice("kept"), torch.zeros(1, 4, 1)))


class Many(RecurrentModule):
    """Several spikes a step; each takes one, or all of them the square of their number."""

    def __init__(self, *, squared: bool = False) -> None:
        super().__init__()
        self.squared = squared
        self.fc = nn.Parameter(torch.tensor([[1.0]]))
        self.register_buffer("out", torch.tensor([[0.0, 1.0]]))
        self.register_buffer("bias", torch.tensor([4.3e6, 0.0]))

    def initial_state(self, batch: int):
        return self.fc.new_zeros(batch, 1)

    def step(self, x_t: Tensor, v: Tensor):
        v = 0.9 * v + x_t @ self.fc
        z = torch.floor(v).clamp(min=0)
        return z, v - (z * z if self.squared else z)

    def readout(self, outputs: Tensor) -> Tensor:
        return outputs.sum(1) @ self.out + self.bias


def test_more_spikes_than_are_counted_say_nothing() -> None:
    model, y = Many(), torch.tensor([0])
    cert = tb.certify(model, torch.full((1, 4, 1), 2.0**20), y, epsilon=[0.04], domain="histories")
    assert not bool(cert.verified.any())
    few = tb.certify(model, torch.full((1, 4, 1), 100.0), y, epsilon=[0.04], domain="histories")
    assert bool(few.verified.all())


def test_several_spikes_that_do_not_each_take_as_much() -> None:
    with pytest.raises(NotRecognised, match="each take as much"):
        recognised(problem(Many(squared=True), torch.full((1, 4, 1), 0.6)))


def test_steps_that_are_not_read_alike() -> None:
    """The first step counts twice; in it nothing spikes on these inputs."""

    class Uneven(BeginsWithASpike):
        def readout(self, outputs: Tensor) -> Tensor:
            return (outputs.sum(1) + outputs[:, 0]) @ self.out + self.bias

    with pytest.raises(NotRecognised, match="alike"):
        recognised(problem(Uneven("nothing"), torch.zeros(1, 4, 1)))


def test_the_errors_of_factors_are_those_of_weights() -> None:
    """Where a factor is known to a quarter, so is a weight of 1 times it; of entries at one place they add up."""
    entries = Matrix()
    entries.add(0, 0, None, Uncertain(1.0, 0.0, 0.25))
    entries.add(1, 0, None, Uncertain(3.0, 0.0, 0.5))
    entries.add(1, 0, None, Uncertain(-1.0, 0.0, 0.125))
    found = entries.weights_of(SimpleNamespace(tensors={}), 2, 1)  # type: ignore[arg-type]  # no tensors
    assert found.centre.tolist() == [[1.0], [2.0]]
    assert (found.error >= torch.tensor([[0.25], [0.625]], dtype=torch.float64)).all()
    assert (found.error <= torch.tensor([[0.25], [0.625]], dtype=torch.float64) + 1e-12).all()


class Step(nn.Module):
    """A loop whose step does one thing more."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.fc, self.fixed = how, nn.Linear(3, 4), torch.randn(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        v, total = torch.zeros(x.shape[0], 4), torch.zeros(x.shape[0], 4)
        for t in range(x.shape[1]):
            u = self.fc(x[:, t])
            if self.how == "huge":
                u = u * 1e200 * 1e200
            elif self.how == "deep":
                for _ in range(100):
                    u = torch.tanh(u)
            elif self.how == "empty":
                u = u + v[:, :0].mean(1, keepdim=True)
            v = 0.9 * v + u
            z = (v > 1).float()
            v = v - z
            total = total + z
        return total @ self.fixed if self.how == "a matrix that is an attribute" else total[:, :2]


def test_a_matrix_that_is_no_parameter_is_numbers() -> None:
    torch.manual_seed(0)
    model, x = Step("a matrix that is an attribute"), torch.randn(5, 4, 3)
    found = recognised(problem(model, x))
    assert torch.allclose(run(found.net, found.inputs(x)).logits, model(x).double(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["huge", "deep", "empty"])
def test_what_is_not_read_is_no_traceback(how: str) -> None:
    with pytest.raises(NotRecognised) as told:
        recognised(problem(Step(how), torch.randn(5, 4, 3)))
    assert len(str(told.value)) < 400, "a line is one that can be read"


def test_layers_that_are_too_large_are_said_to_be() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(16, 32, 3, padding=1), nn.Linear(32 * 16 * 16, 2)

        def forward(self, x: Tensor) -> Tensor:
            v = torch.zeros(x.shape[0], 32, 16, 16)
            total = torch.zeros(x.shape[0], 2)
            for t in range(x.shape[1]):
                v = 0.9 * v + self.conv(x[:, t])
                z = (v > 1).float()
                v = v - z
                total = total + self.fc(z.flatten(1))
            return total

    with pytest.raises(NotRecognised, match="larger"):
        recognised(problem(Large(), torch.rand(1, 3, 16, 16, 16)))


def test_a_network_and_what_it_does_behind_its_logits_are_two() -> None:
    class Softmax(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Step("nothing")

        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(self.net(x), 1)

    torch.manual_seed(0)
    asked = problem(Softmax(), torch.randn(5, 4, 3))
    assert recognised(asked).net.readout.over == "sum"
    with pytest.raises(NotRecognised):
        recognised(asked.with_ending)


class LookedAtTwice(RecurrentModule):
    """A cell whose potential is compared with the threshold behind the step too, as by snnTorch's undelayed resets."""

    def __init__(
        self,
        *,
        value: float = 0.0,
        start: float = 0.0,
        subtracts: float = 0.0,
        late: float = 1.0,
        behind: float = 1.0,
    ) -> None:
        super().__init__()
        self.value, self.start, self.subtracts, self.late, self.behind = value, start, subtracts, late, behind
        self.fc, self.level = nn.Parameter(torch.tensor([[1.0, 0.5]])), nn.Parameter(torch.tensor(0.5))

    def initial_state(self, batch: int):
        return self.fc.new_zeros(batch, 2) + self.start

    def step(self, x_t: Tensor, v: Tensor):
        again = (v > self.behind * self.level).to(v.dtype)
        v = 0.5 * v + x_t @ self.fc
        if self.subtracts:
            drop = self.subtracts * self.level
            w = v - again * self.late * drop
            z = (w > self.level).to(v.dtype)
            return z, v - z * drop
        v = (1 - again) * v + again * self.value
        z = (v > self.level).to(v.dtype)
        return z, v + (z - again) * (self.value - v)

    def readout(self, outputs: Tensor) -> Tensor:
        return outputs.sum(1)


def test_a_second_look_at_a_potential_that_is_never_above() -> None:
    found = recognised(problem(LookedAtTwice(), torch.zeros(1, 4, 1)))
    assert found.net.layers[0].reset is not None
    assert found.net.largest == pytest.approx(1.0, abs=1e-9), "up to where its threshold may be 0, where it begins"
    assert recognised(problem(LookedAtTwice(value=0.25), torch.zeros(1, 4, 1))).net.largest == pytest.approx(0.5)


def test_a_second_look_that_subtracts_another_threshold() -> None:
    found = recognised(problem(LookedAtTwice(subtracts=1.0), torch.zeros(1, 4, 1)))
    assert found.net.layers[0].twice
    assert found.net.largest == pytest.approx(1.0, abs=1e-9), "up to where its threshold may be 0, where it begins"


@pytest.mark.parametrize(
    "how",
    [
        {"subtracts": 0.5},
        {"subtracts": 0.5, "late": 2.0},
        {"subtracts": 1.0, "late": 2.0},
        {"subtracts": 1.0, "behind": 0.5},
    ],
)
def test_a_second_look_of_another_size(how: dict[str, float]) -> None:
    """A reset by half the threshold, one of two thresholds that is left over, a second look at half of it."""
    with pytest.raises(NotRecognised, match=r"for each of both|of the step before"):
        recognised(problem(LookedAtTwice(**how), torch.zeros(1, 4, 1)))


@pytest.mark.parametrize("how", [{"value": 0.75}, {"start": 0.75}, {"subtracts": 1.0, "start": 0.75}, {"value": 0.5}])
def test_a_second_look_that_may_find_it_above(how: dict[str, float]) -> None:
    """Reset to above the threshold, begun there, or at a threshold that a box moves."""
    with pytest.raises(NotRecognised, match=r"of the step before|in front of the first step|begins with"):
        recognised(problem(LookedAtTwice(**how), torch.zeros(1, 4, 1)))


class WithMemory(nn.Module):
    """What people write by hand beside the potential: thresholds that rise by spikes, silent steps, lost input."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.fc = how, nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        v = z = b = left = total = torch.zeros(x.shape[0], 4)
        for t in range(x.shape[1]):
            u, before = self.fc(x[:, t]), z
            if self.how == "adaptive":
                b = 0.95 * b + 0.05 * before
                v = 0.9 * v + u - before * 0.5
                z = (v > 0.5 + 1.8 * b).float()
            elif self.how == "refractory":
                v = 0.9 * v + u
                z = (v > 0.5).float() * (left <= 0).float()
                v, left = v - 0.5 * z, (left - 1).clamp(min=0) + 3 * z
            else:
                v = (1 - before) * (0.9 * v + u) + before * self.fc.bias * v
                z = (v > 0.5).float()
            total = total + z
        return total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("adaptive", "adaptive threshold"),
        ("refractory", "refractory counter"),
        ("loses an input", "takes the next potential"),
    ],
)
def test_a_line_says_what_a_cell_has_that_none_here_has(how: str, why: str) -> None:
    model, x = WithMemory(how), torch.randn(3, 5, 3)
    cert = tb.certify(model, x, model(x).argmax(1), epsilon=[1e-3])
    said = cert.options["left_out"]["histories"]
    assert why in said
    assert "\n" not in said
