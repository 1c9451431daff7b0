"""Deep copies of networks with what torch's own copies lose of them."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import nn

from thetabox.errors import InputError

# Attributes of a module by which its call is more than its ``forward``.
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
# What ``torch.export`` checks inputs by: that they are of the example's type, which those of a wider copy are not.
CHECKS = ("shape_env", "range_constraints", "validate_inputs")

Network = TypeVar("Network", bound=nn.Module)


def deep_copy(model: Network, memo: dict[int, Any] | None = None) -> Network:
    """``copy.deepcopy``, and the copy calls the same hooks, which find the same attributes.

    Wrappers of ``torch.compile`` and graphs of ``torch.fx`` and ``torch.export`` are copied without them.

    Raises:
        InputError: the copy lacks a module that has hooks.
        Exception: whatever a part of the model raises that cannot be copied.
    """
    memo = {} if memo is None else memo
    copied = copy.deepcopy(model, memo)
    twins = dict(copied.named_modules()) if isinstance(copied, nn.Module) else {}
    for name, module in model.named_modules():
        extras = extras_of(module)
        if name in twins:
            add_extras(twins[name], extras, memo)
        elif extras:
            lacking = name or type(model).__name__
            raise InputError(
                f"the network cannot be copied: the copy has no {lacking!r}, which has hooks; take them off"
            )
    return copied


def extras_of(module: nn.Module) -> dict[str, Any]:
    """The hooks of a module by attribute and key and, where it has some, the attributes that they may read."""
    hooks = {
        kind: {key: hook for key, hook in held.items() if not _checks(hook)}
        for kind in HOOKS
        if (held := vars(module).get(kind))
    }
    if not any(hooks.values()):
        return {}
    known = {*vars(nn.Module()), *dir(type(module)), *CHECKS}
    return hooks | {name: value for name, value in vars(module).items() if name not in known}


def add_extras(module: nn.Module, extras: dict[str, Any], memo: dict[int, Any] | None = None) -> None:
    """Give a copy of a module those that it has not; deep copies of them, where there is a memo."""
    held = vars(module)
    for name, value in extras.items():
        if name in HOOKS:
            missing = {key: hook for key, hook in value.items() if key not in held[name]}
            held[name].update(missing if memo is None else copy.deepcopy(missing, memo))
        elif name not in held:
            held[name] = value if memo is None else copy.deepcopy(value, memo)


def _checks(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.export")
