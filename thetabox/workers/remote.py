"""The side of a worker: what all jobs of a run read is sent once and kept, then jobs come and results go, as bytes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import socket
import sys
import threading
from collections import OrderedDict
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from thetabox.errors import in_one_line
from thetabox.version import __version__
from thetabox.workers.local import WorkersLost
from thetabox.workers.pickled import pickled, unpickled

# A certification and what follows it.
CONTEXTS_KEPT = 2
# Characters of what an error of others says.
MOST_SAID = 200
DONE, FAILED, MISSING, LOST, OTHER = "done", "failed", "missing", "lost", "other version"
# Of mallopt (glibc's malloc.h), and the most that it takes for the latter.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MOST = -1, -3, 32 << 20

_contexts: OrderedDict[str, Any] = OrderedDict()
_one_at_a_time = threading.Lock()


@cache
def versions() -> str:
    """What runs here, down to the bytes of the package: the results of another program would be other claims."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    python = ".".join(map(str, sys.version_info[:2]))
    torch_ = torch.__version__.partition("+")[0]
    return f"thetabox {__version__} (sources {digest.hexdigest()[:8]}), torch {torch_}, Python {python}"


def work(asking: str, key: str, context: bytes | None, job: bytes) -> tuple[str, bytes | str]:
    """Run one job in this process.

    Args:
        asking: the :func:`versions` of the process that asks.
        key: of what all jobs read.
        context: that itself, where this process may not have it yet.
        job: function and argument.

    Returns:
        what became of it, and: its result, the error that it raised, who lacks the context, or what runs here.
    """
    if asking != versions():
        return OTHER, f"{_here()} runs {versions()}"
    _hold_memory()
    with _one_at_a_time:  # settings of torch and domains at work belong to one job
        if key not in _contexts:
            if context is None:
                return MISSING, _here()
            try:
                _contexts[key] = unpickled(context)
            except Exception as error:
                return FAILED, pickled(WorkersLost(_unreadable(error)))
            while len(_contexts) > CONTEXTS_KEPT:
                _contexts.popitem(last=False)
        try:
            function, argument = unpickled(job)
            return DONE, pickled(function(_contexts[key], argument))
        except Exception as error:
            return FAILED, _sent(error)


@cache
def _hold_memory() -> None:
    """Do not give memory back to the system after every operation, as Dask's nannies have it (MALLOC_TRIM_THRESHOLD_).

    A product of a megabyte then takes some twenty times as long, of which most is the system's.
    """
    if sys.platform == "linux" and "MALLOC_TRIM_THRESHOLD_" in os.environ:
        with suppress(OSError, AttributeError):  # another C library
            library = ctypes.CDLL(None)
            library.mallopt(_MMAP_THRESHOLD, _MOST)
            library.mallopt(_TRIM_THRESHOLD, 16 * _MOST)


def _sent(error: Exception) -> bytes:
    try:
        data = pickled(error)
        unpickled(data)
    except Exception:  # one that only its own process can make
        data = pickled(RuntimeError(f"{type(error).__name__}: {error}"))
    return data


def _unreadable(error: Exception) -> str:
    return (
        f"{_here()} cannot read the network ({in_one_line(error, MOST_SAID)}); install there what it is made of, or "
        "give its class by its file (path/to/file.py:Class)"
    )


def _here() -> str:
    return f"the worker {os.getpid()} on {socket.gethostname()}"
