"""Values of places, to be looked up for parts of a map."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class Table:
    """Values of places, to be looked up for parts of the map; 0 beyond its edge."""

    def __init__(self, values: Float[Tensor, "channels places *rest"]) -> None:
        self.values = torch.cat([values, torch.zeros_like(values[:, :1])], 1)

    def at(self, index: Tensor) -> Float[Tensor, "groups channels positions *rest"]:
        """Of the places ``[groups, positions]``."""
        return self.values[:, index].movedim(1, 0)
