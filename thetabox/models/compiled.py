"""Networks that a user has given to ``torch.compile``: run as they are here, and left as they were."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import Any, cast

import torch


class _OfTheProcess:
    """How compiled code runs, which torch knows for the whole process: until the last of those who asked has left."""

    def __init__(self, stance: str) -> None:
        self._stance, self._lock, self._inside = stance, Lock(), 0
        self._setting: AbstractContextManager[Any] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._setting = cast("AbstractContextManager[Any]", torch.compiler.set_stance(self._stance))
                self._setting.__enter__()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    assert self._setting is not None
                    self._setting.__exit__(None, None, None)


_cached = _OfTheProcess("eager_on_recompile")


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """Inside, what was compiled before is used where it fits, and everything else runs as it was written.

    The runs here have more shapes and modes than ``torch.compile`` compiles a function for; behind that it gives the
    function up for the rest of the process, also for other networks with the same layers.
    """
    if "torch._dynamo" not in sys.modules:  # so nothing is to be compiled; the import takes a second
        yield
        return
    with _cached():
        yield


def as_written() -> AbstractContextManager[Any]:
    """Inside, nothing that is compiled is used; for what runs alone in the process."""
    return cast("AbstractContextManager[Any]", torch.compiler.set_stance("force_eager"))
