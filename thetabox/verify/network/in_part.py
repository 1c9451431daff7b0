"""Operators of which some calls, or all, are written out in our own words as others that have rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import Node


def repeats(x: Tensor, repeats: list[Any]) -> Any:
    """``x.repeat(samples, 1)``: what is repeated by a number of samples is spread along axes of its own."""
    if all(isinstance(count, int) for count in repeats):
        return NotImplemented
    shape = [1] * (len(repeats) - x.dim()) + list(x.shape)
    pairs = list(zip(repeats, shape, strict=True))
    x = x.reshape([size for _, old in pairs for size in (1, old)]).expand([size for pair in pairs for size in pair])
    return x.reshape([count * old for count, old in pairs])


def repeats_each(x: Tensor, count: Any, dim: int | None = None, output_size: int | None = None) -> Any:
    """``x.repeat_interleave(samples, 0)``, likewise."""
    if isinstance(count, int):
        return NotImplemented
    x, dim = (x.reshape(-1), 0) if dim is None else (x, dim % x.dim())
    shape = list(x.shape)
    x = x.unsqueeze(dim + 1).expand([*shape[: dim + 1], count, *shape[dim + 1 :]])
    return x.reshape([*shape[:dim], shape[dim] * count, *shape[dim + 1 :]])


def puts(x: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False) -> Any:
    """``x[mask] = values`` and ``x[:, places] = values``: a choice between both, by truth values."""
    named = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if accumulate or len(named) != 1:
        return NotImplemented
    ((dim, index),) = named
    mask = index
    if index.dtype in (torch.int64, torch.int32):
        mask = _at_places(x, dim, index)
    elif index.dtype != torch.bool or index.shape != x.shape[dim : dim + index.dim()]:
        return NotImplemented
    behind = x.dim() - dim - mask.dim()
    # Values of fewer dimensions are the same at every place.
    return NotImplemented if values.dim() > behind else torch.where(mask.reshape(*mask.shape, *[1] * behind), values, x)


def fills(x: Tensor, dim: int, index: Tensor, value: Any) -> Any:
    """``x.index_fill(dim, places, value)``."""
    if not x.dim() or not x.is_floating_point():
        return NotImplemented
    dim %= x.dim()
    mask = _at_places(x, dim, index)
    return torch.where(mask.reshape(-1, *[1] * (x.dim() - dim - 1)), value, x)


def _at_places(x: Tensor, dim: int, places: Tensor) -> Tensor:
    """Truth values along a dimension: whether it is one of the places, of which those below 0 count from the end."""
    size = x.shape[dim]
    at = torch.arange(size, device=x.device)[:, None]
    places = places.reshape(-1)
    return ((at == places) | (at == places + size)).any(1)


def heaviside(x: Tensor, values: Tensor) -> Any:
    """1 above 0, 0 below, the value at 0: as a sum of two steps, since v + (1 - v) is 1."""
    if not x.is_floating_point():
        return NotImplemented
    return values * (x >= 0).to(x.dtype) + (1 - values) * (x > 0).to(x.dtype)


def finite(x: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Any:
    """``nan_to_num``: what is no finite number becomes one."""
    if not x.is_floating_point():
        return x
    limits = torch.finfo(x.dtype)
    above, below = limits.max if posinf is None else posinf, limits.min if neginf is None else neginf
    infinite = torch.isinf(x)
    out = torch.where(infinite & (x > 0), above, torch.where(infinite & (x < 0), below, x))
    return torch.where(torch.isnan(x), 0.0 if nan is None else nan, out)


def sign(x: Tensor) -> Any:
    """``sgn`` of real numbers."""
    return NotImplemented if x.is_complex() else torch.sign(x)


def exclusive_or(one: Tensor, other: Tensor) -> Any:
    """Of truth values."""
    return one != other if one.dtype == other.dtype == torch.bool else NotImplemented


_aten = torch.ops.aten
IN_PART: dict[Any, Callable[..., Any]] = {
    _aten.repeat.default: repeats,
    _aten.repeat_interleave.self_int: repeats_each,
    _aten.index_put.default: puts,
    _aten.index_fill.int_Scalar: fills,
    _aten.index_fill.int_Tensor: fills,
    _aten.heaviside.default: heaviside,
    _aten.nan_to_num.default: finite,
    _aten.sgn.default: sign,
    _aten.bitwise_xor.Tensor: exclusive_or,
    _aten.logical_xor.default: exclusive_or,
}
"""By operator, how; a function says ``NotImplemented`` of calls that stay as they are."""

# Operators of a program that are of these, or that torch writes as one of them.
MEETS = {str(op) for op in IN_PART} | {
    "aten.tile.default", *(f"aten.{name}" for name in (
        "index_put_.default", "index_fill_.int_Scalar", "index_fill_.int_Tensor", "heaviside_.default",
        "nan_to_num_.default", "sgn_.default", "bitwise_xor_.Tensor", "logical_xor_.default", "__xor__.Tensor",
        "__ixor__.Tensor",
    ))
}  # words, several to a line  # fmt: skip


def is_written_in_part(node: Node) -> bool:
    """Whether a call of an operator that has a rule is written out all the same."""
    if node.target is _aten.repeat_interleave.self_int:
        return not isinstance(node.args[1], int)
    return node.target is _aten.repeat.default and not all(isinstance(n, int) for n in node.args[1])  # type: ignore[union-attr]  # a list
