"""Settings that are those of the whole process, while several threads want them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager


class Shared:
    """A setting of the whole process that several threads may want at once.

    The first that enters makes it, the last that leaves restores what was there before.
    """

    def __init__(self, setting: Callable[[], AbstractContextManager[None]]) -> None:
        self._setting, self._lock = setting, threading.Lock()
        self._inside, self._made = 0, ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Inside, the setting holds."""
        with self._lock:
            if self._inside == 0:
                self._made.enter_context(self._setting())
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._made.close()
