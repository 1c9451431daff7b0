"""Windows of an image: the whole of it, or a patch around each of many positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


def pair(value: Any) -> Pair:
    """Height and width of a setting that may be given as one number for both."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * 2 if len(values) == 1 else values


@dataclass(frozen=True)
class Region:
    """A window of height and width ``size`` for each position ``p``, its first row and column ``p jump + offset``.

    It may reach beyond the image, where a value is the zero of a padding.
    """

    jump: Pair
    offset: Pair
    size: Pair

    @property
    def fixed(self) -> bool:
        """Whether it is the same for all positions, as what is read to fill a whole image."""
        return self.jump == (0, 0)

    def exceeds(self, shape: Pair) -> bool:
        """Whether it is larger than an image, and no smaller in any direction."""
        height, width = self.size
        return height >= shape[0] and width >= shape[1] and height * width > shape[0] * shape[1]

    def before(self, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)) -> Region:
        """What a sliding kernel reads to fill this region."""
        steps = range(2)
        return Region(
            (self.jump[0] * stride[0], self.jump[1] * stride[1]),
            (self.offset[0] * stride[0] - padding[0], self.offset[1] * stride[1] - padding[1]),
            tuple((self.size[d] - 1) * stride[d] + (kernel[d] - 1) * dilation[d] + 1 for d in steps),  # type: ignore[arg-type]  # two of them
        )

    def joined(self, other: Region) -> Region:
        """The smallest window that holds both."""
        first = tuple(min(a, b) for a, b in zip(self.offset, other.offset, strict=True))
        ends = zip(self.offset, self.size, other.offset, other.size, strict=True)
        last = [max(a + n, b + m) for a, n, b, m in ends]
        return Region(self.jump, first, tuple(e - f for e, f in zip(last, first, strict=True)))  # type: ignore[arg-type]  # two of each

    def fitted(self, t: Tensor, wider: Region) -> Tensor:
        """Values on this window as values on a wider one, zeros around."""
        return placed(t, self.offset, wider.offset, wider.size)


def placed(t: Tensor, offset: Pair, target: Pair, size: Pair) -> Tensor:
    """``t``, which starts at ``offset``, padded with zeros or cut so that it starts at ``target`` with ``size``."""
    top, left = offset[0] - target[0], offset[1] - target[1]
    bottom, right = size[0] - top - t.shape[-2], size[1] - left - t.shape[-1]
    return t if not any((top, left, bottom, right)) else F.pad(t, (left, right, top, bottom))


@dataclass(frozen=True)
class Frame:
    """Which samples a walk is about, and around which position of each.

    Attributes:
        samples: of the walk, by their places.
        height: row of each sample's position in the image where the walk starts; ``None`` for whole images.
        width: column of it.
    """

    samples: slice | Tensor
    height: Tensor | None = None
    width: Tensor | None = None

    @property
    def whole(self) -> bool:
        """Whether the walk is about whole images."""
        return self.height is None

    def cut(self, t: Tensor, region: Region | None) -> Tensor:
        """Samples of ``t [samples, ..., height, width]`` on the region; zeros beyond the image."""
        if self.height is None or self.width is None or region is None or region.fixed:
            t = t[self.samples]
            return t if region is None else placed(t, (0, 0), region.offset, region.size)
        first = [_starts(p, region, d) for d, p in enumerate((self.height, self.width))]
        pad = []
        for d in (1, 0):
            low, high = int(first[d].min()), int(first[d].max()) + region.size[d] - t.shape[d - 2]
            before = max(-low, 0)
            pad += [before, max(high, 0)]
            first[d] = first[d] + before
        if any(pad):
            t = F.pad(t, pad)
        windows = t.unfold(-2, region.size[0], 1).unfold(-2, region.size[1], 1).movedim((-4, -3), (1, 2))
        return windows[self.samples, first[0], first[1]]

    def unfolded(self, t: Tensor, region: Region, shape: Pair) -> Tensor:
        """Values ``[samples, ..., h, w]`` on each position's region as values of whole images, zeros around."""
        assert self.height is not None
        assert self.width is not None
        first: list[Tensor] = []
        pad: list[int] = []
        for d, p in enumerate((self.height, self.width)):
            start = -_starts(p, region, d)
            before, after = max(-int(start.min()), 0), max(int(start.max()) + shape[d] - region.size[d], 0)
            first.append(start + before)
            pad = [before, after, *pad]
        if any(pad):
            t = F.pad(t, pad)
        windows = t.unfold(-2, shape[0], 1).unfold(-2, shape[1], 1).movedim((-4, -3), (1, 2))
        return windows[torch.arange(len(t), device=t.device), first[0], first[1]]

    def inside(self, shape: Pair, region: Region) -> Tensor | None:
        """Which places of the region lie in the image, ``[samples, 1, 1, h, w]``; ``None`` when all do."""
        assert self.height is not None
        assert self.width is not None
        masks = []
        for d, p in enumerate((self.height, self.width)):
            positions = _starts(p, region, d)[:, None] + torch.arange(region.size[d], device=p.device)
            masks.append((positions >= 0) & (positions < shape[d]))
        if bool(masks[0].all()) and bool(masks[1].all()):
            return None
        return (masks[0][:, :, None] & masks[1][:, None, :])[:, None, None]


def _starts(position: Tensor, region: Region, d: int) -> Tensor:
    return position * region.jump[d] + region.offset[d]
