"""Finished chunks of a certification on disk, so that an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from thetabox.errors import InputError


class ChunkStore:
    """Finished work in a folder that is deleted when the run succeeds, unless ``keep`` is set.

    Chunks of a grid are margins by range of samples; what a stage of ``auto`` has done is kept under names of its own.

    Args:
        folder: where to keep chunks; ``None`` keeps nothing.
        key: what must be the same for chunks to be used again.
        samples: number of samples in all.
    """

    def __init__(self, folder: str | Path | None, key: list[str], samples: int) -> None:
        self.keep = False
        self.root = None if folder is None else Path(folder)
        digest = hashlib.sha256(repr([key, samples]).encode()).hexdigest()[:16]
        self.folder = None if self.root is None else self.root / digest
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"cannot keep finished chunks in {folder}: {error.strerror or error}") from error

    def __enter__(self) -> ChunkStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self.keep and self.root is not None and self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            # The folder is the user's: it goes only when nothing else is in it.
            with suppress(OSError):
                self.root.rmdir()

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}.safetensors"

    def read(self, start: int, stop: int, prefix: str = "") -> Tensor | None:
        """The chunk, if it was finished before."""
        held = self.read_part(f"{prefix}{start}-{stop}", ("margin",))
        margin = None if held is None else held["margin"]
        fits = margin is not None and margin.dim() == 2 and margin.shape[1] == stop - start
        return margin if fits and margin is not None and margin.dtype == torch.float64 else None

    def write(self, start: int, stop: int, margin: Tensor, prefix: str = "") -> None:
        """Keep a finished chunk; it appears whole or not at all."""
        self.write_part(f"{prefix}{start}-{stop}", {"margin": margin})

    def read_part(self, name: str, keys: tuple[str, ...]) -> dict[str, Tensor] | None:
        """The tensors kept under this name, if they are there and whole."""
        path = self._path(name)
        if path is None or not path.is_file():
            return None
        try:
            held = load_file(path)
        except Exception:  # a damaged chunk is computed again
            return None
        return held if set(keys) == set(held) else None

    def write_part(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Keep tensors under a name; they appear whole or not at all."""
        path = self._path(name)
        if path is None:
            return
        part = path.with_suffix(".part")
        try:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, part)
            os.replace(part, path)
        except Exception as error:
            part.unlink(missing_ok=True)
            raise InputError(f"cannot write {path.parent}: {getattr(error, 'strerror', None) or error}") from error
