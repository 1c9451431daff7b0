"""What rules ask of an operation and of its operands."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thetabox.verify.histories.description.symbolic import SampleCount, Symbolic, Unknown
from thetabox.verify.network.graph import Operation, Ref
from thetabox.verify.network.kinds import kinds

FLOATING = (torch.float32, torch.float64)
WHOLES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def dims_of(x: Tensor, dims: Any) -> list[int]:
    """Dimensions as a list; all of them where none are named."""
    if dims is None or dims == []:
        return list(range(x.dim()))
    return [dims] if isinstance(dims, int) else list(dims)


def is_number(value: Any) -> bool:
    """Whether it is a number of the code, and not that of the samples."""
    return isinstance(value, (int, float)) and not isinstance(value, SampleCount)


def check_real(o: Operation) -> None:
    """The result is a real number, or a whole one that does not wrap (which is seen to afterwards)."""
    if o.dtype not in (*FLOATING, *WHOLES):
        raise Unknown


def truth(s: Symbolic, o: Operation, place: int, value: Any) -> Tensor:
    """An operand as a truth value."""
    ref = o.args[place]
    kind = s.graph.dtypes.get(ref.index) if isinstance(ref, Ref) else None
    value = s.operand(value)
    if kind == torch.bool:
        return value
    if kind not in (*FLOATING, *WHOLES):
        raise Unknown
    return s.each(s.algebra.nonzero, value)


def check_operands(s: Symbolic, o: Operation) -> None:
    """No halves among the operands."""
    if any(s.graph.dtypes.get(i, torch.float32) not in (*FLOATING, *WHOLES, torch.bool) for i in o.inputs):
        raise Unknown


def check_unrounded(s: Symbolic, o: Operation) -> None:
    """Not computed in float32 inside a network in float64, where what that rounds is no rounding of the network's."""
    if kinds(s.graph)[o.index].rounded:
        raise Unknown


def plain_sizes(tree: Any) -> Any:
    """Arguments whose number of samples is a number like any other."""
    if isinstance(tree, SampleCount):
        return int(tree)
    if isinstance(tree, (list, tuple)):
        return type(tree)(plain_sizes(t) for t in tree)
    if isinstance(tree, dict):
        return {k: plain_sizes(v) for k, v in tree.items()}
    return tree
