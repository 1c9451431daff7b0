r"""Linear functions of the errors of a matrix of parameters, and their standard deviations.

A matrix is :math:`\theta_{ki} + \sigma (\tau_{ki} n_{ki} + \sum_m g^m_{ki} c_m) + u_{ki}` with independent errors
:math:`n_{ki}, c_m` of variance (proxy) 1 and unknown :math:`|u_{ki}| \le r_{ki}`. With known numbers :math:`a_k`, the
error of :math:`\sum_k a_k \theta'_{ki}` at σ = 1 is the vector :math:`(a_k \tau_{ki})_k, (\sum_k a_k g^m_{ki})_m` times
those errors: its standard deviation is the length of that vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum

# Squares of numbers below the smallest normal one may be lost: so much of a length, for coefficients of size 1.
UNDERFLOW = 2.0**-490


@dataclass(frozen=True)
class NoisyMatrix:
    """Parameters that are read together.

    Attributes:
        theta: values at the centre, float64.
        size: τ, of the independent errors, at least 0.
        around: r, largest absolute values of what is unknown and not random.
        shared: g, of each error that several parameters share.
    """

    theta: Float[Tensor, "terms columns"]
    size: Float[Tensor, "terms columns"]
    around: Float[Tensor, "terms columns"]
    shared: Sequence[Float[Tensor, "terms columns"]] = ()

    @cached_property
    def errors(self) -> int:
        """How many errors there are."""
        return int((self.size > 0).sum()) + len(self.shared)

    @cached_property
    def extent(self) -> Float[Tensor, "terms columns"]:
        """What each parameter may be off by where no error is above 1 in size."""
        extent = self.size
        for gain in self.shared:
            extent = extent + gain.abs()
        return extent * (1.0 + gamma_sum(len(self.shared)))

    def columns(self, which: Tensor) -> NoisyMatrix:
        """Some of the columns."""
        shared = [gain[:, which] for gain in self.shared]
        return NoisyMatrix(self.theta[:, which], self.size[:, which], self.around[:, which], shared)


@dataclass(frozen=True)
class NoisySums:
    r"""Sums :math:`\sum_k a_k \theta'_{ki}` of the columns, ``[..., columns]`` each.

    Attributes:
        matrix: θ.
        a: coefficients as computed.
        a_error: how far they may be off.
    """

    matrix: NoisyMatrix
    a: Float[Tensor, "*rows terms"]
    a_error: Float[Tensor, "*#rows terms"]

    @property
    def _gamma(self) -> float:
        return gamma_sum(self.a.shape[-1])

    def product_error(self) -> Tensor:
        """What the product of ``a`` as computed and θ may lose, in any order of its sum."""
        return (self.a.abs() @ self.matrix.theta.abs()) * self._gamma + UNDERFLOW

    def around(self) -> Tensor:
        """What the unknown part may add or take."""
        return ((self.a.abs() + self.a_error) @ self.matrix.around) * (1.0 + self._gamma) + UNDERFLOW

    def common(self) -> list[Tensor]:
        """The vectors' entries at the shared errors, as computed."""
        return [self.a @ gain for gain in self.matrix.shared]

    def vector_error(self) -> Tensor:
        """Length of the difference between the true vectors and those of ``a`` and :meth:`common` as computed."""
        squares = self.a_error.square() @ self.matrix.size.square()
        length = squares.sqrt() * (1.0 + self._gamma) + UNDERFLOW * (1.0 + self.a.abs().amax(-1, keepdim=True))
        for gain in self.matrix.shared:
            length = length + (self.a_error + self._gamma * self.a.abs()) @ gain.abs() * (1.0 + self._gamma)
        return length

    def alone(self) -> Tensor:
        """Sums of the squares of the vectors' other entries."""
        return (self.a.square() @ self.matrix.size.square()) * (1.0 + self._gamma)

    def length(self) -> Tensor:
        """Of each vector: the standard deviation at σ = 1, rounded up."""
        square = self.alone()
        for m in self.common():
            square = square + m.square()
        return square.sqrt() * (1.0 + self._gamma) + self.vector_error()

    def beyond(self, rest: Float[Tensor, "*rows terms"], error_limit: Float[Tensor, "*rows 1"]) -> Tensor:
        """What coefficients that are off by ``rest`` may add or take, where no error is above ``error_limit / σ``."""
        matrix = self.matrix
        whole = rest @ (matrix.theta.abs() + matrix.around) + error_limit * (rest @ matrix.extent)
        return whole * (1.0 + self._gamma) + UNDERFLOW


class Margins(NamedTuple):
    """Margins against each class: mean at least ``low``, standard deviation at σ = 1 at most ``length``; see `y`'s."""

    low: Float[Tensor, "rows classes"]
    length: Float[Tensor, "rows classes"]


def margins(
    readout: NoisyMatrix,
    a: Float[Tensor, "rows terms"],
    rest: Float[Tensor, "rows terms"],
    error_limit: Float[Tensor, " rows"],
    y: Int[Tensor, " rows"],
) -> Margins:
    """Of logits that read ``a`` give or take ``rest``, where no error is above ``error_limit / σ``; 0 against y."""
    sums = NoisySums(readout, a, torch.zeros_like(a[:1]))

    def margin(t: Tensor) -> Tensor:
        return t.gather(1, y[:, None]) - t

    def both(t: Tensor) -> Tensor:
        return (t.gather(1, y[:, None]) + t) * (1.0 + gamma_sum(2))

    theta, gamma = readout.theta, gamma_sum(a.shape[1])
    values = a @ theta
    low = margin(values) - both(sums.product_error()) - both(sums.around()) - gamma_sum(8) * both(values.abs())
    apart = torch.einsum("rk,rkc->rc", rest, (theta.t()[y][:, :, None] - theta).abs())
    moved = both(rest @ readout.around) + error_limit[:, None] * both(rest @ readout.extent)
    low = low - (apart + moved) * (1.0 + gamma)
    # Columns share no independent error; of what they share, one takes from the other.
    square = both(sums.alone()) + sum(margin(m).square() for m in sums.common())
    return Margins(low, square.sqrt() * (1.0 + gamma_sum(8)) + both(sums.vector_error()))
