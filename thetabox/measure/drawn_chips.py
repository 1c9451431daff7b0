"""Chips drawn one by one: the weights of each follow from the seed and its number."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.measure.inputs import boxed
from thetabox.noise import Noise

# Streams of random numbers of one seed lie this far apart.
APART = 1_000_003


class DrawnChips:
    r"""Weights :math:`\theta(1 + d) + \sigma(r n + a c g)` of numbered chips; see :class:`~thetabox.Noise`.

    Chip s has the same standard normal numbers at every σ, and those of :func:`thetabox.mismatch` at the same seed.

    Args:
        model: whose weights.
        box: which of them are off, and what their unit is.
        noise: kind and sizes of the errors.
        seed: of all draws.

    Raises:
        InputError: noise that is no single distribution, or nothing is in the box.
    """

    def __init__(self, model: nn.Module, box: Box, noise: Noise, seed: int) -> None:
        if noise.kind != "gaussian":
            raise InputError(
                f"{noise.kind} noise is a family of distributions, of which none can be drawn; give Gaussian noise"
            )
        if not noise.drawable:
            raise InputError("an unknown drift has no distribution to draw from; give a known drift, or none")
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise InputError(f"seed is {seed!r}; it must be a whole number")
        self.parts: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        held = boxed(model, box)
        noise = noise.on(model, held)
        self.noise, self.seed = noise, int(seed)
        for name, (theta, radius) in held.items():
            size = radius * noise.factor(name)
            gain = size * theta.sign() if box.kind == "relative" else size
            centre = theta * (1.0 + noise.shift(name)) if noise.shift(name) else theta
            self.parts[name] = (centre, size, gain)
        self._errors = lru_cache(maxsize=1)(self._draw)

    def _draw(self, chip: int) -> dict[str, Tensor]:
        # In a type of its own: a chip is the same one whatever torch's default is, here or in another process.
        stream = torch.Generator().manual_seed(self.seed * APART + chip)
        drawn = {
            name: torch.randn(theta.shape, generator=stream, dtype=torch.float32)
            for name, (theta, _, _) in self.parts.items()
        }
        errors = {name: size * drawn[name] for name, (_, size, _) in self.parts.items()}
        chip_wide, of_tensor = (self.noise.correlated.get(key, 0.0) for key in ("chip", "layer"))
        common = float(torch.randn((), generator=stream, dtype=torch.float32)) * chip_wide if chip_wide else 0.0
        for name, (_, _, gain) in self.parts.items() if chip_wide or of_tensor else ():
            individual = float(torch.randn((), generator=stream, dtype=torch.float32)) * of_tensor if of_tensor else 0.0
            errors[name] = errors[name] + gain * (common + individual)
        return errors

    def weights(self, chip: int, sigma: float) -> dict[str, Tensor]:
        """Weights of a chip by name, float64."""
        errors = self._errors(chip)
        return {name: centre + sigma * errors[name] for name, (centre, _, _) in self.parts.items()}
