"""Tensors without numbers, which a trace leaves in the caller's program where its code keeps what it computes."""

from __future__ import annotations

import functools
import gc
from collections import deque
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from types import CellType
from typing import Any

from torch._subclasses.fake_tensor import FakeTensor

from thetabox.models import heap

# Where this package begins its traces, and runs without numbers.
TRACES = (Path(__file__).parents[1] / "verify" / "network", Path(__file__).with_name("outputs.py"))


# So many objects are asked at once what they hold: one of them that holds a fake is rare.
TOGETHER = 256


def forget_fakes() -> None:
    """Take them out of whatever holds them: entries of containers go, attributes and closures become ``None``.

    What stood there before is not known. It takes as long as the program is large, for three looks at all of its
    objects: for the way out of an error. Those of the caller's own traces are left where they are.
    """
    objects = heap.objects()
    fakes = [thing for thing in objects if type(thing) is FakeTensor and _is_ours(thing)]
    if not fakes:
        return
    known = {id(fake) for fake in fakes}
    holders = _holding(known, objects)
    tables = {id(holder) for holder in holders if isinstance(holder, dict)}
    owners = _holding(tables, objects) if tables else []
    owned = {id(own) for owner in owners if (own := _attributes(owner)) is not None}
    for holder in holders:
        with suppress(Exception):  # objects of foreign kinds raise whatever they like
            _forget(holder, known, attributes=id(holder) in owned)


def _holding(things: AbstractSet[int], objects: Sequence[Any]) -> list[Any]:
    """Those of the objects that refer to one of these things.

    :func:`gc.get_referrers` compares every reference of the program with every one of the things, and a trace leaves
    thousands.
    """
    holders: list[Any] = []
    for start in range(0, len(objects), TOGETHER):
        some = objects[start : start + TOGETHER]
        if not things.isdisjoint(map(id, gc.get_referents(*some))):
            holders += [thing for thing in some if not things.isdisjoint(map(id, gc.get_referents(thing)))]
    return holders


def _is_ours(fake: FakeTensor) -> bool:
    """Whether a mode that was begun below one of our traces made it."""
    frames = getattr(fake.fake_mode, "_stack_trace", ())
    return any(Path(frame.filename).is_relative_to(place) for frame in frames for place in TRACES)


def _attributes(owner: Any) -> Any:
    try:
        return getattr(owner, "__dict__", None)
    except Exception:  # whatever it raises, it is not ours to tell
        return None


def _forget(holder: Any, fakes: AbstractSet[int], *, attributes: bool) -> None:
    if isinstance(holder, dict):
        for key in [key for key, value in holder.items() if id(value) in fakes]:
            if attributes:
                holder[key] = None
            else:
                del holder[key]
    elif isinstance(holder, list | set | deque):
        kept = [value for value in holder if id(value) not in fakes]
        holder.clear()
        holder.update(kept) if isinstance(holder, set) else holder.extend(kept)
    elif isinstance(holder, CellType):
        if id(holder.cell_contents) in fakes:
            holder.cell_contents = None
    elif isinstance(holder, functools._lru_cache_wrapper):
        holder.cache_clear()
    else:
        for name, value in [*(_attributes(holder) or {}).items()]:
            if id(value) in fakes:
                setattr(holder, name, None)
        for kind in type(holder).__mro__:
            slots = vars(kind).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if id(getattr(holder, name, None)) in fakes:
                    setattr(holder, name, None)
