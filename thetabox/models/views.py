"""Tensors told by the memory they lie in: the same one, a view of another, or one that shares some of it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class View:
    """A view of a parameter or buffer.

    Attributes:
        name: of the tensor.
        places: which of its entries, flattened, stands at each place of the view; ``None`` for the tensor as it is.
    """

    name: str
    places: Int[Tensor, "*shape"] | None

    def of(self, value: Tensor) -> Tensor:
        """The view of the tensor's value, or of anything of its shape."""
        return value if self.places is None else value.reshape(-1)[self.places.to(value.device)]


def view_on(name: str, whole: Tensor, part: Tensor) -> View | None:
    """How ``part`` is a view of ``whole``, in whose storage it lies; ``None`` where it reaches beyond."""
    if (part.shape, part.stride(), part.storage_offset()) == (whole.shape, whole.stride(), whole.storage_offset()):
        return View(name, None)
    places = places_in(whole, part)
    return View(name, places) if bool((places >= 0).all()) else None


def places_in(whole: Tensor, part: Tensor) -> Int[Tensor, "*shape"]:
    """Where in ``whole`` (flattened) each entry of ``part`` lies, -1 for nowhere; both in one storage."""
    memory = torch.arange(len(whole.untyped_storage()) // whole.itemsize)
    inverse = torch.full((len(memory),), -1)
    taken = memory.as_strided(whole.shape, whole.stride(), whole.storage_offset()).reshape(-1)
    inverse[taken] = torch.arange(whole.numel())
    return inverse[memory.as_strided(part.shape, part.stride(), part.storage_offset())]


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
    reach = sum((size - 1) * step for size, step in zip(t.shape, t.stride(), strict=True))
    return (start, start + (reach + 1) * t.itemsize) if start else None


def _bytes(t: Tensor, grain: int) -> np.ndarray:
    """Addresses of all entries, in pieces of ``grain`` bytes."""
    places = np.zeros((), np.int64)
    for size, step in zip(t.shape, t.stride(), strict=True):
        places = np.add.outer(places, np.arange(size if step else 1, dtype=np.int64) * step)
    starts = t.data_ptr() + places.reshape(-1) * t.itemsize
    return np.add.outer(starts, np.arange(0, t.itemsize, grain)).reshape(-1)
