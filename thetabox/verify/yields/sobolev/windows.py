"""What the places of a convolution stage read: patches of the stage's input, and the inputs of each kernel weight."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from thetabox.verify.yields.chain import ChainConvolution, ChainPool, ChainStage, Pair

_ONE = ChainPool(largest=True, kernel=(1, 1), stride=(1, 1))


class LinearForms(NamedTuple):
    """Linear forms over parts of a map.

    Attributes:
        coefficients: ``[groups, channels, rows, positions]``, exact as given.
        origin: row and column of the part's first position, of each group; may lie outside of the map, whose values
            are zero there.
        extent: rows and columns of the part.
    """

    coefficients: Tensor
    origin: Tensor
    extent: Pair


@dataclass(frozen=True)
class Windows:
    """Geometry of one stage: convolution, average pool, max-pool.

    A *place* is an output of the stage. It reads a *patch* of the (padded) input, and takes the largest of its
    *candidates*, the averages of convolution outputs in its window. A *tap* is a position of the kernel.

    Attributes:
        inputs: channels, rows and columns of the input.
        padding: left, right, above, below.
        patch, stride, places: rows and columns.
        select: ``[candidates, taps, patch]``: what part of a patch's position a tap reads for a candidate.
    """

    inputs: tuple[int, int, int]
    padding: tuple[int, int, int, int]
    patch: Pair
    stride: Pair
    places: Pair
    select: Tensor

    @classmethod
    def of(cls, stage: ChainStage, inputs: tuple[int, int, int]) -> Windows:
        """Of a stage on a map of this shape."""
        layer = stage.layer
        assert isinstance(layer, ChainConvolution)
        average, largest = stage.average or _ONE, stage.largest or _ONE
        kernel: Pair = (layer.weight.shape[2], layer.weight.shape[3])
        left, right, above, below = layer.padding
        padded = (inputs[1] + above + below, inputs[2] + left + right)
        patch, stride, places, parts = [], [], [], []
        for axis in (0, 1):
            step, mean, best = layer.stride[axis], average.kernel[axis], largest.kernel[axis]
            patch.append(((best - 1) * average.stride[axis] + mean - 1) * step + kernel[axis])
            stride.append(largest.stride[axis] * average.stride[axis] * step)
            places.append((padded[axis] - patch[axis]) // stride[axis] + 1)
            # [candidates, taps, patch] along one axis.
            part = torch.zeros(best, kernel[axis], patch[axis], dtype=torch.float64)
            for m, a, t in product(range(best), range(mean), range(kernel[axis])):
                part[m, t, (m * average.stride[axis] + a) * step + t] += 1.0 / mean
            parts.append(part)
        select = torch.einsum("atp,bsq->abtspq", *parts).flatten(0, 1).flatten(1, 2).flatten(2)
        pairs = [(n[0], n[1]) for n in (patch, stride, places)]
        return cls(inputs, layer.padding, pairs[0], pairs[1], pairs[2], select)

    @property
    def count(self) -> int:
        """Places of one channel."""
        return self.places[0] * self.places[1]

    @property
    def candidates(self) -> int:
        """Of each place."""
        return len(self.select)

    def patches(self, h: Float[Tensor, "inputs height width"]) -> Float[Tensor, "places inputs patch"]:
        """What each place reads."""
        padded = F.pad(h, self.padding)
        columns = F.unfold(padded[None], self.patch, stride=self.stride)[0]
        return columns.T.reshape(self.count, self.inputs[0], -1)

    def taps(self, patches: Float[Tensor, "places inputs patch"]) -> Float[Tensor, "places candidates taps"]:
        """Input of every weight of a kernel, and 1 for the bias, last."""
        read = torch.einsum("ktp,ocp->okct", self.select, patches).flatten(2)
        return torch.cat([read, torch.ones_like(read[..., :1])], -1)

    @cached_property
    def exact(self) -> bool:
        """Whether a tap reads one position, and no average of several."""
        return bool(((self.select == 0) | (self.select == 1)).all())

    def kernels(self, weight: Float[Tensor, "channels inputs kh kw"]) -> Float[Tensor, "channels candidates patch"]:
        """Each candidate's mean as a form over a patch (input channels first), without the bias."""
        return torch.einsum("dct,ktp->dkcp", weight.flatten(2), self.select).flatten(2)

    def gather_taps(
        self, force: Float[Tensor, "channels places taps"], weights: Float[Tensor, "channels places candidates"]
    ) -> Float[Tensor, "channels places patch"]:
        """The forms over patches ``Σ_k weights_k ⟨force, taps of candidate k⟩``; a force without that of the bias."""
        by_input = force.unflatten(-1, (self.inputs[0], -1))
        gathered = torch.zeros(*force.shape[:2], self.inputs[0], self.select.shape[2], dtype=force.dtype)
        for k, select in enumerate(self.select):
            gathered += (by_input * weights[..., k, None, None]) @ select
        return gathered.flatten(2)

    def region(self, rows: LinearForms) -> tuple[Tensor, Pair]:
        """Origin and extent of the part of the input that the places of a part of the output read."""
        step = torch.tensor(self.stride)
        corner = torch.tensor([self.padding[2], self.padding[0]])
        extent = [(rows.extent[n] - 1) * self.stride[n] + self.patch[n] for n in (0, 1)]
        return rows.origin * step - corner, (extent[0], extent[1])

    def index(self, rows: LinearForms) -> Int[Tensor, "groups positions"]:
        """Places of a part of the output; ``count`` where there is none."""
        along = []
        for axis in (0, 1):
            line = rows.origin[:, axis, None] + torch.arange(rows.extent[axis])
            along.append(torch.where((line >= 0) & (line < self.places[axis]), line, -1))
        vertical, horizontal = along[0][:, :, None], along[1][:, None, :]
        inside = (vertical >= 0) & (horizontal >= 0)
        return torch.where(inside, vertical * self.places[1] + horizontal, self.count).flatten(1)

    def of_places(self) -> tuple[Tensor, Pair]:
        """Origin (``[places, 2]``) and extent of the part that each place reads, its patch."""
        grid = torch.cartesian_prod(torch.arange(self.places[0]), torch.arange(self.places[1]))
        return self.region(LinearForms(torch.empty(0), grid, (1, 1)))
