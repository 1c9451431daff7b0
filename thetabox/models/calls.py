"""What a network's code asks of torch while it runs, call by call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from thetabox.models.twins import NARROW, Twins

# Functions that take the size of a batch as a number, and those of which only a size is one.
SIZED = {
    "arange",
    "as_strided",
    "broadcast_to",
    "chunk",
    "empty",
    "expand",
    "narrow",
    "new_empty",
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
    "__getitem__",
    "__setitem__",
}
FILLED = {"full", "new_full"}
# What code does with the recording of gradients changes no number.
SILENT = {"_set_grad_enabled", "set_grad_enabled"}
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.layout, range)
PLAIN_KINDS, TENSORS = frozenset(PLAIN), frozenset({Tensor, nn.Parameter})
# Operands inside of operands, beyond which one is taken by its kind.
DEEPEST = 20


Call = tuple[str, Any]
"""Name of a function, and its operands."""


class Calls(TorchFunctionMode):
    """Remembers every call of torch, by name and all its operands that are no tensors.

    A few functions compare the types of their operands above the operators that get twins, and refuse a parameter
    whose twin has the type of the others; such a call is made again with the twins.

    Args:
        twins: of the tensors of the network.
        recording: whether calls are remembered, which takes as long as a small operator.
        held: tensors that outlive a run, which stand in the record by their place among these; others are results.

    Attributes:
        made: the calls that are remembered.
        made_again: whether there was such a call.
    """

    def __init__(self, twins: Twins, held: Iterable[Tensor] = (), *, recording: bool = True) -> None:
        super().__init__()
        self._recording = recording
        self.made: list[Call] = []
        self.made_again = False
        self._twins = twins
        self._held = {id(t): place for place, t in enumerate(held)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._recording and (name := _name_of(func)) not in SILENT:
            recorded = self._recorded
            operands = [recorded(value, DEEPEST) for value in args]
            named = [(key, recorded(value, DEEPEST)) for key, value in kwargs.items()] if kwargs else ()
            self.made.append((name, (tuple(operands), tuple(named))))
        try:
            return func(*args, **kwargs)
        except (RuntimeError, TypeError):
            if not self._twins.wide:
                raise
            with _disable_current_modes():
                twins = [self._twins.twins(a) for a in args], {k: self._twins.twins(v) for k, v in kwargs.items()}
            if _same([args, kwargs], twins):
                raise
            self.made_again = True
            return func(*twins[0], **twins[1])

    def _recorded(self, value: Any, depth: int) -> Any:
        """A value without its tensors, to be compared."""
        kind = type(value)
        if kind in PLAIN_KINDS:  # most operands, so these come first: what follows is asked of every kind by name
            return value
        if kind in TENSORS or isinstance(value, Tensor):
            return self._held.get(id(value), Tensor)
        if (kind is tuple or kind is list) and depth >= 0:
            return tuple([self._recorded(part, depth - 1) for part in value])
        if isinstance(value, PLAIN) or depth < 0:
            return value if isinstance(value, PLAIN) else type(value)
        if isinstance(value, np.ndarray | np.generic):
            return value.dtype, value.shape, value.tobytes()
        if isinstance(value, slice):
            return tuple(self._recorded(part, depth - 1) for part in (value.start, value.stop, value.step))
        if isinstance(value, dict | Mapping):  # the common kind first, for the other is asked of a registry
            return tuple([(key, self._recorded(part, depth - 1)) for key, part in value.items()])
        if isinstance(value, tuple | list | Sequence):
            return tuple([self._recorded(part, depth - 1) for part in value])
        return type(value)


def _name_of(func: Any) -> str:
    name = getattr(func, "__name__", None) or repr(func)
    # A property of tensors is asked by way of a method that all of them have.
    return f"{getattr(func.__self__, '__name__', '')}.{name}" if name in ("__get__", "__set__") else name


def alike(one: Sequence[Call], samples: int, other: Sequence[Call], others: int) -> bool:
    """Whether two runs on so many samples asked the same of torch, one function after the other.

    Then no branch of the code looks at the batch or the mode of torch; what is equal for some samples is for all.
    """
    if len(one) != len(other):
        return False
    for (name, operands), (other_name, other_operands) in zip(one, other, strict=True):
        if name != other_name:
            return False
        if operands == other_operands:
            continue
        if name not in SIZED | FILLED:
            return False
        if not _in_proportion(operands, samples, other_operands, others, 2 if name in FILLED else 0):
            return False
    return True


def _in_proportion(one: Any, samples: int, other: Any, others: int, depth: int) -> bool:
    """Whether two operands are equal but for numbers, from some depth on, that grow with the batch."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_in_proportion(a, samples, b, others, depth - 1) for a, b in pairs)
    if depth < 0 and type(one) is int and type(other) is int and one != other:
        return one * others == other * samples
    return bool(one == other)


def widened(calls: Sequence[Call]) -> list[Call]:
    """A record in which every floating type is the same: that of the network's own precision is none of the code's."""
    return [(name, _without_type(arguments)) for name, arguments in calls]


def _without_type(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_without_type(part) for part in value)
    return torch.float64 if isinstance(value, torch.dtype) and value in NARROW else value


def _same(one: Any, other: Any) -> bool:
    leaves = (torch.utils._pytree.tree_leaves(part) for part in (one, other))
    return all(a is b for a, b in zip(*leaves, strict=True) if isinstance(a, Tensor))
