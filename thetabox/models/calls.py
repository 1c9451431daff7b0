"""What a network's code asks of torch while it runs, call by call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from thetabox.models.twins import Twins

# Functions that take the size of a batch as a number.
SIZED = {
    "arange",
    "as_strided",
    "broadcast_to",
    "chunk",
    "empty",
    "expand",
    "full",
    "narrow",
    "new_empty",
    "new_full",
    "new_ones",
    "new_zeros",
    "ones",
    "range",
    "repeat",
    "reshape",
    "split",
    "tile",
    "unflatten",
    "view",
    "zeros",
}
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.layout, slice, range)


class Calls(TorchFunctionMode):
    """Remembers every call of torch, by name and all its operands that are no tensors.

    A few functions compare the types of their operands above the operators that get twins, and refuse a parameter
    whose twin has the type of the others; such a call is made again with the twins.

    Args:
        twins: of the tensors of the network.
    """

    def __init__(self, twins: Twins) -> None:
        super().__init__()
        self.made: list[Call] = []
        self._twins = twins

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.made.append((getattr(func, "__name__", repr(func)), operands([args, kwargs])))
        try:
            return func(*args, **kwargs)
        except (RuntimeError, TypeError):
            with _disable_current_modes():
                twins = [self._twins.twins(a) for a in args], {k: self._twins.twins(v) for k, v in kwargs.items()}
            if not self._twins.wide or _same([args, kwargs], twins):
                raise
            return func(*twins[0], **twins[1])


Call = tuple[str, Any]


def operands(value: Any) -> Any:
    """A value without its tensors, to be compared."""
    if isinstance(value, Tensor):
        return Tensor
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, Mapping):
        return tuple((key, operands(part)) for key, part in value.items())
    if isinstance(value, Sequence):
        return tuple(operands(part) for part in value)
    return type(value)


def alike(one: Sequence[Call], samples: int, other: Sequence[Call], others: int) -> bool:
    """Whether two runs on so many samples asked the same of torch, one function after the other.

    Then no branch of the code looks at the batch or the mode of torch; what is equal for some samples is for all.
    """
    if len(one) != len(other):
        return False
    for (name, given), (called, given_too) in zip(one, other, strict=True):
        if name != called:
            return False
        if given != given_too and not (name in SIZED and _in_proportion(given, samples, given_too, others)):
            return False
    return True


def _in_proportion(one: Any, samples: int, other: Any, others: int) -> bool:
    """Whether two operands are equal but for numbers that grow with the batch."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_in_proportion(a, samples, b, others) for a, b in pairs)
    if type(one) is int and type(other) is int and one != other:
        return one * others == other * samples
    return bool(one == other)


def _same(one: Any, other: Any) -> bool:
    leaves = (torch.utils._pytree.tree_leaves(part) for part in (one, other))
    return all(a is b for a, b in zip(*leaves, strict=True) if isinstance(a, Tensor))
