"""Whole numbers that a graph computes beside its tensors: sizes, indices, axes; some known only when it runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from thetabox.errors import InputError

# More numbers than any list of sizes or indices has; a file may ask for as many as it likes.
MOST = 1 << 20


def is_known(value: Any) -> bool:
    """Whether a value is whole numbers beside the tensors."""
    return isinstance(value, np.ndarray | list)


def array(value: Any) -> np.ndarray:
    """Whole numbers as an array; sizes of a trace are objects in it."""
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, list | tuple):
        value = [value] if not isinstance(value, Tensor) else value.tolist()
    if all(type(v) is bool for v in value) and value:
        return np.array(value)
    if all(isinstance(v, int) for v in value):
        return np.array(value, dtype=np.int64)
    made = np.empty(len(value), dtype=object)
    for place, v in enumerate(value):
        made[place] = v
    return made


def whole(value: Any, what: str = "a list of sizes") -> list[Any]:
    """Whole numbers as a list; sizes of a trace stay what they are.

    Raises:
        InputError: they are computed from the network's input.
    """
    if isinstance(value, Tensor):
        raise InputError(f"{what} is computed from the network's input, where it must be known")
    flat = array(value).reshape(-1)
    return [int(v) if isinstance(v, np.integer | np.bool_) else v for v in flat.tolist()]


def one(value: Any, what: str = "a number") -> Any:
    """A single whole number.

    Raises:
        InputError: there are several, or it is computed from the network's input.
    """
    several = whole(value, what)
    if len(several) != 1:
        raise InputError(f"{what} must be one number, not {len(several)}")
    return several[0]


def tensor(value: Any, like: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers as a tensor, on the device of another one.

    Raises:
        InputError: one of them is the number of samples, which is not to become a number of the network's.
    """
    device = like.device if like is not None else None
    if isinstance(value, Tensor):
        return value if dtype is None else value.to(dtype)
    held = array(value)
    if held.dtype == object:
        if not all(isinstance(v, int) for v in held.reshape(-1)):
            raise InputError("a size that depends on the number of samples is used as a number")
        held = held.astype(np.int64)
    return torch.tensor(held.tolist(), dtype=dtype, device=device)


def boxed(value: Any) -> Any:
    """A single whole number, as numpy returns it, as an array again."""
    if isinstance(value, np.integer | np.bool_):
        return np.asarray(value)
    if isinstance(value, int | torch.SymInt | torch.SymBool):
        made = np.empty((), dtype=object)
        made[()] = value
        return made if not isinstance(value, int) else np.asarray(value)
    return tuple(boxed(v) for v in value) if isinstance(value, tuple) else value


def checked(value: Any) -> Any:
    """The value, unless it is more numbers than any file needs.

    Raises:
        InputError: it is.
    """
    if isinstance(value, np.ndarray) and value.size > MOST:
        raise InputError(f"it computes {value.size} whole numbers; {MOST} are too many")
    return value


def check_count(sizes: list[Any]) -> None:
    """Raise InputError where so many numbers would be made beside the tensors."""
    count = 1
    for size in sizes:
        count *= max(int(size), 1)
    if count > MOST or any(int(size) < 0 for size in sizes):
        raise InputError(f"it computes whole numbers of sizes {sizes}; {MOST} are too many")
