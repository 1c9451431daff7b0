"""All objects of the program, wherever they are held: what a look for a kept tensor has to go through."""

from __future__ import annotations

import gc
import sys
from contextvars import copy_context
from types import FrameType
from typing import Any

import numpy as np

# So many objects are asked at once what they hold.
TOGETHER = 4096


def objects() -> list[Any]:
    """Those of Python's collector, and what :func:`gc.freeze` set aside, which the collector lists no more.

    Of these, whatever is reached from the others, from modules and from functions that run. A server that freezes what
    it has loaded, before it forks, pays for that look with a second or two.
    """
    if not gc.get_freeze_count():
        return gc.get_objects()
    found = gc.get_objects()
    seen = {id(thing) for thing in found}
    edge: list[Any] = [*found, sys.modules, copy_context(), *_variables()]
    while edge:
        some = edge[-TOGETHER:]
        del edge[-TOGETHER:]
        for thing in gc.get_referents(*some):
            if id(thing) not in seen and (gc.is_tracked(thing) or type(thing) is np.ndarray):
                seen.add(id(thing))
                found.append(thing)
                # An array of objects tells the collector of none.
                edge.append([*thing.flat] if type(thing) is np.ndarray and thing.dtype.hasobject else thing)
    return found


def _variables() -> list[list[Any]]:
    """Variables of the functions that run, in every thread: their frames tell the collector nothing."""
    variables = []
    for top in sys._current_frames().values():
        frame: FrameType | None = top
        while frame is not None:
            variables += [[*frame.f_locals.values()], [*frame.f_globals.values()]]
            frame = frame.f_back
    return variables
