"""Dense layers, convolutions and matrix products."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import InputError
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


@rule("aten.mm.default", "aten.matmul.default", "aten.bmm.default", parameters=True, slack=True, types="whole")
def matmul(context: Context, x: Operand, weight: Operand) -> Interval:
    """``x W`` with a parameter (``x w`` with a vector), or the product of two values."""
    if isinstance(weight, Parameter) and weight.theta.dim() == 1:
        column = weight.moved(lambda t: t[:, None])
        return matmul(context, x, column).moved(lambda t: t.squeeze(-1))
    if isinstance(x, Interval) and x.batch is not None and not _is_value(weight):
        return affine(context, x, weight, None, times, _size(weight)[-2])
    return product_of_values(context, _input(context, x), _input(context, weight))


@rule("aten.conv1d.default", "aten.conv2d.default", "aten.conv1d.padding", "aten.conv2d.padding",
      parameters=True, slack=True, types="whole")  # a list of operators  # fmt: skip
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
    """A 1d or 2d convolution; the weights are never unfolded."""
    x = _input(context, x)
    function = F.conv1d if len(_size(weight)) == 3 else F.conv2d
    if x.batch != 0 or x.lower.dim() != len(_size(weight)):
        raise InputError(f"{context.where}: the first dimension of a convolution's input must be the samples'")

    def product(t: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return function(t, w, b, stride, padding, dilation, groups)

    return affine(context, x, weight, bias, product, prod(_size(weight)[1:]))


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
