"""Dense layers, convolutions and matrix products."""

from __future__ import annotations

from math import gcd, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import InputError, OneEpsilonAtATime
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.affine import Operand, affine, product_of_values, times
from thetabox.verify.interpreter.rules.table import rule


@rule("aten.linear.default", parameters=True, slack=True, types="whole")
def linear(context: Context, x: Operand, weight: Operand, bias: Operand = None) -> Interval:
    """``x Wᵀ + b``."""
    x, shape = _input(context, x), _size(weight)
    return affine(context, x, weight, _spread(context, bias, shape[0]), F.linear, shape[-1])


@rule("aten.addmm.default", parameters=True, slack=True, types="whole")
def addmm(
    context: Context, bias: Operand, x: Operand, weight: Operand, *, beta: float = 1, alpha: float = 1
) -> Interval:
    """``b + x W``."""
    if beta != 1 or alpha != 1:
        raise InputError(f"{context.where}: addmm with beta or alpha other than 1 has no rule")
    terms, outputs = _size(weight)
    return affine(context, _input(context, x), weight, _spread(context, bias, outputs), times, terms)


@rule("aten.mm.default", "aten.matmul.default", "aten.bmm.default", "aten.mv.default", "aten.dot.default",
      "aten.vdot.default", parameters=True, slack=True, types="whole")  # a list of operators  # fmt: skip
def matmul(context: Context, x: Operand, weight: Operand) -> Interval:
    """``x W`` with a parameter (``x w`` with a vector), or the product of two values."""
    of_box = isinstance(weight, Parameter) or (_is_value(x) and not _is_value(weight))
    if weight is not None and of_box and len(_size(weight)) == 1:
        column = weight.moved(lambda t: t[:, None])
        return matmul(context, x, column).moved(lambda t: t.squeeze(-1))
    if isinstance(x, Interval) and x.batch is not None and not _is_value(weight):
        return affine(context, x, weight, None, times, _size(weight)[-2])
    return product_of_values(context, _input(context, x), _input(context, weight))


@rule("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default", "aten.conv1d.padding",
      "aten.conv2d.padding", "aten.conv3d.padding", parameters=True, slack=True,
      types="whole")  # a list of operators  # fmt: skip
def convolution(
    context: Context,
    x: Operand,
    weight: Operand,
    bias: Operand = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Interval:
    """A 1d, 2d or 3d convolution; the weights are never unfolded."""
    x = _input(context, x)
    check_images(context, x, weight)
    function: Any = CONVOLUTIONS[len(_size(weight)) - 2]

    def product(t: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return function(t, w, b, stride, padding, dilation, groups)

    return affine(context, x, weight, bias, product, prod(_size(weight)[1:]))


CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@rule("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input", parameters=True,
      slack=True)  # a list of operators  # fmt: skip
def transposed_convolution(
    context: Context,
    x: Operand,
    weight: Operand,
    bias: Operand = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Interval:
    """A transposed convolution in 1, 2 or 3 dimensions; the weights are never unfolded."""
    x = _input(context, x)
    check_images(context, x, weight)
    size = _size(weight)
    function: Any = TRANSPOSED[len(size) - 2]

    def product(t: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return function(t, outputs_first(w, groups), b, stride, padding, output_padding, groups, dilation)

    # Of the kernel, one output meets the places that lie a multiple of the stride apart.
    kernel, steps, gaps = size[2:], *(_each(v, len(size) - 2) for v in (stride, dilation))
    met = prod(-(-k * gcd(s, d) // s) for k, s, d in zip(kernel, steps, gaps, strict=True))
    turned = weight.moved(lambda w: outputs_first(w, groups))  # type: ignore[union-attr]  # never None here
    return affine(context, x, turned, bias, product, size[0] // groups * met)


def outputs_first(weight: Tensor, groups: int) -> Tensor:
    """Weights ``[inputs, outputs / groups, *kernel]`` as ``[outputs, inputs / groups, *kernel]``, or back."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def _each(value: Any, count: int) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, list | tuple) else (value,)
    return sizes * count if len(sizes) == 1 else sizes


def check_images(context: Context, x: Interval, weight: Operand) -> None:
    """Refuse what is no batch of signals, images or volumes with their channels."""
    if isinstance(weight, Interval) and weight.by_row:
        raise OneEpsilonAtATime(f"{context.where} multiplies by weights computed from perturbed parameters")
    if x.batch != 0 or x.lower.dim() != len(_size(weight)):
        raise InputError(f"{context.where}: the first dimension of a convolution's input must be the samples'")


def _input(context: Context, x: Operand) -> Interval:
    return context.interval(x) if isinstance(x, Parameter) else x  # type: ignore[return-value]  # never None here


def _size(weight: Operand) -> torch.Size:
    return weight.theta.shape if isinstance(weight, Parameter) else weight.shape  # type: ignore[union-attr]  # never None here


def _spread(context: Context, bias: Operand, outputs: int) -> Operand:
    """A bias as one number an output, where it is a parameter of one row; a box of its own shape elsewhere."""
    if not isinstance(bias, Parameter):
        return bias
    row = bias.theta.numel() == 1 or bias.theta.shape == (*[1] * (bias.theta.dim() - 1), outputs)
    return bias.spread(outputs) if row else context.interval(bias)


def _is_value(operand: Operand) -> bool:
    return isinstance(operand, Interval) and operand.batch is not None
