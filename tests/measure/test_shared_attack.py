"""One perturbation for the whole set: known optima, the box, the order of the attacks, the network left alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tests.measure.networks import learn
from tests.oracles.rational import box_ends, exact
from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.measure import attack, random_attack, shared_attack
from thetabox.models import LSNN


def trained(classes: int = 3) -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    y = torch.arange(30) % classes
    x = 2 * torch.randn(classes, 5)[y] + 0.5 * torch.randn(30, 5)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, classes))
    learn(model, x, y)
    return model, x, y


@pytest.mark.parametrize("loss", ["cross-entropy", "kl", "margin"])
def test_the_worst_corner_of_one_layer_is_known(loss: str) -> None:
    """Inputs above 0 and one label: every sample is worst where row 0 is as low and row 1 as high as the box lets."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 2))
    x, y = torch.rand(6, 4) + 0.1, torch.zeros(6, dtype=torch.long)
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([3.0, -1.0]))
    result = shared_attack(model, x, y, 0.2, loss=loss, keep_weights=True)
    weight, bias = (p.detach().double() for p in model.parameters())
    away = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    worst = weight + 0.2 * away[:, None] * weight.abs(), bias + 0.2 * away * bias.abs()
    assert result.weights is not None
    assert torch.allclose(result.weights[0]["0.weight"], worst[0], rtol=1e-12)
    logits = x.double() @ worst[0].T + worst[1]
    expected = sum(math.log1p(math.exp(float(b - a))) for a, b in logits) / 6
    assert float(result.cross_entropy[0]) == pytest.approx(expected, rel=1e-12)
    assert result.accuracy[0] == (logits[:, 0] > logits[:, 1]).double().mean()


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross-entropy", "kl", "margin"])
def test_inside_the_box_monotone_and_between_chance_and_each_samples_own(loss: str) -> None:
    model, x, y = trained()
    epsilon = [0.3, 0.0, 0.02, 0.1]
    result = shared_attack(model, x, y, epsilon, loss=loss, keep_weights=True)
    assert result.weights is not None
    judge = copy.deepcopy(model).double()
    for e, weights in enumerate(result.weights):
        for name, value in weights.items():
            low, high = box_ends(dict(model.named_parameters())[name], epsilon[e])
            point = exact(value)
            assert (low <= point).all()
            assert (point <= high).all()
        with torch.no_grad():
            predicted = functional_call(judge, weights, (x.double(),)).argmax(1)
        assert torch.equal(predicted == y, result.correct[e])
    rising = result.accuracy[[1, 2, 3, 0]]
    assert rising[0] == result.clean_accuracy == 1
    assert (rising.diff() <= 0).all()
    chance = random_attack(model, x, y, epsilon, draws=200)
    assert (result.accuracy <= chance.shared_accuracy).all()
    assert (attack(model, x, y, epsilon).accuracy <= result.accuracy).all()
    assert result.accuracy[0] < (0.8 if loss == "cross-entropy" else 1)
    assert torch.equal(shared_attack(model, x, y, epsilon, loss=loss, chunk=7).correct, result.correct)


def test_spikes_neuron_parameters_and_the_network_left_as_it_was() -> None:
    torch.manual_seed(1)
    model, x = LSNN(4, 12, 3).train(), torch.randn(10, 15, 4)
    with torch.no_grad():
        y = model(x).argmax(1)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    calls: list[tuple[int, int]] = []
    result = shared_attack(model, x, y, [0.1, 0.5], progress=lambda a, b: calls.append((a, b)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert result.accuracy[1] < 1
    named = shared_attack(model, x, y, 0.5, box=Box(include="threshold"), keep_weights=True)
    assert named.weights is not None
    assert set(named.weights[0]) == {"threshold"}
    assert named.accuracy[0] < 1
    assert model.training
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert result.to_json()["curve"][1]["accuracy"] == float(result.accuracy[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "anger"}, "unknown loss"),
        ({"steps": 0}, "at least 1"),
        ({"restarts": 0}, "at least 1"),
        ({"epsilon": -1.0}, "at least 0"),
        ({"box": Box(include="none")}, "no parameter"),
    ],
)
def test_bad_input_is_one_clear_line(change: dict[str, object], message: str) -> None:
    model, x, y = trained()
    with pytest.raises(InputError, match=message):
        shared_attack(**{"model": model, "x": x, "y": y, "epsilon": 0.1, **change})
