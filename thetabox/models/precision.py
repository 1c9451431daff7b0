"""Evaluation in another precision than the network was written for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import torch

_LOCK = RLock()


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Tensors that a network makes on its way (``torch.zeros(batch, units)``) have this dtype inside.

    The default is the whole process's: one thread at a time is inside.
    """
    with _LOCK:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """A network computes in this type alone: what it makes on its way has it, whatever autocast the caller is in."""
    with default_dtype(dtype), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield
