"""A NIR file, looked through before anything is made of it: HDF5 with plain numbers and text, nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from thetabox.errors import InputError
from thetabox.json_text import parse
from thetabox.models.bytes_of import bytes_of
from thetabox.models.contents import one_line
from thetabox.models.nir import reader

Tree = Mapping[str, Any]
"""What a file holds: numpy arrays and numbers, text, and groups of them, by name."""

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SECONDS = 60.0
"""How long a file may take to be read, and a second more for every 10 MB."""


def tree_of(path: Path) -> tuple[Tree, str]:
    """The root node of a file, and the version of NIR that wrote it.

    Raises:
        InputError: the package ``nir`` is missing; not a NIR file, or damaged; links, references, foreign filters, or
            more numbers than :data:`reader.LARGEST`.
    """
    if sys.modules.get("nir", True) is None or find_spec("nir") is None or find_spec("h5py") is None:
        raise InputError(f"{path}: reading NIR needs the package nir; pip install 'thetabox[nir]'")
    content = bytes_of(path)
    if not content.startswith(SIGNATURE):
        raise InputError(f"{path}: not a NIR file (HDF5), or truncated")
    held = _read(path, content)
    root, version = held.get("node"), held.get("version")
    if not isinstance(root, Mapping) or root.get("type") != "NIRGraph":
        raise InputError(f"{path}: an HDF5 file without the graph of a NIR file (node, of type NIRGraph)")
    return root, one_line(version)[:40] if isinstance(version, str) else "unknown"


def _read(path: Path, content: bytes) -> dict[str, Any]:
    """What the file holds, by a process that may loop or crash (:mod:`thetabox.models.nir.reader`)."""
    command = [sys.executable, "-P", str(Path(reader.__file__))]
    limit = SECONDS + len(content) / 1e7
    try:
        run = subprocess.run(command, input=content, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"{path}: damaged, the HDF5 library did not come to an end with it in {limit:.0f} s") from None
    except OSError as error:
        raise InputError(f"{path}: no process could be started to read it ({error.strerror or error})") from None
    head, _, numbers = run.stdout.partition(b"\n")
    if run.returncode:
        raise InputError(f"{path}: damaged, the HDF5 library failed with it (exit status {run.returncode})")
    said = parse(head)
    if "refused" in said:
        raise InputError(f"{path}: {one_line(said['refused'])[:300]}")
    tree: dict[str, Any] = _filled(said["tree"], numbers)
    return tree


def _filled(held: Any, numbers: bytes) -> Any:
    """The tree with its numbers put in; the empty name, which HDF5 does not have, marks a set of them."""
    if not isinstance(held, dict):
        return held
    if "" in held:
        kind, shape, place = held[""]
        flat = np.frombuffer(numbers, kind, prod(shape), place)
        return flat.reshape(shape) if shape else flat[0]
    return {name: _filled(part, numbers) for name, part in held.items()}
