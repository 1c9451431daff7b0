"""Multi-layer perceptron."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from thetabox.errors import InputError


class MLP(nn.Module):
    """Dense layers with ReLU between them; the input is flattened first.

    Args:
        sizes: width of every layer, input and classes included, e.g. ``(784, 256, 256, 10)``.

    Raises:
        InputError: fewer than two sizes, or one below 1.
    """

    def __init__(self, sizes: Sequence[int] = (784, 256, 256, 10)) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise InputError(f"MLP sizes must be at least two numbers of at least 1, not {list(sizes)}")
        self.add_module("flatten", nn.Flatten())
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes), 1):
            self.add_module(f"dense{index}", nn.Linear(fan_in, fan_out))
            if index < len(sizes) - 1:
                self.add_module(f"relu{index}", nn.ReLU())
        self.config: dict[str, Any] = {"sizes": list(sizes)}

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, classes] of x [batch, ...]."""
        for layer in self.children():
            x = layer(x)
        return x

    @staticmethod
    def config_from(state: dict[str, Tensor]) -> dict[str, Any]:
        """Sizes read off the shapes of a state_dict."""
        weights = [state[f"dense{i}.weight"] for i in range(1, 1 + len(state) // 2)]
        return {"sizes": [weights[0].shape[1], *(w.shape[0] for w in weights)]}
