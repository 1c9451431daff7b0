"""Output folders: checked before the work, written all or nothing after it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from thetabox.errors import InputError

# Files of which a folder holds one, for samples and report beside them have the same names.
CLAIMS = {"certificate.json": "the certificate of a box", "yield.json": "a proven yield"}


@contextmanager
def output_folder(out: str | os.PathLike[str]) -> Iterator[Path]:
    """Make the folder and try to write in it, before hours of work; leave no empty folder behind a failure.

    Args:
        out: the folder; made, with its parents, when absent.

    Yields:
        The folder's path.

    Raises:
        InputError: the path is a file, cannot be made or cannot be written.
    """
    folder = Path(out)
    made = _make(folder)
    try:
        _probe(folder)
        yield folder
    except BaseException:
        for path in made:
            with suppress(OSError):  # not empty: something of value was kept
                path.rmdir()
        raise


def check_claim(folder: Path, kept: str) -> None:
    """Refuse a folder that holds another kind of claim than the file of this name: nothing of that is written over.

    Raises:
        InputError: it does.
    """
    for name, claim in CLAIMS.items():
        if name != kept and (folder / name).exists():
            raise InputError(f"{folder} holds {claim}, which is another claim; name another folder")


def write_files(folder: Path, files: Mapping[str, bytes | str]) -> None:
    """Write all of the files or none: each to a temporary name, then every one renamed.

    Args:
        folder: an existing folder.
        files: name → content; text is written as UTF-8.

    Raises:
        InputError: the disk is full, or the folder cannot be written; nothing of the new files is left then.
    """
    staged: list[tuple[Path, Path]] = []
    target = folder
    try:
        for name, content in files.items():
            target = folder / name
            if target.is_dir():
                raise IsADirectoryError(0, "a folder of that name is in the way")
            staged.append((_stage(target, content), target))
        while staged:
            temporary, target = staged[0]
            os.replace(temporary, target)
            staged.pop(0)
    except OSError as error:
        raise InputError(f"cannot write {target}: {reason(error)}") from None
    finally:
        for temporary, _ in staged:
            with suppress(OSError):
                temporary.unlink()


def write_file(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write one file, all or nothing, making its folder where needed.

    Raises:
        InputError: as :func:`output_folder` and :func:`write_files`.
    """
    path = Path(path)
    with output_folder(path.parent) as folder:
        write_files(folder, {path.name: content})


def reason(error: OSError) -> str:
    """The system's words for an error, in small letters: ``no space left on device``."""
    text = error.strerror or str(error) or type(error).__name__
    return text[0].lower() + text[1:]


def _make(folder: Path) -> list[Path]:
    """Create the folder; returns what was created, innermost first."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output folder {folder} is a file; name a folder")
    missing = []
    path = folder
    while not path.exists() and path != path.parent:
        missing.append(path)
        path = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make output folder {folder}: {reason(error)}") from None
    return missing


def _probe(folder: Path) -> None:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-"):
            pass
    except OSError as error:
        raise InputError(f"cannot write in output folder {folder}: {reason(error)}") from None


def _stage(target: Path, content: bytes | str) -> Path:
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    return temporary


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
