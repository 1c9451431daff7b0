"""Convolutional networks for small images: the paper's CNN, and a smaller one for 8×8 digits."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from thetabox.errors import InputError

warnings.filterwarnings("ignore", message="Using padding='same' with even kernel")  # its copy is meant, and cheap


class ConvNet(nn.Module):
    """Convolutions with ReLU and 2×2 max-pool, then dense layers with ReLU between them.

    The first convolution keeps the image size ("same"), later ones do not ("valid"). The defaults are the CNN of
    Büchel, Faber, Muir (ICLR 2022) for Fashion-MNIST: 4×4×64, 4×4×64, dense 1600-256-64-10, Glorot normal weights,
    biases zero. Input ``[batch, channels, height, width]``, output logits ``[batch, classes]``.

    Args:
        input: channels, height and width of an image.
        channels: output channels of each convolution.
        kernel: size of the square kernels.
        hidden: sizes of the hidden dense layers.
        classes: number of classes.

    Raises:
        InputError: the image is too small for the layers.
    """

    def __init__(
        self,
        input: Sequence[int] = (1, 28, 28),
        channels: Sequence[int] = (64, 64),
        kernel: int = 4,
        hidden: Sequence[int] = (256, 64),
        classes: int = 10,
    ) -> None:
        super().__init__()
        features, height, width = input
        for index, out in enumerate(channels, 1):
            valid = index > 1
            self.add_module(f"conv{index}", nn.Conv2d(features, out, kernel, padding="valid" if valid else "same"))
            self.add_module(f"relu{index}", nn.ReLU())
            self.add_module(f"pool{index}", nn.MaxPool2d(2))
            shrink = kernel - 1 if valid else 0
            features, height, width = out, (height - shrink) // 2, (width - shrink) // 2
            if min(height, width) < 1:
                raise InputError(
                    f"an image of {tuple(input)} is too small for {len(channels)} convolutions of {kernel}"
                )
        self.add_module("flatten", nn.Flatten())
        sizes = [features * height * width, *hidden, classes]
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes), 1):
            self.add_module(f"dense{index}", nn.Linear(fan_in, fan_out))
            if index < len(sizes) - 1:
                self.add_module(f"relu{len(channels) + index}", nn.ReLU())
        for name, parameter in self.named_parameters():
            nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.xavier_normal_(parameter)
        self.config: dict[str, Any] = {
            "input": list(input),
            "channels": list(channels),
            "kernel": kernel,
            "hidden": list(hidden),
            "classes": classes,
        }

    @classmethod
    def small(cls, classes: int = 10) -> ConvNet:
        """The network for 8×8 images: 3×3×16, 3×3×32, dense 32-64-classes."""
        return cls(input=(1, 8, 8), channels=(16, 32), kernel=3, hidden=(64,), classes=classes)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        for layer in self.children():
            x = layer(x)
        return x

    @staticmethod
    def config_from(state: dict[str, Tensor]) -> dict[str, Any]:
        """Configuration read off the shapes of a state_dict; of the image sizes that fit, the usual one is taken."""
        convs = [state[f"conv{i}.weight"] for i in range(1, 1 + sum(n.startswith("conv") for n in state) // 2)]
        denses = [state[f"dense{i}.weight"] for i in range(1, 1 + sum(n.startswith("dense") for n in state) // 2)]
        kernel = convs[0].shape[2]
        final = math.isqrt(denses[0].shape[1] // convs[-1].shape[0])
        sizes = {final}
        for index in range(len(convs), 0, -1):
            sizes = {2 * s + odd + (kernel - 1 if index > 1 else 0) for s in sizes for odd in (0, 1)}
        size = next((s for s in (28, 32, 8) if s in sizes), min(sizes))
        return {
            "input": [convs[0].shape[1], size, size],
            "channels": [c.shape[0] for c in convs],
            "kernel": kernel,
            "hidden": [d.shape[0] for d in denses[:-1]],
            "classes": denses[-1].shape[0],
        }
