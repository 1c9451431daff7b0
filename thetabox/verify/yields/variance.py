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

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.walk import Value
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.rules import affine, convolution, normalise
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop, Walk, dot, flat
from thetabox.verify.network.graph import Operation, Ref
from thetabox.verify.network.operators import CONVOLUTIONS, DENSE

if TYPE_CHECKING:
    from collections.abc import Mapping

# Numbers in the largest temporary tensor.
BLOCK = 1 << 20
# Added to radii for what may underflow; for variances see `rows.FLOOR`.
TINY = 1e-300
BATCH_NORMS = ("aten._native_batch_norm_legit_no_training.default", "aten.batch_norm.default")
SUMS = ("aten.add.Tensor", "aten.sub.Tensor")
PRODUCTS = ("aten.mul.Tensor",)
KNOWN = (*(o for o in DENSE if o != "aten.matmul.default"), *CONVOLUTIONS, *BATCH_NORMS, *SUMS, *PRODUCTS)
"""Operators whose parameters may be noisy."""
# Arguments that may be, where not all of them.
PLACES: dict[str, tuple[int, ...]] = dict.fromkeys((*CONVOLUTIONS, *BATCH_NORMS, "aten.linear.default"), (1, 2))
PLACES |= {"aten.addmm.default": (0, 2), "aten.mm.default": (1,)}


@dataclass(frozen=True)
class Variance:
    """Of one operation at σ = 1, for a batch of samples.

    Attributes:
        outputs: of every result by itself, ``[samples, *shape]``.
        rows: of rows of coefficients on the results, ``[samples, rows]``.
    """

    outputs: Float[Tensor, "samples ..."]
    rows: Callable[[Walk, Tensor, Region | None], Float[Tensor, "samples rows"]]


def variance(samples: Samples, operation: Operation, sizes: Mapping[int, Tensor]) -> Variance:
    """Variance of an operation that reads noisy parameters; its operands are bounded, its result need not be.

    Args:
        samples: with the operands' intervals.
        operation: one of :data:`KNOWN`.
        sizes: square roots of the proxies of the parameters' entries by their positions in the graph.

    Raises:
        InputError: it reads them in a way that is not known.
    """
    sized = _with_sizes(samples, sizes)
    try:
        _check_places(operation, sizes)
        if operation.operator in DENSE:
            return _dense(sized, operation)
        if operation.operator in CONVOLUTIONS:
            return _convolution(sized, operation)
        if operation.operator in BATCH_NORMS:
            return _batch_norm(samples, sized, operation)
        return _elementwise(samples, sized, operation)
    except Stop:
        raise InputError(
            f"proven yield does not know how the noise of parameters goes through {operation.describe()}; "
            "use sampled_yield, or leave those parameters out of the box"
        ) from None


def _check_places(operation: Operation, sizes: Mapping[int, Tensor]) -> None:
    """Refuse noise of anything but weights and biases, as of a batch norm's statistics.

    Raises:
        Stop: there is some.
    """
    known = PLACES.get(operation.operator, range(len(operation.args)))
    there = {t.index for n, t in enumerate(operation.args) if n in known and isinstance(t, Ref)}
    if (set(operation.inputs) & set(sizes)) - there:
        raise Stop


def _with_sizes(samples: Samples, sizes: Mapping[int, Tensor]) -> Samples:
    """The same samples, whose parameters' values are the sizes of their errors."""
    held: dict[int, Value] = {
        i: Parameter(torch.zeros_like(p.theta)) for i, p in samples.values.items() if isinstance(p, Parameter)
    }
    held |= {i: Parameter(size) for i, size in sizes.items()}
    sized = copy.copy(samples)
    sized.values = ChainMap(held, samples.values)  # type: ignore[assignment]  # read only
    return sized


def _up(t: Tensor, terms: int) -> Tensor:
    """Sums of ``terms`` numbers of at least 0, rounded up."""
    return t * (1.0 + gamma_sum(terms)) + TINY


def _most(value: Interval) -> Tensor:
    return value.lower.abs() if value.is_point else torch.maximum(value.lower.abs(), value.upper.abs())


def _middle(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and radius; the radius covers both ends of the centre as computed."""
    if lower is upper:
        return lower, torch.zeros_like(lower)
    centre = lower / 2 + upper / 2
    return centre, torch.maximum(upper - centre, centre - lower) * (1.0 + gamma_sum(4)) + TINY


def _dense(sized: Samples, operation: Operation) -> Variance:
    index, weight, bias = affine.layer(sized, operation)
    value = sized.interval(index)
    most = _most(value)
    inputs = weight.theta.shape[1]
    outputs = most.square() @ weight.theta.square().T
    if bias is not None:
        outputs = outputs + bias.theta.square()
    outputs = _up(outputs, inputs + 8)

    def alone(walk: Walk, a: Tensor, region: Region | None) -> Tensor:
        """One position a sample: the outputs' noises are independent given the layers before."""
        return _up(dot(a.square(), walk.cut(outputs, None)), a[0, 0].numel() + 4)

    def shared(walk: Walk, a: Tensor, region: Region | None) -> Tensor:
        """Several positions ``[samples, rows, ..., outputs]`` read the same weights."""
        a = a.flatten(2, -2)
        centre, radius = (t.flatten(1, -2) for t in _middle(*walk.ends(index)))
        radius = _up(radius + gamma_sum(a.shape[2]) * (centre.abs() + radius), 4)
        total = a.new_zeros(a.shape[:2])
        for part in torch.arange(len(weight.theta), device=a.device).split(max(1, BLOCK // (inputs * a.shape[1]))):
            some = a[..., part]
            inner = torch.einsum("nrto,nti->nroi", some, centre).abs()
            inner += _up(torch.einsum("nrto,nti->nroi", some.abs(), radius), a.shape[2])
            total += (inner.square() * weight.theta[part].square()).sum((2, 3))
        if bias is not None:
            total = total + _bias(a.transpose(2, 3), bias.theta)
        return _up(total, 2 * weight.theta.numel() + 8)

    return Variance(outputs, alone if most.dim() == 2 else shared)


def _bias(a: Tensor, size: Tensor) -> Tensor:
    """Of a bias that stands at all positions of its channel: ``a [samples, rows, channels, ...]``."""
    a = a.flatten(3) if a.dim() > 3 else a[..., None]
    sums = a.sum(3).abs() + gamma_sum(a.shape[3]) * a.abs().sum(3)
    return sums.square() @ size.expand(a.shape[2]).square()


def _convolution(sized: Samples, operation: Operation) -> Variance:
    conv = convolution.layer(sized, operation)
    value = sized.interval(conv.x)
    tau, bias = conv.weight.theta, conv.bias
    outputs = conv.product(_most(value).square(), tau.square())
    if bias is not None:
        outputs = outputs + bias.theta.square().view(-1, *[1] * (outputs.dim() - 2))
    # A convolution may be computed by sums of products in another order, never by a transform: kernels.py.
    outputs = _up(outputs.clamp(min=0.0), conv.inputs + 8)

    def rows(walk: Walk, a: Tensor, region: Region | None) -> Tensor:
        total = a.new_zeros(a.shape[:2]) if bias is None else _bias(a, bias.theta)
        if conv.flat:
            a = a[..., None, :]
        there = region or Region((0, 0), (0, 0), (a.shape[-2], a.shape[-1]))
        centre, radius = _middle(*convolution.images(walk, conv, conv.window(there)))
        known = value.is_point
        sums = gamma_sum(a.shape[-2] * a.shape[-1])
        radius = radius if known else _up(radius + sums * (centre.abs() + radius), 4)
        count, number = a.shape[:2]
        width = tau.numel() + conv.inputs * conv.groups * a.shape[-1] * a.shape[-2]
        parts = torch.arange(count, device=a.device).split(max(1, BLOCK // (width * number)))
        squares = [
            _block(conv, a[p], centre[p], None if known else radius[p], sums, a.shape[-2] * a.shape[-1]) for p in parts
        ]
        return _up(total + torch.cat(squares), 2 * tau.numel() + 8)

    return Variance(outputs, rows)


def _block(
    conv: convolution.Convolution, a: Tensor, centre: Tensor, radius: Tensor | None, sums: float, positions: int
) -> Tensor:
    """``Σ_q τ_q² (|G_q| + R_q)²`` of some samples."""
    rows = a.shape[1]
    outputs = conv.weight.theta.shape[0] // conv.groups
    grouped = a.flatten(3).unflatten(2, (conv.groups, outputs)).transpose(1, 2).flatten(2, 3)
    inner = (grouped @ conv.columns(centre)).abs_()
    if radius is not None:
        inner += _up(grouped.abs() @ conv.columns(radius), positions)
    else:
        # A known input: G alone, and what its own sum may have lost.
        most = centre.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
        inner += _up(grouped.abs().sum(3, keepdim=True) * most * sums, positions + 4)
    tau = conv.weight.theta.reshape(conv.groups, 1, outputs, -1).square()
    return (inner.unflatten(2, (rows, outputs)).square() * tau).sum((1, 3, 4))


def _batch_norm(samples: Samples, sized: Samples, operation: Operation) -> Variance:
    weight, bias, _, _, eps = normalise.statistics(sized, operation)
    _, _, mean, spread, _ = normalise.statistics(samples, operation)
    index = operation.args[0].index
    wide = (1, -1, *[1] * (samples.interval(index).lower.dim() - 2))
    steepness, shift = (spread.theta + eps).rsqrt().view(wide), mean.theta.view(wide)
    # Of x - mean and of the root, and of statistics held with an error.
    error = gamma_sum(16) + 4.0 * max(mean.theta_error, spread.theta_error)

    def normalised(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        centre, radius = _middle(lower, upper)
        middle = (centre - shift) * steepness
        around = radius * steepness + error * (centre.abs() + radius + shift.abs()) * steepness
        return middle, _up(around, 8)

    value = samples.interval(index)
    middle, around = normalised(value.lower, value.upper)
    most = (middle.abs() + around).square()
    outputs = torch.zeros_like(most)
    for part, factor in ((weight, most), (bias, None)):
        if part is not None:
            square = part.theta.square().view(wide)
            outputs = outputs + (square if factor is None else square * factor)
    outputs = _up(outputs, 8)

    def rows(walk: Walk, a: Tensor, region: Region | None) -> Tensor:
        total = a.new_zeros(a.shape[:2]) if bias is None else _bias(a, bias.theta)
        if weight is not None:
            centre, radius = normalised(*walk.ends(index, region))
            count = max(1, a[0, 0, 0].numel())
            radius = _up(radius + gamma_sum(count) * (centre.abs() + radius), 4)
            inner = _channels(a * centre[:, None]).abs() + _up(_channels(a.abs() * radius[:, None]), count)
            total = total + inner.square() @ weight.theta.square()
        return _up(total, 2 * a.shape[2] + 8)

    return Variance(outputs, rows)


def _channels(t: Tensor) -> Tensor:
    """Sums over the positions of every channel, ``[samples, rows, channels]``."""
    return t.flatten(3).sum(3) if t.dim() > 3 else t


def _elementwise(samples: Samples, sized: Samples, operation: Operation) -> Variance:
    """A parameter that is added to a value, or multiplies it, place by place."""
    if operation.kwargs or len(operation.args) != 2 or not all(isinstance(t, Ref) for t in operation.args):
        raise Stop
    held = [sized.values[t.index] for t in operation.args]
    noise = [(n, v) for n, v in enumerate(held) if isinstance(v, Parameter)]
    if len(noise) != 1:
        raise Stop
    other = operation.args[1 - noise[0][0]].index
    shape = samples.shape(operation.index)
    if not samples.plain(other) or samples.shape(other) != shape:
        raise Stop
    tau = noise[0][1].theta
    if tau.dim() > len(shape):
        if tau.dim() > len(shape) + 1 or tau.shape[0] != 1:
            raise Stop
        tau = tau[0]
    value = samples.interval(other)
    product = operation.operator in PRODUCTS
    square = tau.square().expand(shape)
    outputs = _up(square * _most(value).square() if product else square.expand_as(value.lower), 4)
    count = max(1, square.numel() // max(1, tau.numel()))

    def rows(walk: Walk, a: Tensor, region: Region | None) -> Tensor:
        if region is not None and not (walk.frame.whole or region.fixed):
            a = walk.frame.unfolded(a, region, (shape[-2], shape[-1]))
        inner, lost = a, a.abs() * gamma_sum(count)
        if product:
            lower = value.lower[walk.frame.samples]
            centre, radius = _middle(lower, lower if value.is_point else value.upper[walk.frame.samples])
            radius = _up(radius + gamma_sum(count) * (centre.abs() + radius), 4)
            inner, lost = a * centre[:, None], a.abs() * radius[:, None]
        inner, lost = (t.sum_to_size(*a.shape[:2], *[1] * (len(shape) - tau.dim()), *tau.shape) for t in (inner, lost))
        most = flat(inner.abs() + _up(lost, count), 2)
        return _up(most.square() @ tau.reshape(-1).square(), 2 * tau.numel() + 8)

    return Variance(outputs, rows)
