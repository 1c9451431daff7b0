"""What takes a part of a value away or picks from a table: fills, triangles, embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.compare import where
from thetabox.verify.interpreter.rules.literals import Number, in_result, literal
from thetabox.verify.interpreter.rules.movement import constant_index
from thetabox.verify.interpreter.rules.table import rule
from thetabox.verify.network.kinds import is_whole


@rule("aten.masked_fill.Scalar", "aten.masked_fill.Tensor", elementwise=True, types="whole")
def masked_fill(context: Context, x: Interval, mask: Interval, value: Interval | Number) -> Interval:
    """A value where the mask holds, either where that is open; minus infinity stays what it is."""
    kind = context.kind
    if kind is not None and kind.whole and isinstance(value, Interval) and not is_whole(kind.operands[2]):
        raise InputError(f"{context.where} turns a real value into {kind.result}, which has no rule")
    if not isinstance(value, Interval):
        value = literal(context, in_result(context, value), (), x.lower.device)
    return where(context, mask, value, x)


@rule("aten.tril.default", "aten.triu.default", parameters=True, slack=True, types="moves")
def triangle(context: Context, x: Interval | Parameter, diagonal: int = 0) -> Interval | Parameter:
    """A triangle of matrices, zeros elsewhere."""
    assert context.operation is not None
    target = context.operation.target
    if isinstance(x, Interval) and x.batch is not None and x.batch >= x.lower.dim() - 2:
        raise InputError(f"{context.where} mixes samples")
    if isinstance(x, Parameter):
        return x.moved(lambda t: target(t, diagonal))
    return x.moved(lambda t: target(t, diagonal))


@rule("aten.embedding.default", parameters=True, honours=("padding_idx", "scale_grad_by_freq"), rows=True)
def embedding(context: Context, table: Interval | Parameter, places: Any, padding_idx: int = -1) -> Any:
    """Rows of a table at constant places, or at those that a sample's whole numbers give."""
    if not (isinstance(places, Interval) and places.batch is not None):
        constant = constant_index(context, places)
        if isinstance(table, Parameter):
            return table.moved(lambda t: t[constant])
        if not table.by_row and table.batch is None:
            return table.moved(lambda t: t[constant])
        raise InputError(f"{context.where} reads rows of a computed table; only a parameter has a rule")
    if not isinstance(table, Parameter):
        raise InputError(f"{context.where} reads rows of a computed table; only a parameter has a rule")
    if not (places.is_point and places.slack == 0.0):
        raise InputError(f"{context.where} uses a computed value as an index")
    at = _whole(context, places.lower, len(table.theta))
    theta, radius = table.theta[at], table.unit_radius[at]
    rounding, factor = context.rounding, table.factor
    if not factor:
        out = Interval.point(theta)
    else:
        uniform = context.uniform(factor)
        if uniform is None:
            places = context.expanded(places)
            if len(at) != places.shape[places.batch or 0]:
                repeat = [1] * at.dim()
                repeat[places.batch or 0] = context.row_epsilon.per_sample
                theta, radius = (t.repeat(*repeat, 1) for t in (theta, radius))
            spread = radius * context.column(context.epsilon(factor), places)[..., None]
        else:
            spread = radius * uniform
        out = Interval(theta - spread, theta + spread)
    size = out.magnitude
    out.slack = (4.0 * rounding.roundoff + table.theta_error * (1.0 + context.largest(factor))) * size * SAFETY
    out.slack = out.slack + 4.0 * rounding.subnormal if factor or out.slack else 0.0
    return out


def _whole(context: Context, places: Tensor, rows: int) -> Tensor:
    """Places as indices.

    Raises:
        InputError: they are no whole numbers, or lie beyond the table.
    """
    at = places.long()
    if not torch.equal(at.to(places.dtype), places):
        raise InputError(f"{context.where} uses numbers as indices that are not whole")
    if at.numel() and not (int(at.min()) >= 0 and int(at.max()) < rows):
        raise InputError(f"{context.where} reads a row beyond the table of {rows}")
    return at
