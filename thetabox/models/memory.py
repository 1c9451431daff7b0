"""The tensors of a network, and the memory that they lie in."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

# A tensor that reaches over so many times its numbers is not copied with its gaps.
SPARSE = 8


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, a tensor of several names under each."""
    return {
        **dict(model.named_buffers(remove_duplicate=False)),
        **dict(model.named_parameters(remove_duplicate=False)),
    }


def storage_key(t: Tensor) -> tuple[int, torch.dtype] | None:
    """Where a tensor's memory is; ``None`` for one without memory of the ordinary kind."""
    try:
        address = t.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError, ValueError):  # sparse, quantised or without data
        return None
    return (address, t.dtype) if address else None


def whole(t: Tensor) -> Tensor:
    """All of the memory that a tensor is a view of, flat."""
    storage = t.untyped_storage()
    return t.detach().new_empty(0).set_(storage, 0, (len(storage) // t.itemsize,), (1,))


def write(t: Tensor, value: Tensor) -> None:
    """Set a tensor in place; one that is expanded, to the first of the values that share an entry."""
    with torch.no_grad():
        if 0 in (steps := t.stride()):
            once = tuple(slice(0, 1) if step == 0 else slice(None) for step in steps)
            t, value = t[once], value[once]
        t.copy_(value)


def copied(t: Tensor) -> Tensor:
    """A copy with the same strides, but for a thin part of much memory."""
    span = sum((size - 1) * step for size, step in zip(t.shape, t.stride(), strict=True)) + 1
    if not t.numel() or span > SPARSE * t.numel():
        return t.clone()
    fresh = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device)
    write(fresh, t)
    return fresh


def identity(t: Tensor) -> Hashable:
    """The same for tensors that are the same numbers in the same memory, whatever objects they are."""
    bounds = _bounds(t)
    return id(t) if bounds is None else (t.device, t.data_ptr(), t.dtype, t.shape, t.stride(), t.is_neg(), t.is_conj())


def share_memory(a: Tensor, b: Tensor) -> bool:
    """Whether some byte belongs to both, whatever types they have and by whatever storage they reach it."""
    first, second = _bounds(a), _bounds(b)
    if first is None or second is None or a.device != b.device or first[0] >= second[1] or second[0] >= first[1]:
        return False
    grain = int(np.gcd.reduce([a.itemsize, b.itemsize, abs(first[0] - second[0]) or a.itemsize]))
    return bool(np.intersect1d(_bytes(a, grain), _bytes(b, grain)).size)


def sharing(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, str]]:
    """Pairs of names whose tensors share memory and are not the same tensor there."""
    spans = [(bounds, name, t) for name, t in named if (bounds := _bounds(t)) is not None]
    spans.sort(key=lambda span: span[0])
    reaching: list[tuple[tuple[int, int], str, Tensor]] = []
    for bounds, name, t in spans:
        reaching = [span for span in reaching if span[0][1] > bounds[0]]
        yield from ((other, name) for _, other, u in reaching if identity(t) != identity(u) and share_memory(t, u))
        reaching.append((bounds, name, t))


def _bounds(t: Tensor) -> tuple[int, int] | None:
    """First address of a dense tensor, and that behind its last byte; ``None`` without memory of the ordinary kind."""
    try:
        if t.layout != torch.strided or not t.numel():
            return None
        start = t.data_ptr()
    except RuntimeError:  # fake, or a wrapper of others
        return None
    span = sum((size - 1) * step for size, step in zip(t.shape, t.stride(), strict=True))
    return (start, start + (span + 1) * t.itemsize) if start else None


def _bytes(t: Tensor, grain: int) -> np.ndarray:
    """Addresses of all entries, in pieces of ``grain`` bytes."""
    offsets = np.zeros((), np.int64)
    for size, step in zip(t.shape, t.stride(), strict=True):
        offsets = np.add.outer(offsets, np.arange(size if step else 1, dtype=np.int64) * step)
    starts = t.data_ptr() + offsets.reshape(-1) * t.itemsize
    return np.add.outer(starts, np.arange(0, t.itemsize, grain)).reshape(-1)
