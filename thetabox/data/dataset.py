"""One split of a task: inputs, labels, and what identifies them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.several import InputPart, apart

SPLITS = ("train", "validation", "test")


def fixed_order(count: int, seed: int, salt: str = "") -> Int64[np.ndarray, " count"]:
    """A permutation of ``0 … count − 1`` that is the same on every machine and with every library version.

    Indices are sorted by SHA-256 of ``"salt:seed:index"``: random generators may change their streams, this cannot.
    """
    keys = [hashlib.sha256(f"{salt}:{seed}:{index}".encode()).digest() for index in range(count)]
    return np.asarray(sorted(range(count), key=keys.__getitem__), dtype=np.int64)


def balanced_order(labels: Int64[np.ndarray, " samples"], seed: int) -> Int64[np.ndarray, " samples"]:
    """All samples in an order whose every prefix is as class-balanced as the class sizes allow.

    Within a class the order is ``fixed_order``; classes take turns, and one that is used up is passed over.
    """
    order = fixed_order(len(labels), seed, "balanced")
    turn: dict[int, int] = {}
    rank = np.empty(len(labels), dtype=np.int64)
    for index in order:
        label = int(labels[index])
        rank[index] = turn.get(label, 0)
        turn[label] = rank[index] + 1
    return np.lexsort((labels, rank))


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a task.

    Attributes:
        name: the task's name, or the file's.
        split: ``train``, ``validation`` or ``test``.
        x: inputs ``[N, ...]``, float32, or float64 where that does not hold them: images
            ``[N, channels, height, width]``, sequences ``[N, T, channels]``.
        y: labels, int64 ``[N]``, ``0 ≤ y < len(classes)``.
        classes: class names in label order.
        groups: patient or speaker of every sample, or ``None`` where there is no such thing.
        path: of the file it was read from, as it was given; ``None`` for tasks and arrays in memory.
        parts: what ``x [N, numbers]`` consists of where there are several inputs, which lie side by side in it.
    """

    name: str
    split: str
    x: Float[Tensor, "samples ..."]
    y: Int64[Tensor, " samples"]
    classes: list[str]
    groups: list[str] | None = None
    path: str | None = None
    parts: tuple[InputPart, ...] | None = None

    @property
    def inputs(self) -> Tensor | dict[str, Tensor]:
        """``x``, or the several inputs by their names, as :func:`thetabox.certify` takes them."""
        if self.parts is None:
            return self.x
        values = apart(self.x, self.parts)
        return {part.name or str(n): value for n, (part, value) in enumerate(zip(self.parts, values, strict=True))}

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.y)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over shape, bytes of ``x`` and bytes of ``y`` (little-endian); of several inputs also their kinds."""
        digest = hashlib.sha256(repr(tuple(self.x.shape)).encode())
        for part in self.parts or ():
            digest.update(repr((part.name, part.shape, str(part.dtype))).encode())
        kind = "<f8" if self.x.dtype == torch.float64 else "<f4"
        digest.update(np.ascontiguousarray(self.x.numpy(), dtype=kind).data)
        digest.update(np.ascontiguousarray(self.y.numpy(), dtype="<i8").data)
        return digest.hexdigest()

    @property
    def info(self) -> dict[str, Any]:
        """What a certificate says about its data: ``{name, sha256, samples}``, and the ``path`` of a file."""
        path = {} if self.path is None else {"path": self.path}
        return {"name": self.name, "sha256": self.sha256, "samples": len(self), **path}

    @property
    def class_counts(self) -> list[int]:
        """Samples of each class, in label order."""
        return torch.bincount(self.y, minlength=len(self.classes)).tolist()

    def take(self, index: Sequence[int] | Int64[np.ndarray, " chosen"]) -> Dataset:
        """The samples at ``index``, in that order."""
        chosen = torch.as_tensor(np.asarray(index, dtype=np.int64))
        groups = None if self.groups is None else [self.groups[i] for i in chosen.tolist()]
        return replace(self, x=self.x[chosen], y=self.y[chosen], groups=groups)

    def subset(self, n: int, seed: int = 0) -> Dataset:
        """A fixed class-balanced subset of ``n`` samples; the whole split when it has no more than ``n``.

        The same for every command, machine and version. Subsets of one seed are nested: ``subset(100)`` is the first
        hundred samples of ``subset(500)``. Where a class runs out, the others fill its places.

        Raises:
            InputError: ``n`` is not a positive integer.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InputError(f"the number of samples must be a positive integer, not {n!r}")
        if n >= len(self):
            return self
        return self.take(balanced_order(self.y.numpy(), seed)[:n])
