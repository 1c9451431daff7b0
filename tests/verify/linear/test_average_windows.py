"""Average pools around a position: the same bounds as of whole images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import thetabox as tb
from thetabox.verify import arguments
from thetabox.verify.linear.domain import Linear
from thetabox.verify.linear.region import Frame, Region
from thetabox.verify.linear.walk import Walk
from thetabox.verify.problem import Problem

POOLS = {
    "plain": nn.AvgPool2d(2),
    "overlapping": nn.AvgPool2d(3, 1),
    "padded": nn.AvgPool2d(3, 2, padding=1),
    "uneven padding": nn.AvgPool2d((2, 3), (2, 1), padding=(0, 1)),
    "padding not counted": nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
    "ceiling": nn.AvgPool2d(2, ceil_mode=True),
    "adaptive": nn.AdaptiveAvgPool2d(3),
    "adaptive, of different sizes": nn.AdaptiveAvgPool2d(4),
}


@pytest.mark.parametrize("name", POOLS)
def test_rows_around_a_position_bound_what_rows_of_whole_images_do(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), POOLS[name], nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten())
    x = torch.randn(2, 1, 8, 8)
    model.append(nn.Linear(model(x).shape[1], 2))
    settings = arguments.settings("linear", tb.Box(), "real", "float64", "cpu", None)
    domain = Linear(Problem(model.eval(), settings, x))
    samples = domain.samples(x, torch.full((2,), 1e-2, dtype=torch.float64))
    conv = [o for o in samples.graph.operations if "conv2d" in o.operator][1]
    _, channels, height, width = samples.interval(conv.index).shape
    one = torch.eye(channels, dtype=torch.float64).expand(2, -1, -1)
    for h, w in ((0, 0), (height - 1, width - 1), (height // 2, 0)):
        around = Walk(samples, Frame(torch.arange(2), torch.tensor([h, h]), torch.tensor([w, w])), channels)
        around.give(conv.index, one[..., None, None], Region((1, 1), (0, 0), (1, 1)))
        whole = Walk(samples, Frame(slice(None)), channels)
        image = torch.zeros(2, channels, channels, height, width, dtype=torch.float64)
        image[..., h, w] = one
        whole.give(conv.index, image)
        torch.testing.assert_close(around.run(), whole.run(), rtol=1e-9, atol=1e-9)
