"""What a task is, and its entry in the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from thetabox.data.dataset import Dataset


@dataclass(frozen=True)
class Task:
    """A named data set with fixed splits.

    Attributes:
        name: how commands call it.
        title: what it is, in one line.
        shape: of one input: ``(channels, height, width)`` or ``(T, channels)``.
        classes: class names in label order.
        licence: as its publishers state it.
        source: home of the data.
        citation: the paper or collection to cite.
        description: preprocessing and splits.
        embedded: whether it comes with the package; the others are read from a folder or downloaded.
        read: ``read(split, data_dir)`` gives the data set of one split.
    """

    name: str
    title: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    licence: str
    source: str
    citation: str
    description: str
    embedded: bool
    read: Callable[[str, Path | None], Dataset] = field(repr=False)

    @property
    def sequence(self) -> bool:
        """Whether an input is a sequence ``[T, channels]``, as spiking networks take it."""
        return len(self.shape) == 2
