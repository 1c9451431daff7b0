"""Where the files of a task come from: a folder, or a download with checksums; and the cache of processed arrays."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from thetabox.errors import InputError


def cache_folder() -> Path:
    """The folder named by ``THETABOX_CACHE``, else the platform's cache folder for ``thetabox``."""
    named = os.environ.get("THETABOX_CACHE")
    if named:
        return Path(named).expanduser()
    import pooch  # type: ignore[import-untyped]  # pooch ships no types

    return Path(pooch.os_cache("thetabox"))


def search_folders(data_dir: Path | None, subfolders: Iterable[str]) -> list[Path]:
    """Folders where a task's files may lie: of ``data_dir``, else of ``THETABOX_DATA``; subfolders first.

    Raises:
        InputError: the folder that was named does not exist.
    """
    named = os.environ.get("THETABOX_DATA")
    if data_dir is not None:
        root, origin = Path(data_dir).expanduser(), "the data folder"
    elif named:
        root, origin = Path(named).expanduser(), "THETABOX_DATA"
    else:
        return []
    if not root.is_dir():
        raise InputError(f"{origin} {root} is not a folder")
    return [folder for folder in (*(root / name for name in subfolders), root) if folder.is_dir()]


def first_file(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """The first of ``names`` that stands in one of the folders, folder by folder."""
    names = list(names)
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


def missing(task: str, data_dir: Path, what: str) -> InputError:
    """The error for a folder that was named for a task but does not hold it."""
    return InputError(f"{data_dir} does not hold the files of task {task}: {what} not found")


def download(task: str, base: str, sha256: Mapping[str, str]) -> dict[str, Path]:
    """Fetches files of a task into the cache folder, each checked against its SHA-256; present ones are kept.

    Raises:
        InputError: no network, no room, or bytes that are not the expected ones.
    """
    import pooch
    from requests.exceptions import RequestException

    folder = cache_folder() / "downloads" / task
    pooch.get_logger().setLevel("WARNING")
    fetched = {}
    for name, digest in sha256.items():
        try:
            fetched[name] = Path(pooch.retrieve(base + name, known_hash=f"sha256:{digest}", fname=name, path=folder))
        except RequestException as error:
            reason = type(error).__name__
            raise InputError(
                f"task {task} could not be downloaded from {base}{name} ({reason}); "
                "name a folder that holds its files with --data-dir or THETABOX_DATA"
            ) from error
        except ValueError as error:
            raise InputError(f"{base}{name} is not the expected file (SHA-256 differs); try again later") from error
        except OSError as error:
            raise InputError(f"task {task} could not be stored in {folder}: {error.strerror or error}") from error
    return fetched


def _read_cache(path: Path) -> dict[str, np.ndarray] | None:
    # Whatever is wrong with a cache file, processing anew repairs it.
    with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}
    return None


def processed(
    task: str, recipe: str, sources: Iterable[Path], make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays that ``make`` computes, kept in the cache folder after the first time.

    They are computed anew when ``recipe`` (a text that states every parameter of the processing), or name, size or
    time of a source file changes. A cache folder that cannot be written is no error: nothing is kept then.
    """
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    key = hashlib.sha256(repr((recipe, sorted(stamps))).encode()).hexdigest()[:16]
    path = cache_folder() / "processed" / f"{task}-{key}.npz"
    stored = _read_cache(path)
    if stored is not None:
        return stored
    arrays = make()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy types the keywords as flags
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    return arrays
