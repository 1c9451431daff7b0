"""Max and average pooling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.table import rule

# A window of more values is left to torch's max-pool.
MOST_SLICES = 16


def _check(context: Context, x: Interval) -> None:
    if x.batch != 0:
        raise InputError(f"{context.where}: the first dimension of a pooling's input must be the samples'")


@rule("aten.max_pool1d.default", "aten.max_pool2d.default", "aten.max_pool3d.default",
      "aten.max_pool2d_with_indices.default", "aten.max_pool3d_with_indices.default", slack=True,
      types="whole")  # a list of operators  # fmt: skip
def max_pool(
    context: Context,
    x: Interval,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    """Largest of each window, exact."""
    _check(context, x)
    window = _sizes(kernel, _rank(context))
    tiled = _sizes(stride or kernel, len(window)) == window and prod(window) <= MOST_SLICES
    if tiled and not ceil_mode and not any(_sizes(padding, 1)) and set(_sizes(dilation, 1)) == {1}:
        out = x.moved(lambda t: _tiles(t, window))
    else:
        pool: Any = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(window)]
        # Where positions of a window lie apart, all of them may be padding: its largest is minus infinity then.
        apply = x.moved if set(_sizes(dilation, 1)) == {1} else x.map
        out = apply(lambda t: pool(t, kernel, stride or None, padding, dilation, ceil_mode))
    assert context.operation is not None
    return (out, None) if "indices" in context.operation.operator else out


def _rank(context: Context) -> int:
    """Dimensions that the window of a pool has, by its name."""
    assert context.operation is not None
    return next(rank for rank in (1, 2, 3) if f"{rank}d" in context.operation.operator)


def _sizes(value: Any, count: int) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return sizes * count if len(sizes) == 1 else sizes


def _tiles(t: Tensor, window: tuple[int, ...]) -> Tensor:
    """Max-pool without overlap as maxima of strided slices: several times faster on a processor than torch's own."""
    for dim, size in enumerate(window, start=t.dim() - len(window)):
        whole = t.shape[dim] // size * size
        parts = [t.narrow(dim, 0, whole).unflatten(dim, (-1, size)).select(dim + 1, i) for i in range(size)]
        t = parts[0] if size == 1 else reduce(torch.maximum, parts)
    return t


@rule("aten.adaptive_max_pool1d.default", "aten.adaptive_max_pool2d.default", "aten.adaptive_max_pool3d.default",
      slack=True, types="whole")  # a list of operators  # fmt: skip
def adaptive_max_pool(context: Context, x: Interval, size: Any) -> tuple[Interval, None]:
    """Largest of each part, exact."""
    _check(context, x)
    pool: Any = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}[_rank(context)]
    return x.moved(lambda t: pool(t, size)), None


@rule("aten.avg_pool1d.default", "aten.avg_pool2d.default", "aten.avg_pool3d.default", slack=True)
def average_pool(
    context: Context,
    x: Interval,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Interval:
    """Mean of each window: a sum and a division by a whole number."""
    _check(context, x)
    rank = _rank(context)
    terms = prod(_sizes(kernel, rank))
    pool: Callable[..., Tensor] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[rank]
    divisor = divisor_override
    if divisor is not None and divisor < 1:
        raise InputError(f"{context.where}: an average pool has a rule for divisors of at least 1, not {divisor}")
    gain = 1.0 if divisor is None else max(terms / divisor, 1.0)
    # An empty stride stands for the kernel's size.
    how = [kernel, stride or None, padding, ceil_mode, count_include_pad]
    return _averaged(context, x, lambda t: pool(t, *(how if rank == 1 else [*how, divisor])), terms, gain)


@rule("aten.adaptive_avg_pool1d.default", "aten.adaptive_avg_pool2d.default", "aten.adaptive_avg_pool3d.default",
      "aten._adaptive_avg_pool2d.default", "aten._adaptive_avg_pool3d.default",
      slack=True)  # a list of operators  # fmt: skip
def adaptive_average_pool(context: Context, x: Interval, size: Any) -> Interval:
    """Mean of each part."""
    _check(context, x)
    rank = _rank(context)
    pool: Any = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[rank]
    return _averaged(context, x, lambda t: pool(t, size), prod(x.shape[-rank:]))


def _averaged(
    context: Context, x: Interval, function: Callable[[Tensor], Tensor], terms: int, gain: float = 1.0
) -> Interval:
    """``gain``: how much larger than ``x`` the result may be (1 for a mean)."""
    out = replace(x.moved(function), bound=x.bound if gain == 1.0 else None)
    out.slack = (x.slack + context.rounding.of_sum(terms) * x.magnitude) * gain + terms * context.rounding.subnormal
    out.slack = out.slack * SAFETY + context.rounding.beyond(terms * x.magnitude)
    return out
