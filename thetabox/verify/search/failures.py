"""What becomes of an error inside a domain: a stage that gives up, or one line for the user who chose the domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from thetabox.errors import InputError, in_one_line
from thetabox.verify.effort import OutOfTime

T = TypeVar("T")


class GaveUp(Exception):
    """A stage met something in the network that it cannot bound; its message says what."""


def guarded(work: Callable[[], T]) -> T:
    """What ``work`` returns.

    Raises:
        GaveUp: it failed, for whatever reason but want of memory or time.
    """
    try:
        return work()
    except OutOfTime:
        raise
    except InputError as error:
        raise GaveUp(str(error)) from error
    except Exception as error:
        if _memory(error):
            raise
        raise GaveUp(in_one_line(error)) from error


def insisted(name: str, work: Callable[[], T]) -> T:
    """What ``work`` returns in a domain that the user chose.

    Raises:
        InputError: it failed, for whatever reason but want of memory or time.
    """
    try:
        return work()
    except (OutOfTime, InputError):
        raise
    except Exception as error:
        if _memory(error):
            raise
        instead = "; 'interval' or 'auto' may" if name != "interval" else ""
        raise InputError(f"the domain {name!r} cannot bound this network ({in_one_line(error)}){instead}") from error


def _memory(error: Exception) -> bool:
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "out of memory" in str(error)
        or "can't allocate memory" in str(error)
    )
