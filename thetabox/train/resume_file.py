"""The file beside a checkpoint from which an interrupted training goes on."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.checkpoint import write_atomically

SUFFIX = ".resume"


def path_for(checkpoint: Path) -> Path:
    """Its path."""
    return checkpoint.with_name(checkpoint.name + SUFFIX)


def write(path: Path, identity: str, content: dict[str, Any]) -> None:
    """Write all or nothing; ``identity`` says which training it belongs to."""
    buffer = io.BytesIO()
    torch.save({"identity": identity, **content}, buffer)
    write_atomically(path, buffer.getvalue())


def read(path: Path, identity: str) -> dict[str, Any]:
    """Content of a resume file; nothing in it is executed.

    Raises:
        InputError: damaged, or of a training with other settings or data.
    """
    try:
        # Weights go to the model's device when loaded into it, and random states must stay on the CPU.
        stored = torch.load(path, map_location="cpu", weights_only=True)
        same = stored["identity"] == identity
    except Exception as error:
        raise InputError(
            f"{path}: cannot be resumed from; delete it to start afresh ({type(error).__name__})"
        ) from None
    if not same:
        raise InputError(f"{path}: belongs to a training with other settings or data; use those, or delete it")
    return dict(stored)


def digest(*arrays: Tensor) -> str:
    """SHA-256 over shapes and values."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(str(list(array.shape)).encode())
        sha.update(array.cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
