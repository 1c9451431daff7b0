"""Networks of several inputs: the inputs as one tensor ``[samples, numbers]``, and the network that takes it apart.

Everything that bounds, attacks or measures knows one tensor of inputs. Several are laid side by side, sample by sample,
in a type that holds every number of all of them; a network takes them apart again before its own forward, in the shapes
and, where they are whole numbers or truth values, in the types that they had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from math import prod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox import checks
from thetabox.errors import InputError
from thetabox.models.beside import beside

Several = tuple[Any, ...] | Mapping[str, Any]
"""Inputs by place, or by name."""

# Names of arrays in a file: the first input, and what stands before the names of the others.
FIRST, PREFIX = "x", "x_"


@dataclass(frozen=True)
class InputPart:
    """One input.

    Attributes:
        shape: of one sample.
        dtype: as it was given.
        name: of an argument of ``forward``; ``None`` for one by place.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    name: str | None = None

    @property
    def size(self) -> int:
        """Numbers of one sample."""
        return prod(self.shape)


@dataclass(frozen=True)
class Separate:
    """Inputs that are several, each by itself: what a network that takes them apart hands on as they are.

    Attributes:
        values: tensors or arrays ``[samples, ...]``, in the order of the parts.
    """

    values: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.values[0])

    def __getitem__(self, which: Any) -> Separate:
        return self.each(lambda value: value[which])

    @property
    def shape(self) -> tuple[Any, ...]:
        """How many samples, and the shape of one in each."""
        return (len(self), *(list(value.shape[1:]) for value in self.values))

    def each(self, change: Callable[[Any], Any]) -> Separate:
        """What a function makes of each of them."""
        return Separate(tuple(change(value) for value in self.values))


def each_of(x: Any) -> tuple[Any, ...]:
    """Inputs one by one, of which there may be one."""
    return x.values if isinstance(x, Separate) else (x,)


def for_each(x: Any, change: Callable[[Any], Any]) -> Any:
    """What a function makes of an input, or of each of several."""
    return x.each(change) if isinstance(x, Separate) else change(x)


def are_several(model: nn.Module, x: Any) -> bool:
    """Whether inputs are several: a tuple or a mapping of two or more tensors or arrays, of a network that takes two.

    To a network of one input a tuple of arrays is its samples.
    """
    held = list(x.values()) if isinstance(x, Mapping) else x if isinstance(x, tuple) else []
    return len(held) > 1 and all(isinstance(t, Tensor | np.ndarray) and t.ndim >= 1 for t in held) and _takes_two(model)


def _takes_two(model: nn.Module) -> bool:
    """Whether ``forward`` has a second argument that may be a tensor."""
    try:
        taken = list(signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # compiled code has no signature
        return False
    more = any(p.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) for p in taken)
    return more or sum(p.default in (Parameter.empty, None) for p in taken) > 1


def packed(x: Several, what: str = "x") -> tuple[Float[Tensor, "samples numbers"], tuple[InputPart, ...]]:
    """Several inputs as one tensor, and what they were.

    float32 where that holds every number of all of them, else float64.

    Args:
        x: tensors or arrays ``[samples, ...]``.
        what: their name in messages.

    Raises:
        InputError: not as many samples in each, no samples, or what :func:`thetabox.checks.array` refuses.

    Example:
        >>> x, parts = packed((torch.zeros(2, 3, 4), torch.tensor([1, 5])))
        >>> x.shape, [part.shape for part in parts]
        (torch.Size([2, 13]), [(3, 4), ()])
    """
    if isinstance(x, Mapping) and not all(isinstance(name, str) for name in x):
        raise InputError(f"{what} must name its inputs by text, not by {', '.join(map(repr, x))[:80]}")
    names: Sequence[str | None] = list(x) if isinstance(x, Mapping) else [None] * len(x)
    values = list(x.values()) if isinstance(x, Mapping) else list(x)
    labels = [f"{what}[{place if name is None else name!r}]" for place, name in enumerate(names)]
    tensors = [checks.array(t, label) for t, label in zip(values, labels, strict=True)]
    counts = [len(t) for t in tensors]
    if len(set(counts)) != 1:
        raise InputError(
            f"the inputs {', '.join(labels)} have {', '.join(map(str, counts))} samples; they must be as many (a tuple "
            "is several inputs; give samples as one tensor or a list)"
        )
    if not all(t.numel() for t in tensors):
        raise InputError(f"{what} holds an input without numbers, of shape {[list(t.shape) for t in tensors]}")
    parts = tuple(InputPart(tuple(t.shape[1:]), t.dtype, name) for t, name in zip(tensors, names, strict=True))
    wide = [checks.exact_double(t, label).reshape(len(t), -1) for t, label in zip(tensors, labels, strict=True)]
    together = torch.cat(wide, 1)
    narrow = together.float()
    return (narrow if torch.equal(narrow.double(), together) else together), parts


def apart(together: Float[Tensor, "samples numbers"], parts: Sequence[InputPart]) -> list[Tensor]:
    """The inputs that were laid side by side, in their shapes; whole numbers and truth values in their types.

    In rows of their own, as inputs are that were never laid so: code may view samples and positions as one dimension.
    """
    values, first = [], 0
    for part in parts:
        laid = together[:, first : first + part.size].reshape(-1, *part.shape)
        value = laid.clone(memory_format=torch.contiguous_format)
        first += part.size
        if part.dtype is torch.bool:
            value = value > 0.5
        elif not part.dtype.is_floating_point:  # else in the precision of the network
            value = value.to(part.dtype)
        values.append(value)
    return values


@dataclass(frozen=True)
class Unpack:
    """Takes several inputs apart; a forward pre-hook."""

    parts: tuple[InputPart, ...]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Arguments of the network's own forward."""
        (together,) = args
        values = together.values if isinstance(together, Separate) else apart(together, self.parts)
        held = list(zip(self.parts, values, strict=True))
        names = {part.name: value for part, value in held if part.name is not None}
        return tuple(value for part, value in held if part.name is None), {**kwargs, **names}


def unpacking(model: nn.Module, parts: Sequence[InputPart]) -> nn.Module:
    """The network with several inputs as one tensor: another module on the same tensors and parts.

    Names of files (``x``, ``x_mask``) become arguments of the network's forward: by that name, by the name behind
    ``x_``, or by their place where it has neither.

    Args:
        model: left as it was.
        parts: what the inputs are.

    Raises:
        InputError: its forward does not take so many, or none of that name.
    """
    copied = beside(model)
    copied.register_forward_pre_hook(Unpack(_called(model, parts)), with_kwargs=True, prepend=True)
    return copied


def _called(model: nn.Module, parts: Sequence[InputPart]) -> tuple[InputPart, ...]:
    """The parts, each by the name that the network has for it, if it has one."""
    try:
        taken = list(signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # compiled code has no signature
        taken = []
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)
    has_positional = not taken or any(p.kind in positional for p in taken)
    any_name = any(p.kind is Parameter.VAR_KEYWORD for p in taken)
    names = {p.name for p in taken if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)}
    inputs = []
    asked = {part.name for part in parts}
    for part in parts:
        name = part.name
        if name is not None:
            matching = [n for n in (name, name.removeprefix(PREFIX)) if n in names]
            # A file has a first input of that name, whatever the network calls it.
            first = name == FIRST and has_positional and (FIRST not in names or PREFIX + FIRST in asked)
            if not matching and not first and not any_name and names:
                raise InputError(
                    f"the network's forward takes {', '.join(sorted(names))} and no {name.removeprefix(PREFIX)!r}; "
                    "call the input so, or give the inputs as a tuple, in order"
                )
            name = None if first else matching[0] if matching else name
        inputs.append(InputPart(part.shape, part.dtype, name))
    by_place = [p for p in taken if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
    more = any(p.kind is Parameter.VAR_POSITIONAL for p in taken)
    unnamed = sum(part.name is None for part in inputs)
    if taken and not more and unnamed > len(by_place):
        raise InputError(f"x holds {unnamed} inputs, the network's forward takes {len(by_place)} by place")
    return tuple(inputs)
