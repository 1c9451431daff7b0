"""The type and device of the inputs that a network takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def input_type(model: nn.Module, x: Tensor | None = None) -> tuple[torch.dtype, torch.device]:
    """The type and device of inputs that a network takes: its parameters', or its buffers' where it has none.

    Where parameters differ in type, that of ``x`` if one has it, else the first's; whole numbers ``x``, which are kept
    as such for networks that take nothing else, stay what they are.
    """
    if x is not None and not x.is_floating_point():
        return x.dtype, input_type(model)[1]
    held: list[Tensor] = [t for t in model.parameters() if t.is_floating_point()]
    held = held or [t for t in model.buffers() if t.is_floating_point()]
    if not held:
        floating = x is not None and x.is_floating_point()
        return (x.dtype, x.device) if x is not None and floating else (torch.get_default_dtype(), torch.device("cpu"))
    same = [t for t in held if x is not None and t.dtype == x.dtype]
    return (same or held)[0].dtype, held[0].device
