"""What code asks of the size of a batch, all of it: also what torch could answer from what it took for granted."""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Any

from torch.fx.experimental.symbolic_shapes import ShapeEnv, uninteresting_files


class AskedSizes(ShapeEnv):
    """Assumptions of sizes, of which one that a size is a certain number answers no other question.

    Some functions of torch take the batch for the number that it is (``kron``); what the code asks of it afterwards
    would be answered from that, and not be written down.
    """

    def _maybe_guard_rel(self, expr: Any) -> None:  # type: ignore[override]  # a cached method there
        if not _is_a_number(expr):
            super()._maybe_guard_rel(expr)

    def _get_user_frame(self) -> FrameType | None:
        """Who asks: torch leaves out all code without a file, some of which is its own."""
        own = inspect.currentframe()
        frame = None if own is None else own.f_back
        while frame is not None and frame.f_code.co_filename in uninteresting_files() and not _of_a_string(frame):
            frame = frame.f_back
        return frame


def _is_a_number(guard: Any) -> bool:
    return bool(guard.is_Equality) and any(side.is_number for side in guard.args)


def _of_a_string(frame: FrameType) -> bool:
    return frame.f_code.co_filename == "<string>" and not frame.f_globals.get("__name__", "").startswith("torch.")
