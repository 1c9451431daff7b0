r"""Variance of what the noise of one operation's parameters adds to its results, and to rows of them.

An operation :math:`z = (\theta + N)h + b + n` adds :math:`M = \langle A, N h + n \rangle` to a row A. With sizes τ of
the entries of N and n, each an independent error of variance proxy :math:`\tau^2`, and given h, M has the proxy

.. math:: v = \sum_q \tau_q^2 \Bigl(\sum_p A_p h_{p+q}\Bigr)^2 + \tau_b^2 \Bigl(\sum_p A_p\Bigr)^2 ,

one sum for each parameter, over the positions p at which it stands. For h in [c - r, c + r] the inner sum lies in
:math:`G \pm R`, G that at c and R that of :math:`|A|` at r. All is rounded up, the roundings of G as part of R.
"""

from __future__ import annotations

import copy
from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.walk import Value
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.rules import affine, convolution
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Walk, dot
from thetabox.verify.network.graph import Operation

if TYPE_CHECKING:
    from collections.abc import Mapping

# Numbers in the largest temporary tensor.
BLOCK = 1 << 20
# Added to radii for what may underflow; for variances see `noisy_walk.FLOOR`.
TINY = 1e-300


@dataclass(frozen=True)
class Variance:
    """Of one operation at σ = 1, for a batch of samples.

    Attributes:
        outputs: of every result by itself, ``[samples, *shape]``.
        rows: of rows of coefficients on the results, ``[samples, rows]``.
    """

    outputs: Float[Tensor, "samples ..."]
    rows: Callable[[Walk, Tensor, Region | None], Float[Tensor, "samples rows"]]


def centred(samples: Samples, index: int) -> tuple[Tensor, Tensor]:
    """Centre and radius of a value."""
    return middle_of(*both_ends(samples, index))


def both_ends(samples: Samples, index: int) -> tuple[Tensor, Tensor]:
    """Both ends of a value; one tensor for a known one."""
    value = samples.interval(index)
    return value.lower, value.lower if value.is_point else value.upper


def with_values(samples: Samples, sizes: Mapping[int, Tensor]) -> Samples:
    """The same samples, whose parameters' values are the sizes of their errors."""
    held: dict[int, Value] = {
        i: Parameter(torch.zeros_like(p.theta)) for i, p in samples.values.items() if isinstance(p, Parameter)
    }
    held |= {i: Parameter(size) for i, size in sizes.items()}
    sized = copy.copy(samples)
    sized.values = ChainMap(held, samples.values)  # type: ignore[assignment]  # read only
    return sized


def rounded_up(t: Tensor, terms: int) -> Tensor:
    """Sums of ``terms`` numbers of at least 0, rounded up."""
    return t * (1.0 + gamma_sum(terms)) + TINY


def largest(value: Interval) -> Tensor:
    """Largest absolute values."""
    return value.lower.abs() if value.is_point else torch.maximum(value.lower.abs(), value.upper.abs())


def middle_of(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and radius; the radius covers both ends of the centre as computed."""
    if lower is upper:
        return lower, torch.zeros_like(lower)
    centre = lower / 2 + upper / 2
    return centre, torch.maximum(upper - centre, centre - lower) * (1.0 + gamma_sum(4)) + TINY


def dense(sized: Samples, operation: Operation) -> Variance:
    """Of a dense layer; ``sized`` holds the sizes of errors for parameters.

    Raises:
        Stop: another form of it.
    """
    index, weight, bias = affine.layer(sized, operation)
    value = sized.interval(index)
    most = largest(value)
    inputs = weight.theta.shape[1]
    outputs = most.square() @ weight.theta.square().T
    if bias is not None:
        outputs = outputs + bias.theta.square()
    outputs = rounded_up(outputs, inputs + 8)

    def alone(walk: Walk, a: Tensor, region: Region | None) -> Tensor:
        """One position a sample: the outputs' noises are independent given the layers before."""
        return rounded_up(dot(a.square(), walk.cut(outputs, None)), a[0, 0].numel() + 4)

    def shared(walk: Walk, a: Tensor, region: Region | None) -> Tensor:
        """Several positions ``[samples, rows, ..., outputs]`` read the same weights."""
        a = a.flatten(2, -2)
        centre, radius = (t.flatten(1, -2) for t in middle_of(*walk.ends(index)))
        radius = rounded_up(radius + gamma_sum(a.shape[2]) * (centre.abs() + radius), 4)
        total = a.new_zeros(a.shape[:2])
        for part in torch.arange(len(weight.theta), device=a.device).split(max(1, BLOCK // (inputs * a.shape[1]))):
            some = a[..., part]
            inner = torch.einsum("nrto,nti->nroi", some, centre).abs()
            inner += rounded_up(torch.einsum("nrto,nti->nroi", some.abs(), radius), a.shape[2])
            total += (inner.square() * weight.theta[part].square()).sum((2, 3))
        if bias is not None:
            total = total + of_bias(a.transpose(2, 3), bias.theta)
        return rounded_up(total, 2 * weight.theta.numel() + 8)

    return Variance(outputs, alone if most.dim() == 2 else shared)


def of_bias(a: Tensor, size: Tensor) -> Tensor:
    """Of a bias that stands at all positions of its channel: ``a [samples, rows, channels, ...]``."""
    a = a.flatten(3) if a.dim() > 3 else a[..., None]
    sums = a.sum(3).abs() + gamma_sum(a.shape[3]) * a.abs().sum(3)
    return sums.square() @ size.expand(a.shape[2]).square()


def convolved(sized: Samples, operation: Operation) -> Variance:
    """Of a convolution in one or two dimensions; arguments as for :func:`dense`.

    Raises:
        Stop: another form of it.
    """
    conv = convolution.layer(sized, operation)
    value = sized.interval(conv.x)
    tau, bias = conv.weight.theta, conv.bias
    outputs = conv.product(largest(value).square(), tau.square())
    if bias is not None:
        outputs = outputs + bias.theta.square().view(-1, *[1] * (outputs.dim() - 2))
    # A convolution may be computed by sums of products in another order, never by a transform: kernels.py.
    outputs = rounded_up(outputs.clamp(min=0.0), conv.inputs + 8)

    def rows(walk: Walk, a: Tensor, region: Region | None) -> Tensor:
        total = a.new_zeros(a.shape[:2]) if bias is None else of_bias(a, bias.theta)
        if conv.flat:
            a = a[..., None, :]
        there = region or Region((0, 0), (0, 0), (a.shape[-2], a.shape[-1]))
        centre, radius = middle_of(*convolution.images(walk, conv, conv.window(there)))
        known = value.is_point
        sums = gamma_sum(a.shape[-2] * a.shape[-1])
        radius = radius if known else rounded_up(radius + sums * (centre.abs() + radius), 4)
        count, number = a.shape[:2]
        width = tau.numel() + conv.inputs * conv.groups * a.shape[-1] * a.shape[-2]
        parts = torch.arange(count, device=a.device).split(max(1, BLOCK // (width * number)))
        squares = [
            _block(conv, a[p], centre[p], None if known else radius[p], sums, a.shape[-2] * a.shape[-1]) for p in parts
        ]
        return rounded_up(total + torch.cat(squares), 2 * tau.numel() + 8)

    return Variance(outputs, rows)


def _block(
    conv: convolution.Convolution, a: Tensor, centre: Tensor, radius: Tensor | None, sums: float, positions: int
) -> Tensor:
    """``Σ_q τ_q² (|G_q| + R_q)²`` of some samples."""
    rows = a.shape[1]
    outputs = conv.weight.theta.shape[0] // conv.groups
    grouped = a.flatten(3).unflatten(2, (conv.groups, outputs)).transpose(1, 2).flatten(2, 3).clone()
    inner = (grouped @ conv.columns(centre)).abs_()
    if radius is not None:
        inner += grouped.abs_() @ conv.columns(radius)
    else:
        # A known input: G alone, and what its own sum may have lost.
        most = centre.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
        inner += grouped.abs_().sum(3, keepdim=True) * (most * sums)
    tau = conv.weight.theta.reshape(conv.groups, outputs * conv.inputs, 1).square()
    squares = inner.square_().unflatten(2, (rows, outputs)).flatten(3) @ tau
    # R is a sum of positions, and so is what G may have lost; both stand in a square.
    return squares.sum((1, 3)) * (1.0 + 4.0 * gamma_sum(positions))
