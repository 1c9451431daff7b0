"""The bytes of a file that a user named."""

from __future__ import annotations

from pathlib import Path

from thetabox.errors import InputError


def bytes_of(path: Path, count: int = -1) -> bytes:
    """So many of them, or all.

    Raises:
        InputError: no such file, or it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
