"""Tensors without numbers, which a trace leaves in the caller's program where its code keeps what it computes."""

from __future__ import annotations

import functools
import gc
from collections import deque
from contextlib import suppress
from types import CellType
from typing import Any

from torch._subclasses.fake_tensor import FakeTensor


def forget_fakes() -> None:
    """Take them out of whatever holds them: entries of containers go, attributes and closures become ``None``.

    What stood there before is not known. It takes as long as the program is large: for the way out of an error. Those
    of a mode that is none of a trace are the caller's own.
    """
    fakes = [thing for thing in gc.get_objects() if type(thing) is FakeTensor]
    fakes = [fake for fake in fakes if fake.fake_mode.shape_env is not None]
    for fake in fakes:
        for holder in gc.get_referrers(fake):
            if holder is not fakes:
                with suppress(Exception):  # objects of foreign kinds raise whatever they like
                    _forget(holder, fake)


def _forget(holder: Any, fake: FakeTensor) -> None:
    if isinstance(holder, dict):
        owned = any(getattr(owner, "__dict__", None) is holder for owner in gc.get_referrers(holder))
        for key in [key for key, value in holder.items() if value is fake]:
            if owned:
                holder[key] = None
            else:
                del holder[key]
    elif isinstance(holder, list | set | deque):
        kept = [value for value in holder if value is not fake]
        holder.clear()
        holder.update(kept) if isinstance(holder, set) else holder.extend(kept)
    elif isinstance(holder, CellType):
        holder.cell_contents = None
    elif isinstance(holder, functools._lru_cache_wrapper):
        holder.cache_clear()
    else:
        for name, value in [*getattr(holder, "__dict__", {}).items()]:
            if value is fake:
                setattr(holder, name, None)
        for kind in type(holder).__mro__:
            slots = vars(kind).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if getattr(holder, name, None) is fake:
                    setattr(holder, name, None)
