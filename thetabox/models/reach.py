"""What the code of a module can reach besides its own tensors: attributes, containers, closures, globals."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

# How many containers and objects deep an attribute is looked into.
DEPTH = 5
PLAIN = (str, bytes, int, float, type(None))


def reachable(model: nn.Module, *kinds: type) -> Iterator[tuple[str, Any]]:
    """What the model's code may reach though the model does not hold it, of some kinds, with how it is reached."""
    seen = {id(m) for m in model.modules()} | {id(t) for t in [*model.parameters(), *model.buffers()]}
    shared: dict[type, dict[str, Any]] = {}
    for path, module in model.named_modules():
        kind = type(module)
        if kind not in shared:
            shared[kind] = _class_values(kind)
        for name, value in {**shared[kind], **vars(module)}.items():
            # Most attributes of a module are numbers and empty dictionaries of hooks.
            nothing = isinstance(value, PLAIN) or (isinstance(value, dict) and not value)
            if not nothing and name not in ("_parameters", "_buffers", "_modules"):
                yield from _within(f"{path}.{name}".lstrip("."), value, kinds, seen, DEPTH)
        defined = next(vars(kind)["forward"] for kind in type(module).__mro__ if "forward" in vars(kind))
        forward = inspect.unwrap(defined) if callable(defined) else defined
        yield from _within(f"{path}.forward".lstrip("."), forward, kinds, seen, DEPTH)


def _class_values(kind: type) -> dict[str, Any]:
    """Attributes of a module's classes, those of torch's own left out."""
    attributes: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base is not object and not base.__module__.startswith("torch."):
            attributes |= {k: v for k, v in vars(base).items() if not k.startswith("__")}
    return attributes


def _within(where: str, value: Any, kinds: tuple[type, ...], seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, PLAIN) or id(value) in seen or depth < 0:
        return
    seen.add(id(value))
    if isinstance(value, kinds):
        yield where, value
    if isinstance(value, Tensor | type | nn.Module):
        return
    for name, part in _parts(value):
        yield from _within(f"{where}{name}", part, kinds, seen, depth - 1)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a container, a function or an object holds, with how it is reached."""
    if isinstance(value, Mapping):
        items = dict.items(value) if isinstance(value, dict) else value.items()
        yield from ((f"[{k!r}]", v) for k, v in list(items))
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
        with suppress(Exception):  # objects of foreign kinds raise whatever they like when they are looked into
            slots = [slot for kind in type(value).__mro__ for slot in getattr(kind, "__slots__", ())]
            held = {**getattr(value, "__dict__", {}), **{s: getattr(value, s) for s in slots if hasattr(value, s)}}
            yield from ((f".{k}", v) for k, v in held.items())
