"""What the code of a module keeps of its calls, by where it writes: forgotten, a copy must compute it anew.

A value that an earlier call computed of the weights, and that later calls read, does not move with them. No run shows
what it was computed of; a copy that has lost it does.
"""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, cached_property
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

# Methods that make a module, or put it together again.
MAKING = {"__init__", "__new__", "__post_init__", "__setstate__", "__deepcopy__", "__copy__", "reset_parameters"}
# Methods of containers and modules that keep what they are given.
KEEPING = {"append", "extend", "insert", "add", "update", "setdefault", "register_buffer", "setattr", "__setitem__"}
CONTAINERS = (dict, list, set)
# Packages whose classes keep nothing of a user's weights.
OTHERS = {"torch", "numpy", *sys.stdlib_module_names} - {"__main__"}
# What a module holds of torch's own accord.
OF_TORCH = set(vars(nn.Module()))
# What has attributes, and is no place where code keeps its results.
NO_STORES = (nn.Module, Tensor, type, ModuleType, FunctionType, MethodType)
# How a copy forgets, one way after the other until it runs: values become ``None``, containers empty, attributes are
# gone, or only what is no number becomes ``None``.
WAYS = ("none", "empty", "gone", "numbers stay")


def keeps(module: nn.Module) -> bool:
    """Whether a module or a part of it holds what its code may have kept of a call."""
    return any(kept(part) for part in module.modules())


def forget(module: nn.Module, way: str) -> None:
    """Take from a module and its parts what their code has kept."""
    for part in module.modules():
        for held, name in kept(part):
            _forget(held, name, way)


def kept(module: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Each with the dictionary that holds it: of the module, of its buffers, of an object that it holds."""
    written = _stored_by(type(module), vars(module))
    attributes = [(held, name) for held in (vars(module), module._buffers) for name in sorted(written)]
    for value in list(vars(module).values()):
        # Most are dictionaries of hooks, which may have attributes and have none.
        if getattr(value, "__dict__", None) and not isinstance(value, NO_STORES):
            names = written | _stored_by(type(value), vars(value))
            attributes += [(vars(value), name) for name in sorted(names)]
    return [(held, name) for held, name in attributes if held.get(name) is not None]


def _stored_by(kind: type, attributes: Mapping[str, Any]) -> set[str]:
    """Names of attributes that the code of a class may store to."""
    stored = set(_cached(kind))
    for code in _codes(kind):
        names, keeps = _written(code)
        stored |= names
        if keeps:
            # A container that the code names, an attribute or buffer of which it has the name.
            stored |= {name for name in code.co_names if isinstance(attributes.get(name), CONTAINERS)}
            stored |= {name for name in code.co_consts if isinstance(name, str)}
    return stored - OF_TORCH


def _forget(held: dict[str, Any], name: str, way: str) -> None:
    value = held[name]
    if isinstance(value, CONTAINERS) and way in ("empty", "numbers stay"):
        value.clear()
    elif isinstance(value, int | float) and way == "numbers stay":
        return
    elif way == "gone":
        del held[name]
    else:
        held[name] = None


def _of_users(kind: type) -> list[type]:
    """A class and its bases, those of torch and of Python's own left out."""
    return [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in OTHERS]


def _cached(kind: type) -> Iterator[str]:
    """Properties that keep their value in the attribute of their name."""
    for base in _of_users(kind):
        yield from (name for name, value in vars(base).items() if isinstance(value, cached_property))


def _codes(kind: type) -> Iterator[CodeType]:
    """Code of the methods of a class and its bases."""
    for base in _of_users(kind):
        for name, value in vars(base).items():
            function: Any = value.fget if isinstance(value, property) else value
            function = function.func if isinstance(function, cached_property) else function
            with suppress(Exception):  # objects of foreign kinds raise whatever they like
                function = inspect.unwrap(getattr(function, "__func__", function))
            if name not in MAKING and isinstance(function, FunctionType):
                yield from _nested(function.__code__)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


@cache
def _written(code: CodeType) -> tuple[frozenset[str], bool]:
    """Names of attributes that code stores to, and whether it may keep something in a container or a buffer."""
    names: set[str] = set()
    keeps = bool(KEEPING & {*code.co_names})
    with suppress(Exception):  # code of another interpreter
        for instruction in dis.get_instructions(code):
            if instruction.opname == "STORE_ATTR":
                names.add(str(instruction.argval))
            keeps |= instruction.opname in ("STORE_SUBSCR", "STORE_SLICE")
    return frozenset(names), keeps
