"""Operators that move, cut and repeat numbers, and compute sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.onnx.numbers import array, check_count, is_known, one, tensor, whole
from thetabox.models.onnx.padding import padded, pairs
from thetabox.models.onnx.table import onnx_operator


@onnx_operator("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Two dimensions of all."""
    axis = axis % x.dim() if axis < 0 else axis
    if axis == 1:
        return x.flatten(1) if x.dim() > 1 else x.reshape(-1, 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


@onnx_operator("Reshape", sized="view")
def reshape(x: Any, shape: Any, *, allowzero: int = 0) -> Any:
    """The same numbers in another shape, in which 0 stands for the size as it was."""
    sizes = whole(shape, "the shape of a Reshape")
    before = list(x.shape) if not isinstance(x, list) else [len(x)]
    if not allowzero:
        sizes = [before[i] if isinstance(s, int) and s == 0 else s for i, s in enumerate(sizes)]
    return array(x).reshape([int(s) for s in sizes]) if is_known(x) else x.reshape(sizes)


@onnx_operator("Transpose")
def transpose(x: Any, *, perm: list[int] | None = None) -> Any:
    """Dimensions in another order, reversed where none is given."""
    if is_known(x):
        return array(x).transpose(perm)
    return x.permute(perm if perm is not None else list(range(x.dim()))[::-1])


@onnx_operator("Squeeze")
def squeeze(x: Any, over: Any = None, *, axes: Any = None) -> Any:
    """Without dimensions of one entry."""
    chosen = axes if over is None else over
    if is_known(x):
        held = array(x)
        return held.reshape(()) if held.size == 1 and held.ndim <= 1 else held.squeeze()
    if chosen is None:
        raise InputError("a Squeeze without axes, which would drop a batch of one, is not read")
    for axis in sorted((a % x.dim() for a in whole(chosen)), reverse=True):
        x = x.squeeze(axis)
    return x


@onnx_operator("Unsqueeze")
def unsqueeze(x: Any, over: Any = None, *, axes: Any = None) -> Any:
    """With more dimensions of one entry."""
    chosen = whole(axes if over is None else over)
    x = array(x) if is_known(x) else x
    rank = x.ndim + len(chosen)
    for axis in sorted(a % rank for a in chosen):
        x = np.expand_dims(x, axis) if isinstance(x, np.ndarray) else x.unsqueeze(axis)
    return x


@onnx_operator("Concat")
def concat(*parts: Any, axis: int) -> Any:
    """Behind each other."""
    if all(is_known(p) for p in parts):
        return np.concatenate([array(p).astype(object) for p in parts], axis) if len(parts) > 1 else array(parts[0])
    like = next(p for p in parts if isinstance(p, Tensor))
    return torch.cat([tensor(p, like) if is_known(p) else p for p in parts], axis)


@onnx_operator("Split")
def split(
    x: Any, sizes: Any = None, *, axis: int = 0, split: Any = None, num_outputs: int | None = None, outputs: int = 1
) -> Any:
    """Cut into parts."""
    chosen = split if sizes is None else sizes
    length = x.shape[axis]
    if chosen is not None:
        each = whole(chosen, "the sizes of a Split")
    else:
        count = num_outputs or outputs
        size = -(-length // count)
        each = [size] * (count - 1) + [length - size * (count - 1)]
    if len(each) != outputs:
        raise InputError(f"a Split into {len(each)} parts has {outputs} results")
    if is_known(x):
        return tuple(np.split(array(x), np.cumsum(each)[:-1], axis)) if outputs > 1 else x
    parts = tuple(torch.split(x, each, axis))
    return parts if outputs > 1 else parts[0]


@onnx_operator("Slice")
def cut(
    x: Any,
    starts_: Any = None,
    ends_: Any = None,
    over: Any = None,
    steps: Any = None,
    *,
    starts: Any = None,
    ends: Any = None,
    axes: Any = None,
) -> Any:
    """Parts of dimensions, named by attributes before opset 10."""
    first, last = whole(starts if starts_ is None else starts_), whole(ends if ends_ is None else ends_)
    chosen = axes if over is None else over
    x = array(x) if is_known(x) else x
    along = whole(chosen) if chosen is not None else list(range(len(first)))
    by = whole(steps) if steps is not None else [1] * len(first)
    for start, end, axis, step in zip(first, last, along, by, strict=True):
        axis = axis % x.ndim
        if step < 0 and isinstance(x, Tensor):
            if step != -1 or (start not in (-1, x.shape[axis] - 1) and start < x.shape[axis]) or end > -x.shape[axis]:
                raise InputError("a Slice backwards, other than of a whole dimension, is not read")
            x = x.flip(axis)
            continue
        x = x[(slice(None),) * axis + (slice(start, end, step),)]
    return x


@onnx_operator("Gather", weights=(0,))
def gather(x: Any, indices: Any, *, axis: int = 0) -> Any:
    """Entries of one dimension."""
    if is_known(x):
        return np.take(array(x), array(indices).astype(np.int64), axis)
    axis = axis % x.dim()
    if not is_known(indices):
        return F.embedding(indices, x) if axis == 0 and x.dim() == 2 else _taken(x, indices.reshape(-1), axis, indices)
    held = array(indices)
    if held.ndim == 0:
        return x.select(axis, one(held))
    size = x.shape[axis]
    wanted = [v if not (isinstance(v, int) and v < 0) else size + v for v in whole(held)]
    return _taken(x, tensor(wanted, x), axis, held)


def _taken(x: Tensor, flat: Tensor, axis: int, indices: Any) -> Tensor:
    chosen = torch.index_select(x, axis, flat)
    return chosen if indices.ndim == 1 else chosen.unflatten(axis, tuple(indices.shape))


@onnx_operator("Pad")
def pad(
    x: Tensor,
    pads_: Any = None,
    value_: Any = None,
    over: Any = None,
    *,
    mode: str = "constant",
    pads: Any = None,
    value: float = 0.0,
) -> Tensor:
    """More numbers around."""
    chosen = whole(pads if pads_ is None else pads_, "the sizes of a Pad")
    axes = [a % x.dim() for a in whole(over)] if over is not None else list(range(x.dim()))
    around: list[tuple[Any, Any]] = [(0, 0)] * x.dim()
    for axis, pair in zip(axes, pairs(chosen, len(axes)), strict=True):
        around[axis] = pair
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    if mode not in modes:
        raise InputError(f"mode {mode!r} is not read")
    while len(around) > 1 and around[0] == (0, 0):
        around = around[1:]
    filled = value if value_ is None else value_ if isinstance(value_, float) else float(one(value_))
    return padded(x, around, filled, modes[mode])


@onnx_operator("Expand", sized="expand")
def expand(x: Any, shape: Any, *, device: Any = None) -> Any:
    """Repeated along dimensions of one entry."""
    sizes = whole(shape, "the shape of an Expand")
    if is_known(x):
        check_count(sizes)
        return np.broadcast_to(array(x), np.broadcast_shapes(array(x).shape, [int(s) for s in sizes]))
    if isinstance(x, float):
        return torch.full(sizes, x, device=device)
    rank = max(x.dim(), len(sizes))
    held, wanted = [1] * (rank - x.dim()) + list(x.shape), [1] * (rank - len(sizes)) + sizes
    # ONNX broadcasts both ways: a size of 1 there is any size here.
    return x.expand([h if isinstance(w, int) and w in (1, -1) else w for h, w in zip(held, wanted, strict=True)])


@onnx_operator("Tile")
def tile(x: Any, repeats: Any) -> Any:
    """Repeated."""
    times = whole(repeats, "the counts of a Tile")
    if is_known(x):
        check_count([*times, array(x).size])
        return np.tile(array(x), times)
    return x.repeat(times)


@onnx_operator("ConstantOfShape", sized="create", sizes=0)
def constant_of_shape(shape: Any, *, value: Any = None, device: Any = None) -> Any:
    """One number everywhere."""
    sizes = whole(shape, "the shape of a constant")
    number, dtype = (value.item(), value.dtype) if value is not None else (0.0, torch.float32)
    if not dtype.is_floating_point:
        check_count(sizes)
        return np.full([int(s) for s in sizes], number)
    return torch.full(sizes, number, dtype=dtype, device=device)


@onnx_operator("Shape")
def shape_of(x: Any, *, start: int = 0, end: int | None = None) -> Any:
    """Sizes of a tensor."""
    return array(
        list(x.shape if isinstance(x, Tensor | np.ndarray) else [len(x)] if isinstance(x, list) else [])[start:end]
    )


@onnx_operator("Size")
def size_of(x: Any) -> Any:
    """How many numbers a tensor has."""
    return array([math.prod(x.shape)]).reshape(())


@onnx_operator("Cast")
def cast(x: Any, *, to: torch.dtype, saturate: int = 1) -> Any:
    """Another type."""
    if is_known(x):
        return (
            array(x)
            if not to.is_floating_point and to is not torch.bool
            else tensor(x, None, to).reshape(array(x).shape)
        )
    return x if isinstance(x, float) else x.to(to)


@onnx_operator("CastLike")
def cast_like(x: Any, like: Any, *, saturate: int = 1) -> Any:
    """The type of another tensor."""
    if isinstance(x, float) or not isinstance(like, Tensor):
        return x
    return tensor(x, like, like.dtype).reshape(array(x).shape) if is_known(x) else x.to(like.dtype)
