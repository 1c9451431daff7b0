r"""Convolutions backwards, their kernels kept shared.

The noise of a weight multiplies one number for all positions, :math:`g_k = \sum_p A_p x_{p+k}`. With :math:`x \in [c -
r, c + r]` it lies in :math:`G \pm R`, :math:`G` the weight gradient of :math:`A` at :math:`c` and :math:`R` that of
:math:`|A|` at :math:`r`, so :math:`|g| \le s g + t` with :math:`s = G/R` cut to :math:`[-1, 1]` and :math:`t = \max(R -
s G, 0)`, and

.. math:: A_x = A(\theta - \varepsilon u s), \quad c = -\varepsilon \langle u, t \rangle .

Cheaper, without R: :math:`A_x = A\theta` and :math:`c = -\varepsilon (\langle u, |G| \rangle + \langle |A|, u * r
\rangle)`, whose last product all rows share. A known input (the first layer) gives the constant :math:`\langle G,
\theta \rangle - \varepsilon \langle |G|, u \rangle`, exact. Rounding as for dense layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.linear.region import Pair, Region
from thetabox.verify.linear.rules.affine import add_bias, chord, lose_start, parameter, relative_error, term_sizes
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop, Walk, backward, dot
from thetabox.verify.network.graph import Operation

# Numbers in the largest temporary tensor of a product: near the cache.
BLOCK = 1 << 20


@dataclass(frozen=True)
class Convolution:
    """Operand, parameters and settings; 1d ones are seen as images of height 1."""

    x: int
    weight: Parameter
    bias: Parameter | None
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    flat: bool
    uneven: Pair

    @property
    def kernel(self) -> Pair:
        """Height and width."""
        return self.weight.theta.shape[-2], self.weight.theta.shape[-1]

    @property
    def inputs(self) -> int:
        """Values that one output reads."""
        return self.weight.theta[0].numel()

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The forward convolution."""
        if self.flat:
            x = x[..., None, :]
        top, left = self.padding
        x = F.pad(x, (left, left + self.uneven[1], top, top + self.uneven[0]))
        z = F.conv2d(x, weight, None, self.stride, 0, self.dilation, self.groups)
        return z.squeeze(-2) if self.flat else z

    def window(self, region: Region) -> Region:
        """What is read to fill a region."""
        return region.before(self.kernel, self.stride, self.padding, self.dilation)

    def columns(self, x: Tensor) -> Tensor:
        """Patches ``[samples, groups, positions, inputs]`` of ``x [samples, channels, h, w]``."""
        unfolded = F.unfold(x, self.kernel, self.dilation, 0, self.stride)
        return unfolded.unflatten(1, (self.groups, self.inputs)).transpose(2, 3)

    def folded(self, columns: Tensor, size: Pair) -> Tensor:
        """Patches ``[samples, groups, rows, inputs, positions]`` added up, ``[samples, rows, channels, h, w]``."""
        count, _, rows, _, positions = columns.shape
        flat = columns.transpose(1, 2).reshape(count * rows, -1, positions)
        return F.fold(flat, size, self.kernel, self.dilation, 0, self.stride).unflatten(0, (count, rows))


def layer(samples: Samples, operation: Operation) -> Convolution:
    """The convolution that an operation is.

    Raises:
        Stop: its weights are computed, or its input is no batch of samples.
    """
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    named: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    named |= dict(zip(names, operation.args, strict=False)) | operation.kwargs
    weight, bias = parameter(samples, operation, 1), parameter(samples, operation, 2)
    if weight is None or set(named) - set(names) or not samples.depends(named["input"].index):
        raise Stop
    flat = weight.theta.dim() == 3
    if flat:
        weight = weight.moved(lambda t: t[:, :, None])
    kernel = (weight.theta.shape[-2], weight.theta.shape[-1])
    stride, dilation = _pair(named["stride"], flat, 1), _pair(named["dilation"], flat, 1)
    padding, uneven = named["padding"], (0, 0)
    if padding == "same":
        total = tuple(dilation[d] * (kernel[d] - 1) for d in range(2))
        padding, uneven = tuple(t // 2 for t in total), tuple(t % 2 for t in total)  # type: ignore[assignment]  # of length 2
    else:
        padding = (0, 0) if padding == "valid" else _pair(padding, flat, 0)
    return Convolution(named["input"].index, weight, bias, stride, padding, dilation, named["groups"], flat, uneven)


def _pair(value: Any, flat: bool, other: int) -> Pair:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if flat:
        return (other, values[0])
    return values * 2 if len(values) == 1 else values


@backward("aten.conv1d.default", "aten.conv2d.default", "aten.conv1d.padding", "aten.conv2d.padding")
def convolution(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """A 1d or 2d convolution."""
    samples = walk.samples
    conv = layer(samples, operation)
    z = walk.cut(term_sizes(samples, operation, conv.x, conv.weight, conv.bias, conv.product), region)
    sums = 2 * a[0, 0].numel() + conv.weight.theta.numel()
    relative = relative_error(samples, conv.inputs, sums, conv.weight, conv.bias)
    add_bias(walk, a, conv.bias, 2)
    walk.penalty(a, z, relative, samples.rounding.underflow * conv.inputs)
    if conv.flat:
        a = a[..., None, :]
    there = region or Region((0, 0), (0, 0), (a.shape[-2], a.shape[-1]))
    window = conv.window(there)
    lower, upper = images(walk, conv, window)
    exact = walk.is_exact_input(conv.x)
    apart = None
    if walk.coarse and not exact and conv.weight.factor:
        apart = walk.cut(_apart(samples, operation, conv), region)
        apart = apart[..., None, :] if conv.flat else apart
    parts, constants = [], []
    count, rows = a.shape[:2]
    width = conv.weight.theta.numel() + conv.inputs * conv.groups * a.shape[-1] * a.shape[-2]
    step = max(1, BLOCK // (width * rows))
    epsilon = walk.epsilon(samples.factor(conv.weight), 5)
    for start in range(0, count, step):
        part = slice(start, start + step)
        least, most = lower[part], lower[part] if exact else upper[part]
        out, constant = _block(conv, a[part], least, most, epsilon[part], exact, None if apart is None else apart[part])
        parts.append(out)
        constants.append(constant)
    walk.constant.add(torch.cat(constants))
    if exact:
        return
    first = torch.cat([p for p in parts if p is not None])
    if conv.flat:
        size = samples.shape(conv.x)[-1]
        first = first.squeeze(-2)
        left = -window.offset[1]
        walk.give(conv.x, F.pad(first, (-left, size - first.shape[-1] + left)))
    else:
        walk.give(conv.x, first, window)


def _apart(samples: Samples, operation: Operation, conv: Convolution) -> Tensor:
    """Radii of the weights times those of the input, for all samples; computed once."""

    def compute() -> Tensor:
        value = samples.interval(conv.x)
        return conv.product((value.upper - value.lower) / 2, conv.weight.unit_radius)

    radii: Tensor = samples.once(("apart", operation.index), compute)
    return radii


def images(walk: Walk, conv: Convolution, window: Region) -> tuple[Tensor, Tensor]:
    """Both ends of the input on a window."""
    if not conv.flat:
        return walk.ends(conv.x, window)
    lower, upper = walk.ends(conv.x)
    left, size = -window.offset[1], window.size[1]

    def lifted(t: Tensor) -> Tensor:
        return F.pad(t, (left, size - t.shape[-1] - left))[..., None, :]

    low = lifted(lower)
    return low, low if lower is upper else lifted(upper)


def _block(
    conv: Convolution,
    a: Tensor,
    lower: Tensor,
    upper: Tensor,
    epsilon: Tensor,
    exact: bool,
    apart: Tensor | None,
) -> tuple[Tensor | None, Tensor]:
    """Coefficients on the input ``[samples, rows, channels, h, w]`` and the constant, for some samples.

    ``apart`` is ``u`` times the input's radius, where the noise is to become a constant.
    """
    count, rows = a.shape[:2]
    outputs = conv.weight.theta.shape[0] // conv.groups
    size = lower.shape[-2], lower.shape[-1]
    grouped = a.flatten(3).unflatten(2, (conv.groups, outputs)).transpose(1, 2).flatten(2, 3)
    theta = conv.weight.theta.reshape(1, conv.groups, 1, outputs, -1)
    radius = conv.weight.unit_radius.reshape(theta.shape)
    noisy = conv.weight.factor != 0.0

    def gradient(rows_of: Tensor, x: Tensor) -> Tensor:
        return (rows_of @ conv.columns(x)).unflatten(2, (rows, outputs))

    if exact:
        g = gradient(grouped, lower)
        constant = torch.einsum("ngmok,gok->nm", g, theta[0, :, 0])
        if noisy:
            constant = constant - torch.einsum("ngmok,gok->nm", g.abs_(), radius[0, :, 0]) * epsilon[:, 0, 0, 0]
        return None, constant
    if noisy and apart is not None:
        g = gradient(grouped, (lower + upper) / 2).abs_()
        constant = torch.einsum("ngmok,gok->nm", g, radius[0, :, 0]) + dot(a.abs(), apart)
        constant = constant * -epsilon[:, 0, 0, 0]
        weights = theta.expand(count, -1, rows, -1, -1)
    elif noisy:
        centre = gradient(grouped, (lower + upper) / 2)
        around = gradient(grouped.abs(), (upper - lower) / 2)
        slope = (centre / around).nan_to_num_(0.0, 1.0, -1.0).clamp_(-1.0, 1.0)
        offset = around.addcmul_(slope, centre, value=-1.0).clamp_(min=0.0)
        constant = torch.einsum("ngmok,gok->nm", offset, radius[0, :, 0]) * -epsilon[:, 0, 0, 0]
        weights = torch.addcmul(theta.expand_as(slope), slope, radius * -epsilon)
    else:
        constant = a.new_zeros(count, rows)
        weights = theta.expand(count, -1, rows, -1, -1)
    columns = weights.transpose(-1, -2) @ grouped.unflatten(2, (rows, outputs))
    return conv.folded(columns, size), constant


def start_convolution(walk: Walk, operation: Operation, channels: Tensor) -> None:
    """Start at ``channels [samples, n]`` of each sample's position: each, then each with its sign turned."""
    samples = walk.samples
    conv = layer(samples, operation)
    if conv.flat or conv.groups != 1:
        raise Stop
    spot = Region((1, 1), (0, 0), (1, 1))
    window = conv.window(spot)
    lower, upper = walk.ends(conv.x, window)
    lower, upper = (
        lower[..., :: conv.dilation[0], :: conv.dilation[1]],
        upper[..., :: conv.dilation[0], :: conv.dilation[1]],
    )
    theta = conv.weight.theta[channels]
    first = torch.cat([theta, -theta], 1)
    if conv.weight.factor:
        slope, offset = chord(lower, upper)
        around = conv.weight.unit_radius[channels]
        around = torch.cat([around, around], 1)
        shape = walk.epsilon(samples.factor(conv.weight), lower.dim())
        first = first - around * (slope * shape)[:, None]
        walk.constant.lose(dot(around, offset * shape), around[0, 0].numel())
    if conv.bias is not None:
        b = conv.bias.theta[channels]
        walk.constant.add(torch.cat([b, -b], 1))
        if conv.bias.factor:
            noise = conv.bias.unit_radius[channels] * walk.epsilon(samples.factor(conv.bias), 2)
            walk.constant.lose(torch.cat([noise, noise], 1), 1)
    z = walk.cut(term_sizes(samples, operation, conv.x, conv.weight, conv.bias, conv.product), spot)
    z = z.flatten(1).gather(1, channels)
    lose_start(walk, z, relative_error(samples, conv.inputs, 8, conv.weight, conv.bias), conv.inputs)
    if conv.dilation != (1, 1):
        spread = first.new_zeros(*first.shape[:3], *window.size)
        spread[..., :: conv.dilation[0], :: conv.dilation[1]] = first
        first = spread
    walk.give(conv.x, first, window)
