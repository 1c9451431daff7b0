r"""Convolutions of volumes, and transposed ones of any dimensions, backwards; their kernels kept shared.

Both pair the places :math:`p` of a coarse grid with the places :math:`q = s p - b + d k` of a fine one, for each tap
:math:`k` of the kernel: a convolution reads the fine grid and writes on the coarse one, a transposed convolution the
other way round. So of a row :math:`A`, with :math:`A_k, x_k` the values that tap k pairs, the noise of a weight
multiplies :math:`g_k = \langle A_k, x_k \rangle`, and the coefficients on the input are :math:`\sum_k w_k^T A_k` on
its grid. What is made of :math:`g_k` is said in :mod:`.convolution`: an exact constant for a known input, else
:math:`|g| \le s g + t`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.rules.dense import outputs_first
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.rules.affine import add_bias, parameter, relative_error, term_sizes
from thetabox.verify.linear.rules.convolution import BLOCK
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import NeedsImages, Stop, Walk, backward
from thetabox.verify.network.graph import Operation, arguments


@dataclass(frozen=True)
class Taps:
    """How the places of two grids are paired.

    Attributes:
        kernel, stride, dilation: of each dimension.
        before: padding in front of the fine grid.
        coarse, fine: sizes of both.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    coarse: tuple[int, ...]
    fine: tuple[int, ...]

    @property
    def _pads(self) -> list[tuple[int, int]]:
        """What is missing of the fine grid on both sides, or too much (below 0)."""
        grids = zip(self.kernel, self.stride, self.dilation, self.before, self.coarse, self.fine, strict=True)
        return [(b, (c - 1) * s + (k - 1) * d + 1 - b - f) for k, s, d, b, c, f in grids]

    def padded(self, t: Tensor) -> Tensor:
        """Values on the fine grid with zeros around, so that each tap finds its places."""
        return F.pad(t, [n for pads in reversed(self._pads) for n in pads])

    def cut(self, t: Tensor) -> Tensor:
        """The transpose of :meth:`padded`."""
        return F.pad(t, [-n for pads in reversed(self._pads) for n in pads])

    def views(self) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
        """Every tap, and where its values lie on the padded grid."""
        for tap in product(*(range(k) for k in self.kernel)):
            starts = [k * d for k, d in zip(tap, self.dilation, strict=True)]
            ends = zip(starts, self.coarse, self.stride, strict=True)
            yield tap, (..., *(slice(a, a + (c - 1) * s + 1, s) for a, c, s in ends))


@dataclass(frozen=True)
class Sliding:
    """A convolution: operand, parameters (weights outputs first) and how it slides."""

    x: int
    weight: Parameter
    bias: Parameter | None
    groups: int
    turned: bool
    taps: Taps
    operation: Operation

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The forward product."""
        weight = outputs_first(weight, self.groups) if self.turned else weight
        out: Tensor = self.operation.target(x, weight, None, *self.operation.args[3:], **self.operation.kwargs)
        return out


def layer(samples: Samples, operation: Operation) -> Sliding:
    """The convolution that an operation is.

    Raises:
        Stop: its weights are computed, or its input is no batch of samples.
    """
    weight, bias = parameter(samples, operation, 1), parameter(samples, operation, 2)
    if weight is None or any(name in operation.kwargs for name in ("input", "weight", "bias")):
        raise Stop
    named, index = arguments(operation), operation.args[0].index
    if not samples.plain(index):
        raise Stop
    turned = "transpose" in operation.operator
    rank, groups = weight.theta.dim() - 2, int(named["groups"])
    kernel = tuple(weight.theta.shape[2:])
    stride, dilation = _each(named["stride"], rank), _each(named["dilation"], rank)
    padding = named["padding"]
    if padding == "same":
        padding = [d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True)]
    before = (0,) * rank if padding == "valid" else _each(padding, rank)
    grids = samples.shape(index)[1:], samples.shape(operation.index)[1:]
    coarse, fine = grids if turned else grids[::-1]
    if turned:
        weight = weight.moved(lambda w: outputs_first(w, groups))
    taps = Taps(kernel, stride, dilation, before, coarse, fine)
    return Sliding(index, weight, bias, groups, turned, taps, operation)


def _each(value: Any, rank: int) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, list | tuple) else (value,)
    return sizes * rank if len(sizes) == 1 else sizes


@backward("aten.conv3d.default", "aten.conv3d.padding", "aten.conv_transpose1d.default", "aten.conv_transpose2d.input",
          "aten.conv_transpose3d.input")  # a list of operators  # fmt: skip
def sliding(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """A convolution in three dimensions, or a transposed one."""
    if not walk.frame.whole:
        raise NeedsImages
    samples = walk.samples
    conv = layer(samples, operation)
    inputs = conv.weight.theta[0].numel()
    z = walk.cut(term_sizes(samples, operation, conv.x, conv.weight, conv.bias, conv.product), None)
    sums = 2 * a[0, 0].numel() + conv.weight.theta.numel()
    relative = relative_error(samples, inputs, sums, conv.weight, conv.bias)
    add_bias(walk, a, conv.bias, 2)
    walk.penalty(a, z, relative, samples.rounding.underflow * inputs)
    lower, upper = walk.ends(conv.x)
    exact = walk.is_exact_input(conv.x)
    epsilon = walk.epsilon(samples.factor(conv.weight), 5)
    step = max(1, BLOCK // (a[0].numel() + a.shape[1] * (conv.weight.theta.numel() + lower[0].numel())))
    first, constants = [], []
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        block = _Block(conv, a[part], lower[part], upper[part], epsilon[part], exact)
        first.append(block.coefficients)
        constants.append(block.constant)
    walk.constant.add(torch.cat(constants))
    if not exact:
        walk.give(conv.x, torch.cat(first))


class _Block:
    """Coefficients on the input and the constant, for some samples; the pairs of one tap at a time."""

    def __init__(self, conv: Sliding, a: Tensor, lower: Tensor, upper: Tensor, epsilon: Tensor, exact: bool) -> None:
        count, rows = a.shape[:2]
        taps, self.conv = conv.taps, conv
        size = lower.shape[1:]
        centre, radius = (lower, lower) if exact else ((lower + upper) / 2, (upper - lower) / 2)
        if conv.turned:
            a = taps.padded(a)
        else:
            centre, radius = taps.padded(centre), taps.padded(radius)
        theta = conv.weight.theta.unflatten(0, (conv.groups, -1))
        spread = conv.weight.unit_radius.unflatten(0, (conv.groups, -1))
        self.constant = a.new_zeros(count, rows)
        out = a.new_zeros(count, rows, size[0], *centre.shape[2:])
        noisy = conv.weight.factor != 0.0
        for tap, view in taps.views():
            w, u = theta[(..., *tap)][None, :, None], spread[(..., *tap)][None, :, None]
            grouped = self._rows(a[view] if conv.turned else a)
            if exact or noisy:
                g = self._gradient(grouped, centre if conv.turned else centre[view])
            if exact:
                self.constant += (g * w).sum((1, 3, 4)) - (g.abs() * u * epsilon).sum((1, 3, 4))
                continue
            if noisy:
                around = self._gradient(grouped.abs(), radius if conv.turned else radius[view])
                slope = (g / around).nan_to_num(0.0, 1.0, -1.0).clamp(-1.0, 1.0)
                offset = (around - slope * g).clamp(min=0.0)
                self.constant -= (offset * u * epsilon).sum((1, 3, 4))
                w = w - slope * (u * epsilon)
            # [samples, groups, rows, outputs, places] to [samples, rows, channels, *grid]
            back = (w.transpose(-1, -2) @ grouped).transpose(1, 2).flatten(2, 3)
            where = (...,) if conv.turned else view
            out[where] += back.unflatten(-1, taps.coarse)
        self.coefficients = out if conv.turned else taps.cut(out)

    def _rows(self, a: Tensor) -> Tensor:
        """``[samples, groups, rows, outputs, places]``."""
        return a.flatten(3).unflatten(2, (self.conv.groups, -1)).transpose(1, 2)

    def _gradient(self, grouped: Tensor, x: Tensor) -> Tensor:
        """Of the weights of one tap, ``[samples, groups, rows, outputs, inputs]``."""
        columns = x.flatten(2).unflatten(1, (self.conv.groups, -1)).transpose(2, 3)
        flat = grouped.flatten(2, 3) @ columns
        return flat.unflatten(2, grouped.shape[2:4])
