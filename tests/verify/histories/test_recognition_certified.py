"""Networks that are recognised, certified, and run at corners and inner points of their boxes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify.histories.spiking_cells import EITHER, Convolutional, Stepwise, TwoLayers
from tests.verify.unrolled import (
    INPUTS,
    ChargeFireReset,
    Dictionary,
    DirectCoding,
    LargestOverTime,
    RepeatedInput,
    ResetFromMembrane,
    WithoutItself,
)
from thetabox.errors import InputError

EPSILON = (1e-4, 3e-3, 3e-2, 0.2)


def answers(model: nn.Module, x: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """Logits ``[points, samples, classes]`` at corners of the box, corners of a single tensor, inner points."""
    found = []
    names = [name for name, _ in model.named_parameters()]
    for moved in [None] * 12 + names:
        other = copy.deepcopy(model)
        for name, p in other.named_parameters():
            if moved in (None, name):
                noise = torch.rand(p.shape, generator=generator, dtype=torch.float64)
                sign = 2.0 * (noise > 0.5).double() - 1.0 if len(found) % 3 else 2.0 * noise - 1.0
                p.data *= 1.0 + epsilon * sign
        found.append(tb.models.logits(other, x).detach())
    return torch.stack(found)


def assert_contained(model: nn.Module, x: Tensor) -> int:
    """How many logits are known to be between numbers."""
    generator = torch.Generator().manual_seed(1)
    known = 0
    for epsilon in EPSILON:
        ends = tb.logit_bounds(model, x, epsilon, domain="histories", options={"histories": 3})
        lower, upper = ends.lower, ends.upper
        ran = answers(model, x, epsilon, generator)
        assert bool((lower <= ran).all())
        assert bool((ran <= upper).all())
        known += int((upper - lower < 0.5 * float(ran.max() - ran.min() + 1.0)).sum())
    return known


@pytest.mark.slow
@pytest.mark.thin(23)
@pytest.mark.parametrize(("kind", "recurrent"), EITHER)
def test_bounds_hold_what_the_network_answers(kind: str, recurrent: bool) -> None:
    torch.manual_seed(5)
    model = Stepwise(TwoLayers(kind, recurrent=recurrent)).double()
    assert assert_contained(model, torch.randn(6, 12, 5, dtype=torch.float64)) > 0


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("answer", ["spikes", "mean potential", "last potential", "dense"])
def test_convolutional_networks(answer: str) -> None:
    torch.manual_seed(6)
    model = Convolutional(answer).double()
    assert assert_contained(model, torch.rand(4, 6, 36, dtype=torch.float64)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("make", [LargestOverTime, RepeatedInput, WithoutItself])
def test_bounds_of_loops_hold_what_the_network_answers(make: type[nn.Module]) -> None:
    torch.manual_seed(8)
    assert assert_contained(make().double(), torch.randn(6, 7, INPUTS, dtype=torch.float64)) > 0


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("make", [ChargeFireReset, DirectCoding])
def test_loops_are_certified_without_a_word(make: type[nn.Module]) -> None:
    torch.manual_seed(7)
    model, x = make(), torch.randn(20, 8, INPUTS)
    y = model(x).argmax(1)
    cert = tb.certify(model, x, y, epsilon=[0.0, 1e-5, 1e-3])
    assert "left_out" not in cert.options
    plain = tb.certify(model, x, y, epsilon=[0.0, 1e-5, 1e-3], domain="interval")
    assert bool((cert.verified_accuracy >= plain.verified_accuracy).all())
    assert cert.verified_accuracy[1] > 0.5
    own = tb.certify(model, x, y, epsilon=[0.0, 1e-5, 1e-3], domain="histories")
    assert bool((cert.margin >= own.margin - 1e-9).all()) or bool((cert.verified >= own.verified).all())
    assert own.model_info["cells"].startswith("recognised")


@pytest.mark.slow
@pytest.mark.parametrize(("make", "why"), [(Dictionary, "'beta'"), (ResetFromMembrane, "a cell that spikes")])
def test_what_is_not_recognised_is_said_in_every_certificate(make: type[nn.Module], why: str) -> None:
    torch.manual_seed(8)
    model, x = make(), torch.randn(5, 6, INPUTS)
    cert = tb.certify(model, x, torch.zeros(5, dtype=torch.long), epsilon=[1e-3])
    assert why in cert.options["left_out"]["histories"]
    assert "docs/spiking-networks.md" in cert.options["left_out"]["histories"]
    with pytest.raises(InputError, match="leaky cells"):
        tb.certify(model, x, torch.zeros(5, dtype=torch.long), epsilon=[1e-3], domain="histories")


def test_beyond_the_epsilon_up_to_which_it_is_so_nothing_is_known() -> None:
    torch.manual_seed(9)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.level = nn.Linear(4, 3), nn.Parameter(torch.tensor(0.1))

        def forward(self, x: Tensor) -> Tensor:
            v, total = torch.zeros(x.shape[0], 3), torch.zeros(x.shape[0], 3)
            for t in range(x.shape[1]):
                v = 0.9 * v + self.enter(x[:, t]) - (v > self.level).float()
                total = total + (v > self.level).float()
            return total

    model, x = Net(), torch.randn(3, 5, 4)
    box = tb.Box(kind="absolute")
    lower = tb.logit_bounds(model, x, 0.11, domain="histories", box=box).lower
    within = tb.logit_bounds(model, x, 0.05, domain="histories", box=box).lower
    # Intervals are intersected with; they know that counts are no less than 0.
    assert bool((lower <= 0).all())
    assert bool((within >= 0).all())


@pytest.mark.parametrize("over", ["sum", "mean"])
def test_counts_of_spikes_that_add_up_to_one_are_no_probabilities(over: str) -> None:
    """Of a network whose first samples have just one spike each, or one at every step."""

    class Counts(TwoLayers):
        def forward(self, x: Tensor) -> Tensor:
            state, out = self.start(x.shape[0]), []
            for t in range(x.shape[1]):
                state = self.one_step(x[:, t], state)
                out.append(state[-1])
            spikes = torch.stack(out, 1)
            return spikes.sum(1) if over == "sum" else spikes.mean(1)

    torch.manual_seed(10)
    model, x = Counts("subtract at once"), torch.randn(4000, 5, 5)
    total = model(x).sum(1)
    x = x[(total - 1.0).abs() < 1e-6][:6]
    assert len(x) == 6
    cert = tb.certify(model, x, model(x).argmax(1), epsilon=[1e-5], domain="histories")
    assert cert.model_info["cells"].startswith("recognised")
