"""A module beside another on the same tensors and parts, to which hooks are added that the other does not have."""

from __future__ import annotations

from torch import nn

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


def beside(model: nn.Module) -> nn.Module:
    """Another module of the same class, with the same attributes; only its own hooks are its own.

    Args:
        model: left as it was, whatever hooks the other is given.
    """
    # Not by copy.copy, for which a class may have its own way.
    other: nn.Module = object.__new__(type(model))
    vars(other).update(vars(model))
    for hooks in HOOKS:
        vars(other)[hooks] = vars(model)[hooks].copy()
    return other
