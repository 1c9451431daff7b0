"""ResNet32 for 32×32 images."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3×3 convolutions with batch norm and a shortcut (1×1 convolution where the shape changes)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(hidden)) + self.shortcut(x))


class ResNet32(nn.Module):
    """Residual network of 32 layers, three stages of five blocks (He et al. 2015, section 4.2), He normal weights.

    Args:
        classes: number of classes.
        channels: input channels.
        width: channels of the first stage, doubled in each of the next two.
    """

    def __init__(self, classes: int = 10, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages = []
        features = width
        for stage in range(3):
            outputs = width << stage
            for block in range(5):
                stages.append(Block(features, outputs, stride=2 if stage and not block else 1))
                features = outputs
        self.blocks = nn.Sequential(*stages)
        self.dense = nn.Linear(features, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.config: dict[str, Any] = {"classes": classes, "channels": channels, "width": width}

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = self.blocks(torch.relu(self.norm(self.conv(x))))
        return self.dense(x.mean((2, 3)))

    @staticmethod
    def config_from(state: dict[str, Tensor]) -> dict[str, Any]:
        """Configuration read off the shapes of a state_dict."""
        width, channels = state["conv.weight"].shape[:2]
        return {"classes": len(state["dense.bias"]), "channels": channels, "width": width}
