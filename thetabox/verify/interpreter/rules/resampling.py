r"""Nearest neighbours; linear, bilinear and trilinear interpolation.

Which neighbour is the nearest torch finds by a scale in the type of the numbers; float32 and float64 may find others. A
certificate speaks of the network that runs, and is compared with it in float64: where they differ, both are read.

Where a place of the result lies between values :math:`x_i, x_{i+1}`, at :math:`i + \lambda`, it is :math:`(1 - \lambda)
x_i + \lambda x_{i+1}`. The place itself is computed, :math:`r(j + 1/2) - 1/2` or :math:`r j` with :math:`r` a quotient
of sizes or the reciprocal of a scale, which the certificate takes for what it is, a rational number. The result is
continuous in it, so an error :math:`\delta` of the place costs at most :math:`2 \delta \max|x|`, also where it falls on
the other side of a value. A factor of two is exact in binary, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import SAFETY, Rounding
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.rearrangement import all_but_two, check_apart
from thetabox.verify.interpreter.rules.table import EVERYTHING, rule
from thetabox.verify.network.graph import Operation, arguments

NEAREST = tuple(
    f"aten.{name}{n}d.{form}"
    for name in ("upsample_nearest", "_upsample_nearest_exact")
    for n in (1, 2, 3)
    for form in ("default", "vec")
)
INTERPOLATIONS = tuple(
    f"aten.upsample_{name}.{form}" for name in ("linear1d", "bilinear2d", "trilinear3d") for form in ("default", "vec")
)
# Roundings of a place: a quotient of a size or of a scale, in a type of more digits or not, the product, the sum.
ROUNDINGS = 6
# Whole numbers up to this, over a power of two, are places that float32 holds exactly.
EXACT_PLACES = 1 << 22


@rule(*NEAREST, slack=True, types="moves", honours=EVERYTHING)
def nearest(context: Context, x: Interval, *args: Any, **kwargs: Any) -> Interval:
    """The nearest value to each place, as torch finds it in float64 and in the network's own type."""
    operation = _checked(context, x, args, kwargs)
    read = neighbours(operation, x.shape[2:], context.rounding, x.lower.device)
    for count, size, scale in zip(x.shape[2:], read[0].shape, _scales(operation, x.lower.dim() - 2), strict=True):
        if scale is not None and Fraction(scale) * count != size and size in (count, 2 * count):
            raise InputError(
                f"{context.where}: which values torch repeats for the scale {scale} hangs on how they lie in memory "
                f"({count} become {size}); give the size instead"
            )
    picked = [replace(x.moved(partial(_picked, positions=at)), batch=None) for at in read]
    out = picked[0]
    if len(picked) == 1:
        return out
    lower = torch.minimum(*(v.lower for v in picked))
    return replace(out, lower=lower, upper=torch.maximum(*(v.upper for v in picked)), owned=False)


def neighbours(operation: Operation, sizes: Sequence[int], rounding: Rounding, device: torch.device) -> list[Tensor]:
    """Which places of a value an upsampling reads: in float64, and in the network's type where it reads others there.

    A quotient of sizes that is rounded in another type may point to the neighbour of a value (6 to 74 places). Types
    of fewer digits than float32 use its quotients.
    """
    ramp = torch.arange(prod(sizes), device=device).view(1, 1, *sizes)
    alone = operation.dtype is torch.float64 and not rounding.network
    types = (torch.float64,) if alone else (torch.float64, torch.float32)
    read = [operation.target(ramp.to(t), *operation.args[1:], **operation.kwargs)[0, 0].long() for t in types]
    return read[:1] if all(torch.equal(at, read[0]) for at in read[1:]) else read


def _picked(t: Tensor, positions: Tensor) -> Tensor:
    return t.flatten(2)[..., positions.flatten()].unflatten(2, positions.shape)


def _checked(context: Context, x: Interval, args: Sequence[Any], kwargs: dict[str, Any]) -> Operation:
    """The operation, whose arguments are numbers and whose samples stay apart."""
    assert context.operation is not None
    check_apart(context, x, all_but_two)
    if any(not isinstance(v, (int, float)) for a in [*args, *kwargs.values()] if a is not None for v in _each(a)):
        raise InputError(f"{context.where} interpolates by a computed number")
    return context.operation


@rule(*INTERPOLATIONS, slack=True, honours=EVERYTHING)
def interpolated(context: Context, x: Interval, *args: Any, **kwargs: Any) -> Interval:
    """A mean of the values around each place."""
    operation = _checked(context, x, args, kwargs)
    out = replace(x.moved(lambda t: operation.target(t, *args, **kwargs)), batch=None)
    rounding = context.rounding
    terms = 1 << (x.lower.dim() - 2)
    position_error = place_error(operation, x.shape[2:], out.shape[2:])
    relative = rounding.of_sum(8 * terms) + position_error * rounding.of_operation(2 * ROUNDINGS)
    out.slack = (x.slack + relative * x.magnitude + terms * rounding.subnormal) * SAFETY
    out.slack += rounding.beyond(terms * x.magnitude)
    return out


def place_error(operation: Operation, inputs: Sequence[int], outputs: Sequence[int]) -> float:
    """How far places may be off, summed over dimensions, for one relative error of what they are computed from."""
    scales = _scales(operation, len(inputs))
    aligned = bool(arguments(operation)["align_corners"])
    total = 0.0
    for count, size, scale in zip(inputs, outputs, scales, strict=True):
        if count == size or count == 1:
            continue  # torch copies the values: each place is one of them
        ratio = Fraction(count - 1, max(size - 1, 1)) if aligned else Fraction(count, size)
        if scale is not None and not aligned:
            ratio = 1 / Fraction(scale)
        exact = ratio.denominator & (ratio.denominator - 1) == 0
        integers = ratio.numerator * (2 * size + 1), 2 * ratio.denominator
        if not (exact and max(integers) < EXACT_PLACES):
            total += float(ratio) * (size + 1) + 1.0
    return total


def _scales(operation: Operation, rank: int) -> list[float | None]:
    """The scale of each dimension that was given, ``None`` where sizes were."""
    named = arguments(operation)
    if "scale_factors" in named:
        return list(named["scale_factors"] or [None] * rank)
    return [v for name, v in named.items() if name.startswith("scales")]


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]
