"""Weight matrices on crossbar tiles: pairs of devices, a scale a tile, drift compensation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.measure import devices


def stored(model: nn.Module, box: Box | None = None) -> list[str]:
    """Names of the tensors that stand on devices: weights of two dimensions or more; the rest stays digital.

    Args:
        model: any network.
        box: its ``include`` and ``exclude`` choose among them; all of them when omitted.

    Raises:
        InputError: none is left, or the box has a kind or a scale, which mean nothing here.
    """
    box = box or Box()
    if box.kind != "relative" or box.scale:
        raise InputError("of a box only include, exclude and fold choose what stands on devices; leave kind and scale")
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    names = [name for name in box.factors(model) if tensors[name].ndim >= 2]
    if not names:
        raise InputError(f"no weight matrix to store (include {box.include!r}, exclude {box.exclude!r})")
    return names


def edges(length: int, limit: int, unit: int = 1) -> list[int]:
    """Sizes of the fewest parts of at most ``limit``, as equal as can be, each a multiple of ``unit``.

    Raises:
        InputError: one unit is larger than the limit.
    """
    if unit > limit:
        raise InputError(f"a tile of {limit} does not hold one kernel of {unit} weights; take tiles of at least {unit}")
    count = length // unit
    parts = math.ceil(count / (limit // unit))
    return [unit * (count // parts + (part < count % parts)) for part in range(parts)]


class Array:
    r"""One weight tensor on its tiles, each with a scale of its own and two devices a weight.

    A tensor [O, …] is the matrix [O, …flattened]; a kernel of a convolution is never cut, only its channels are
    told apart. With :math:`s` the largest :math:`|W|` of a tile, the targets are
    :math:`g_+ = \max(W, 0)/s` and :math:`g_- = \max(-W, 0)/s`: one of the pair is always at 0.

    Args:
        weight: [O, …], two dimensions or more.
        tile: rows and columns of a tile at most.

    Attributes:
        rows, columns: sizes of the tiles.
        kernel: entries of one kernel (1 for a plain matrix).
        scale: [tile rows, tile columns], weight that the largest conductance stands for.
        target: [2, O, …flattened], g₊ and g₋ relative to the largest conductance.
    """

    def __init__(self, weight: Float[Tensor, "outputs ..."], tile: int) -> None:
        matrix = weight.detach().flatten(1)
        self.shape, self.kernel = weight.shape, math.prod(weight.shape[2:])
        self.rows, self.columns = edges(matrix.shape[0], tile), edges(matrix.shape[1], tile, self.kernel)
        self.scale = self.by_tile(matrix, lambda part: part.abs().amax())
        relative = matrix / self.spread(torch.where(self.scale > 0, self.scale, 1))
        self.target = torch.stack([relative.clamp(min=0), (-relative).clamp(min=0)])

    def by_tile(
        self, matrix: Float[Tensor, "outputs inputs"], reduce: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "rows columns"]:
        """One number a tile."""
        bands = matrix.split(self.rows, 0)
        return torch.stack([torch.stack([reduce(part) for part in band.split(self.columns, 1)]) for band in bands])

    def spread(self, values: Float[Tensor, "rows columns"]) -> Float[Tensor, "outputs inputs"]:
        """A number a tile, at every weight of the tile."""
        return repeated(repeated(values, self.rows, 0), self.columns, 1)

    def weights(self, g: Float[Tensor, "2 outputs inputs"]) -> Float[Tensor, "outputs inputs"]:
        r"""The matrix that pairs of conductances stand for, :math:`s(g_+ - g_-)`."""
        return (g[0] - g[1]) * self.spread(self.scale)

    def program(self, generator: torch.Generator) -> Chip:
        """Draw programming noise and drift exponents of all devices: one chip."""
        g = devices.programmed(self.target, generator=generator)
        return Chip(self, g, devices.drift_exponents(self.target, generator=generator))


class Chip:
    """An array as it was programmed once: its devices' conductances and drift exponents, [2, O, …flattened] each."""

    def __init__(
        self, array: Array, g: Float[Tensor, "2 outputs inputs"], exponent: Float[Tensor, "2 outputs inputs"]
    ) -> None:
        self.array, self.g, self.exponent = array, g, exponent
        self.reference = array.by_tile(array.weights(g), _mean_size)

    def read(
        self, time: float, compensation: bool, generator: torch.Generator
    ) -> tuple[Float[Tensor, "outputs ..."], Float[Tensor, "rows columns"]]:
        r"""The weights that the network sees ``time`` seconds after programming, and each tile's correction α.

        .. math:: W' = \alpha\, s (g_+ - g_-)(t), \qquad \alpha = \mathrm{mean}|W_{prog}| / \mathrm{mean}|W(t)|

        the means over one tile (global drift compensation: two readings of the whole tile, one digital factor);
        α = 1 without compensation.
        """
        g = devices.read(devices.drifted(self.g, time, self.exponent), time, self.g, generator=generator)
        matrix = self.array.weights(g)
        gain = torch.ones_like(self.reference)
        if compensation:
            now = self.array.by_tile(matrix, _mean_size)
            gain = torch.where(now > 0, self.reference / now, 1)
        return (matrix * self.array.spread(gain)).reshape(self.array.shape), gain


def repeated(values: Tensor, sizes: Sequence[int], dimension: int) -> Tensor:
    """Each entry along ``dimension`` as many times as its part is long."""
    return values.repeat_interleave(torch.tensor(sizes, device=values.device), dimension)


def _mean_size(matrix: Tensor) -> Tensor:
    return matrix.abs().mean()
