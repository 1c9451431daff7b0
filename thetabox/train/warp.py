"""Small random affine maps of images, as augmentation."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

DEGREES, SHIFT, SCALE, SHEAR = 12.0, 0.6, 0.1, 0.1
"""Largest turn, shift in pixels, relative change of size, and shear."""


def warped(
    x: Float[Tensor, "images channels height width"], generator: torch.Generator
) -> Float[Tensor, "images channels height width"]:
    """Images, each under a random affine map of its own; what comes in from outside is 0."""

    def uniform(size: float) -> Tensor:
        return size * (2 * torch.rand(len(x), generator=generator, device=x.device) - 1)

    high_pixel, wide_pixel = (2 / size for size in x.shape[-2:])  # of coordinates from -1 to 1
    turn = uniform(DEGREES) * math.pi / 180
    wide, high, shear = 1 + uniform(SCALE), 1 + uniform(SCALE), uniform(SHEAR)
    rows = [
        torch.stack([wide * turn.cos(), shear - wide * turn.sin(), uniform(SHIFT) * wide_pixel], 1),
        torch.stack([high * turn.sin(), high * turn.cos(), uniform(SHIFT) * high_pixel], 1),
    ]
    grid = affine_grid(torch.stack(rows, 1).to(x.dtype), list(x.shape), align_corners=False)
    return grid_sample(x, grid, align_corners=False)
