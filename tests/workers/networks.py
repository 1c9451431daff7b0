"""Networks and data that workers are tried on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thetabox.data import load
from thetabox.models import LSNN, ConvNet


def cnn() -> tuple[nn.Module, Tensor, Tensor]:
    """A small CNN after two passes over the digits."""
    torch.manual_seed(0)
    model, train, test = ConvNet.small(), load("digits", "train"), load("digits")
    _fit(model, train.x, train.y)
    return model, test.x[:100], test.y[:100]


def lsnn() -> tuple[nn.Module, Tensor, Tensor]:
    """A small spiking network after two passes over the vowels."""
    torch.manual_seed(0)
    model, train, test = LSNN(12, 24, 9), load("vowels", "train"), load("vowels")
    _fit(model, train.x, train.y)
    return model, test.x[:48], test.y[:48]


def _fit(model: nn.Module, x: Tensor, y: Tensor) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(2):
        for rows in torch.arange(len(x)).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
