"""Products of values with values that are no layer: a bilinear layer, a stack of products plus a term."""

from __future__ import annotations

from dataclasses import replace

from thetabox.errors import InputError, OneEpsilonAtATime
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.affine import Operand, add_bias, affine, product_of_values, times
from thetabox.verify.interpreter.rules.dense import matmul
from thetabox.verify.interpreter.rules.table import rule


@rule("aten.baddbmm.default", "aten.addmv.default", parameters=True, slack=True)
def sum_and_product(
    context: Context, term: Operand, x: Operand, weight: Operand, *, beta: float = 1, alpha: float = 1
) -> Interval:
    """``b + x W`` of stacks of matrices, or of a matrix and a vector."""
    if beta != 1 or alpha != 1:
        raise InputError(f"{context.where} has no rule for beta or alpha other than 1")
    out = matmul(context, x, weight)
    assert isinstance(weight, (Interval, Parameter))
    shape = weight.theta.shape if isinstance(weight, Parameter) else weight.shape
    layout = context.layout
    out = replace(out, batch=layout.batch, merged=layout.merged)
    return add_bias(context, out, term, shape[-2] if len(shape) > 1 else shape[0])


@rule("aten.bilinear.default", parameters=True, slack=True)
def bilinear(context: Context, x: Interval, y: Interval, weight: Operand, bias: Operand = None) -> Interval:
    """``xᵀ W y + b`` for each matrix ``W`` of a stack: a layer on ``x``, and the product of its outputs with ``y``."""
    x, y = (context.interval(v) if isinstance(v, Parameter) else v for v in (x, y))
    if not isinstance(weight, Parameter):
        raise OneEpsilonAtATime(f"{context.where} multiplies by weights computed from perturbed parameters")
    outputs, left, right = weight.theta.shape
    flat = weight.moved(lambda t: t.movedim(1, 0).flatten(1))
    half = affine(context, x, flat, None, times, left)
    # A row of [outputs, right] for each place of y.
    matrix = half.moved(lambda t: t.unflatten(-1, (outputs, right)))
    if matrix.shape[0] != y.shape[0] and y.batch == 0:
        matrix, y = (context.expanded(replace(v, batch=0, merged=1)) for v in (matrix, y))
    out = product_of_values(context, matrix, y.moved(lambda t: t[..., None])).moved(lambda t: t.squeeze(-1))
    # A network may multiply and add all three in any order.
    magnitude = weight.magnitude + weight.unit_radius * context.largest(weight.factor)
    most = 1.01 * x.magnitude * y.magnitude * float(magnitude.detach().flatten(1).sum(1).amax())
    out.slack += context.rounding.of_dot(left * right + 4) * most * SAFETY
    out.slack += left * right * context.rounding.subnormal * (1.0 + y.magnitude) + context.rounding.beyond(most)
    layout = context.layout
    out = replace(out, batch=layout.batch, merged=layout.merged, bound=None)
    return add_bias(context, out, bias, left * right)
