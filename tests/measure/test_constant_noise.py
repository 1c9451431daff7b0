"""Constant noise is escaped by larger weights, relative noise is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thetabox.errors import InputError
from thetabox.measure import constant_noise, grown
from thetabox.models import LSNN, MLP, ConvNet
from thetabox.train import fit


@pytest.mark.parametrize("name", ["cnn", "lsnn"])
def test_constant_noise_fades_and_relative_noise_does_not(name: str) -> None:
    torch.manual_seed(0)
    model = ConvNet.small() if name == "cnn" else LSNN(3, 16, 3)
    if name == "cnn":
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter_name.endswith("bias"):
                    parameter.normal_(std=0.2)
    x = torch.randn(20, 1, 8, 8) if name == "cnn" else torch.randn(20, 12, 3)
    with torch.no_grad():
        y = model(x).argmax(1)
    found = constant_noise(model, x, y, 0.4, (1.0, 4.0, 1024.0), samples=10)
    # Powers of two leave every rounding as it was: the same draws, the same predictions.
    assert torch.equal(found.relative[0].accuracy, found.relative[1].accuracy)
    assert torch.equal(found.relative[0].accuracy, found.relative[2].accuracy)
    assert found.relative_mean[0] < 0.95
    assert found.constant_mean[0] < found.constant_mean[1] < found.constant_mean[2]
    assert found.constant_mean[2] > 0.99
    assert found.to_json()["factors"][2]["factor"] == 1024


def test_inverse_weight_decay_escapes_constant_noise_alone() -> None:
    """Fig. S4: noise of one size hurts the network less whose weights training has grown, relative noise no less."""
    stream = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 3
    x = torch.randn(120, 4, generator=stream) + 2.0 * torch.eye(4)[y]
    networks = []
    for growth in (0.0, 5.0):
        torch.manual_seed(0)
        network = MLP((4, 16, 3))
        fit(network, (x, y), (x, y), epochs=15, lr=1e-2, inverse_weight_decay=growth, device="cpu", progress=False)
        networks.append(network)
    plain, grown_up = networks
    level = {"level": 1.0, "factor": (1.0,), "samples": 60}
    before, after = constant_noise(plain, x, y, **level), constant_noise(grown_up, x, y, like=plain, **level)
    assert after.constant_mean > before.constant_mean + 0.1
    assert after.relative_mean < before.relative_mean + 0.03
    s = plain.dense1.weight.double().square().mean().sqrt()
    assert after.constant[0].box.scale["dense1.weight"] == pytest.approx(float(s))
    with pytest.raises(InputError, match="like has other parameters"):
        constant_noise(plain, x, y, like=MLP((4, 8, 3)), **level)


def test_larger_weights_compute_the_same() -> None:
    torch.manual_seed(0)
    model, x = LSNN(3, 16, 3).double(), torch.randn(5, 12, 3, dtype=torch.float64)
    larger = grown(model, 8.0)
    assert isinstance(larger, LSNN)
    with torch.no_grad():
        assert torch.equal(larger.outputs(x), model.outputs(x))
        assert torch.allclose(larger(x), 8 * model(x))
    assert torch.equal(larger.W_in, 8 * model.W_in)


def test_what_larger_weights_change_is_refused() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(6, 3)
    y = torch.zeros(6, dtype=torch.long)
    with pytest.raises(InputError, match="larger weights change"):
        constant_noise(model, x, y, samples=2)
    with pytest.raises(InputError, match="above 0"):
        constant_noise(model, x, y, factor=[0.0])
