"""Files that are never seen half written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from thetabox.errors import InputError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is never seen half written.

    Raises:
        InputError: the folder is missing or not writable, the disk is full.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
