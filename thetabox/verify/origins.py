"""Where the tensors come from that a trace lifts out of a module's code.

A parameter that the code reads by another way than by its name (out of a list, a dictionary, a closure, as a view made
earlier) is lifted as a constant. It lies in the same memory, and by that it is known again.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.models.twins import place
from thetabox.models.views import View, places_in, view_on

# How many containers and objects deep an attribute is looked into, to name what stands there.
DEPTH = 5


def view_of(model: nn.Module, constant: Tensor) -> View | None:
    """The parameter or buffer of the model that the constant is a view of, if there is one.

    Raises:
        InputError: it covers more than one tensor, or belongs to a layer or a trainable tensor that the model does
            not know.
    """
    address = place(constant)
    if address is None:
        return None
    overlaps = []
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        if place(t) == address:
            view = view_on(name, t, constant)
            if view is not None:
                return view
            overlaps.append((name, bool((places_in(t, constant) >= 0).any())))
    if any(some for _, some in overlaps):
        raise InputError(
            f"the network reads the memory of {next(n for n, some in overlaps if some)} through a tensor that reaches "
            "beyond it, which has no bounds; read the parameters themselves"
        )
    _check_known(model, constant, address)
    return None


def _check_known(model: nn.Module, constant: Tensor, address: tuple[int, torch.dtype]) -> None:
    """Raise for a weight that the model does not know: nothing would be perturbed."""
    if not constant.is_floating_point():
        return
    for where, thing in _reachable(model):
        if isinstance(thing, nn.Module):
            for name, t in [*thing.named_parameters(), *thing.named_buffers()]:
                if place(t) == address:
                    raise InputError(
                        f"the network uses the layer {where} ({type(thing).__name__}), whose {name} is no parameter "
                        "of it, so it would be taken as exact; register the layer (nn.ModuleList, nn.ModuleDict, or "
                        "as an attribute of the module)"
                    )
        elif place(thing) == address:
            raise InputError(
                f"the network uses {where}, a trainable tensor that is no parameter of it, so it would be taken as "
                "exact; register it (nn.ParameterList, nn.ParameterDict, or as an attribute of the module)"
            )


def _reachable(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Layers and trainable tensors that the model's code may reach, though the model does not hold them."""
    known = {id(m) for m in model.modules()} | {id(t) for t in [*model.parameters(), *model.buffers()]}
    seen = set(known)
    for path, module in model.named_modules():
        for name, value in {**_class_values(type(module)), **vars(module)}.items():
            if name not in ("_parameters", "_buffers", "_modules"):
                yield from _within(f"{path}.{name}".lstrip("."), value, seen, DEPTH)
        forward = inspect.unwrap(type(module).forward)
        yield from _within(f"{path}.forward".lstrip("."), forward, seen, DEPTH)


def _class_values(kind: type) -> dict[str, Any]:
    """Attributes of a module's classes, those of torch's own left out."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base is not object and not base.__module__.startswith("torch."):
            found |= {k: v for k, v in vars(base).items() if not k.startswith("__")}
    return found


def _within(where: str, value: Any, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if id(value) in seen or depth < 0 or isinstance(value, str | bytes | int | float | type(None)):
        return
    seen.add(id(value))
    if isinstance(value, nn.Module) or (isinstance(value, Tensor) and (value.requires_grad or _is_parameter(value))):
        yield where, value
        return
    if isinstance(value, Tensor | type):
        return
    for name, part in _parts(value):
        yield from _within(f"{where}{name}", part, seen, depth - 1)


def _is_parameter(value: Tensor) -> bool:
    return isinstance(value, nn.Parameter)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a container, a function or an object holds, with how it is reached."""
    if isinstance(value, Mapping):
        yield from ((f"[{k!r}]", v) for k, v in list(value.items()))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{i}]", v) for i, v in enumerate(value))
    elif isinstance(value, functools.partial):
        yield from ((f" (argument {i})", v) for i, v in [*enumerate(value.args), *value.keywords.items()])
        yield " (function)", value.func
    elif isinstance(value, MethodType):
        yield "", value.__func__
        yield " (self)", value.__self__
    elif isinstance(value, FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                yield f" (closure of {name})", cell.cell_contents
            except ValueError:  # an empty cell
                continue
        yield from ((f" (global {n})", value.__globals__[n]) for n in value.__code__.co_names if n in value.__globals__)
        yield from ((f" (default {i})", v) for i, v in enumerate(value.__defaults__ or ()))
    elif not inspect.ismodule(value):
        yield from ((f".{k}", v) for k, v in vars(value).items()) if hasattr(value, "__dict__") else ()
        for slot in getattr(type(value), "__slots__", ()):
            if hasattr(value, slot):
                yield f".{slot}", getattr(value, slot)
