"""Objects as bytes for another process: traced networks, modules of the user's own code and their tensors."""

from __future__ import annotations

import io
import pickle
import sys
from dataclasses import fields
from typing import Any

import cloudpickle
import torch
from torch import nn
from torch.nn.utils import parametrize

from thetabox.deep_copy import add_extras, extras_of


def pickled(thing: Any) -> bytes:
    """As bytes; tensors that share memory share it on the other side too.

    Raises:
        Exception: whatever a part of it raises that cannot be pickled.
    """
    file = io.BytesIO()
    torch.save(thing, file, pickle_module=sys.modules[__name__])
    return file.getvalue()


def unpickled(data: bytes) -> Any:
    """What :func:`pickled` was given. Runs what the bytes say: for those of this program alone."""
    return torch.load(io.BytesIO(data), weights_only=False, pickle_module=pickle)


class OnlyFields:
    """Of a dataclass that makes more of its fields as it is asked: another process gets these and makes its own."""

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]  # a dataclass


class Pickler(cloudpickle.Pickler):
    """Cloudpickle's, for torch's operators too (by name), and parametrised modules, whose class is made at run time."""

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, torch._ops.OpOverload):
            return _operator, (thing._schema.name, thing._overloadname)
        if isinstance(thing, nn.Module) and parametrize.is_parametrized(thing):
            kind = parametrize.type_before_parametrizations(thing)
            return kind.__new__, (kind,), thing.__dict__, None, None, _parametrise
        # Wrappers of torch.compile and graphs of torch.fx say how they are made anew, and leave hooks out.
        if isinstance(thing, nn.Module) and (extras := extras_of(thing)):
            made = thing.__reduce_ex__(self.proto)
            if isinstance(made, tuple) and len(made) == 2:
                return *made, extras, None, None, add_extras
        return super().reducer_override(thing)


def _operator(name: str, overload: str) -> Any:
    namespace, _, short = name.partition("::")
    return getattr(getattr(getattr(torch.ops, namespace), short), overload)


def _parametrise(module: nn.Module, state: dict[str, Any]) -> None:
    """Give a module of the class before its parametrisations all that it had, and the class that computes with them."""
    module.__dict__.update(state)
    parametrize._inject_new_class(module)
    for name in module.parametrizations:  # type: ignore[union-attr]  # a ModuleDict
        parametrize._inject_property(module, name)
