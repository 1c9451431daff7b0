"""The networks without spikes: shapes, sizes, initial weights; and a user's own recurrent network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.models import MLP, ConvNet, RecurrentModule, ResNet32, logits


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_papers_cnn() -> None:
    model = ConvNet()
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert model.dense1.in_features == 1600
    # 4·4·64 + 64, 4·4·64·64 + 64, 1600·256 + 256, 256·64 + 64, 64·10 + 10
    assert count(model) == 1088 + 65600 + 409856 + 16448 + 650


def test_glorot_normal_weights_and_zero_biases() -> None:
    model = ConvNet()
    spread = model.conv2.weight.std().item()
    assert spread == pytest.approx((2 / (64 * 16 + 64 * 16)) ** 0.5, rel=0.05)
    assert all((p == 0).all() for name, p in model.named_parameters() if name.endswith("bias"))


def test_small_cnn() -> None:
    model = ConvNet.small()
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert count(model) < 10_000


def test_too_small_an_image() -> None:
    with pytest.raises(InputError, match="too small"):
        ConvNet(input=(1, 4, 4))


def test_mlp() -> None:
    model = MLP((12, 5, 3))
    x = torch.randn(4, 3, 4)
    hidden = torch.relu(x.flatten(1) @ model.dense1.weight.T + model.dense1.bias)
    torch.testing.assert_close(model(x), hidden @ model.dense2.weight.T + model.dense2.bias)
    with pytest.raises(InputError, match="sizes"):
        MLP((3,))


def test_resnet32() -> None:
    model = ResNet32().eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(layers) + 1 == 32
    assert count(model) == 466_906


class Cell(nn.Module):
    """A user's own recurrent network: the protocol, and no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(2, 3)

    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, 3)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.tanh(self.dense(x_t) + state)
        return state, state

    def readout(self, outputs: Tensor) -> Tensor:
        return outputs[:, -1]


class DerivedCell(Cell, RecurrentModule):
    """The same through the base class, which gives it a forward."""

    forward = RecurrentModule.forward


def test_own_recurrent_network() -> None:
    cell, x = Cell(), torch.randn(4, 5, 2)
    state = torch.zeros(4, 3)
    for t in range(5):
        state = torch.tanh(cell.dense(x[:, t]) + state)
    torch.testing.assert_close(logits(cell, x), state)
    derived = DerivedCell()
    derived.load_state_dict(cell.state_dict())
    torch.testing.assert_close(derived(x), state)
    torch.testing.assert_close(logits(derived, x), state)
