"""Small networks that are right about their own samples."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


def labelled(*sizes: int, samples: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Dense layers of these sizes, random inputs, and what the network answers as their labels."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    x = torch.randn(samples, sizes[0])
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def learn(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Train until the samples are known."""
    optimiser = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    optimiser.zero_grad()
