"""A module beside another on the same tensors and parts, to which hooks are added that the other does not have."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from thetabox.deep_copy import HOOKS
from thetabox.errors import InputError
from thetabox.models.compiled import call_of


def _slots(kind: type) -> tuple[str, ...]:
    """Names of attributes that a class keeps outside of its objects' dictionaries."""
    held = vars(kind).get("__slots__", ())
    names = (held,) if isinstance(held, str) else tuple(held)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__") and not name.startswith("__"))


def beside(model: nn.Module) -> nn.Module:
    """Another module of the same class, with the same attributes; only its own hooks are its own.

    Args:
        model: left as it was, whatever hooks the other is given.

    Raises:
        InputError: it is compiled code, to which no hook can be added.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "scripted modules (torch.jit.script) take no hook, by which their inputs or answers would be made one "
            "tensor; give the Python module it was made from"
        )
    # Not by copy.copy, for which a class may have its own way.
    other: nn.Module = object.__new__(type(model))
    vars(other).update(vars(model))
    for kind in type(model).__mro__:
        for name in _slots(kind):
            if hasattr(model, name):
                object.__setattr__(other, name, getattr(model, name))
    in_place = model._compiled_call_impl is not None
    for hooks in HOOKS:
        vars(other)[hooks] = OrderedDict() if in_place else vars(model)[hooks].copy()
    if in_place:
        vars(other).update(_compiled_call_impl=None, forward=call_of(model))
    return other
