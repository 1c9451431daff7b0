"""What the code of a module keeps outside of it: caches of functions, globals, closures, attributes of whatever those
name, its classes, functions, objects and Python modules among them.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from operator import is_
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

CONTAINERS = (dict, list, set, deque)
CACHED = functools._lru_cache_wrapper
# Functions that call functions are followed so deep.
DEPTH = 5
# Containers that hold more are no cache of a few weights; and how many things are looked at.
LARGEST, MOST = 10_000, 5_000
# Packages whose objects keep nothing of a user's weights, and those of Python's own that only hold what they are given.
FOREIGN = {"thetabox", "torch", "numpy", "abc", *sys.stdlib_module_names} - {
    "__main__",
    "_thread",
    "_weakref",
    "collections",
    "types",
    "weakref",
}
PLAIN = (str, bytes, bool, int, float, complex, type(None))
MISSING = object()


class Outside:
    """Remembers it when made, and puts back what a run has changed.

    Args:
        model: whose code is looked at: methods, forward and hooks that a user has written, and what they call.
    """

    def __init__(self, model: nn.Module) -> None:
        self._caches: dict[int, tuple[Any, Any]] = {}
        self._containers: dict[int, tuple[Any, Any]] = {}
        self._names: dict[tuple[int, str], tuple[dict[str, Any], str, Any]] = {}
        self._cells: dict[int, tuple[CellType, Any]] = {}
        self._attributes: dict[int, tuple[type, dict[str, Any]]] = {}
        self._slots: list[tuple[Any, str, Any]] = []
        # The parts of the network are remembered with it.
        self._seen: set[int] = {id(module) for module in model.modules()}
        for kind in {type(module) for module in model.modules()}:
            for base in kind.__mro__:
                self._class(base, DEPTH)
        for module in model.modules():
            for value in vars(module).values():
                if isinstance(value, FunctionType | MethodType | functools.partial | CACHED):
                    self._follow(value, DEPTH)
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                for hook in hooks.values():
                    self._follow(hook, DEPTH)

    def restore(self) -> None:
        """Put back names, attributes and the content of containers; forget what caches were given since."""
        for cached, before in self._caches.values():
            if cached.cache_info()[1:] != before[1:]:  # hits alone change nothing
                cached.cache_clear()
        for container, content in self._containers.values():
            put_back(container, content)
        for names, name, value in self._names.values():
            if names.get(name, MISSING) is not value:
                _set(names, name, value)
        for cell, value in self._cells.values():
            with suppress(ValueError):
                if cell.cell_contents is not value:
                    cell.cell_contents = value
        for thing, name, value in self._slots:
            with suppress(Exception):
                if getattr(thing, name, MISSING) is not value:
                    delattr(thing, name) if value is MISSING else setattr(thing, name, value)
        for kind, attributes in self._attributes.values():
            for name in {**attributes, **vars(kind)}:
                value = attributes.get(name, MISSING)
                if vars(kind).get(name, MISSING) is not value:
                    with suppress(AttributeError, TypeError):  # what Python itself keeps there
                        delattr(kind, name) if value is MISSING else setattr(kind, name, value)

    def _class(self, kind: type, depth: int) -> None:
        if id(kind) in self._seen or _foreign(kind):
            return
        self._seen.add(id(kind))
        self._attributes[id(kind)] = kind, dict(vars(kind))
        for value in vars(kind).values():
            self._follow(value, depth - 1)

    def _follow(self, value: Any, depth: int) -> None:
        """A function, a cache of one, a container, a class or an object, and whatever its code names."""
        if depth < 0 or id(value) in self._seen or len(self._seen) > MOST or isinstance(value, PLAIN):
            return
        if isinstance(value, type):
            self._class(value, depth)
            return
        if isinstance(value, CONTAINERS):
            self._container(value, depth)
            return
        self._seen.add(id(value))
        if isinstance(value, ModuleType):
            return
        if isinstance(value, ContextVar):
            with suppress(LookupError):
                self._follow(value.get(), depth - 1)
            return
        if isinstance(value, CACHED):
            self._caches[id(value)] = value, value.cache_info()
        for part in _functions(value):
            self._follow(part, depth)
        if isinstance(value, MethodType):
            self._follow(value.__self__, depth - 1)
        if isinstance(value, FunctionType) and not _foreign(value):
            self._function(value, depth)
        self._object(value, depth)

    def _object(self, value: Any, depth: int) -> None:
        """Attributes of an instance, of a function or of a tensor."""
        if not isinstance(value, Tensor | FunctionType) and _foreign(type(value)):
            return
        self._class(type(value), depth)
        for name in _slots(value):
            with suppress(Exception):  # objects of foreign kinds raise whatever they like when they are looked into
                self._slots.append((value, name, part := getattr(value, name, MISSING)))
                self._follow(part, depth - 1)
        with suppress(Exception):
            self._container(vars(value), depth)
            if isinstance(value, FunctionType) and value.__kwdefaults__:
                self._container(value.__kwdefaults__, depth)

    def _function(self, function: FunctionType, depth: int) -> None:
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # an empty cell
                self._cells[id(cell)] = cell, cell.cell_contents
                self._follow(cell.cell_contents, depth - 1)
        named = _named(function.__code__)
        for names in self._namespaces(function.__globals__, named):
            for name in named:
                value = names.get(name, MISSING)
                self._names[id(names), name] = names, name, value
                self._follow(value, depth - 1)
        for value in function.__defaults__ or ():
            self._follow(value, depth - 1)

    def _namespaces(self, names: dict[str, Any], named: set[str]) -> Iterator[dict[str, Any]]:
        """Of the code itself, and of the Python modules that it names, one inside another."""
        yield names
        todo = [value for name in named for value in (names.get(name), sys.modules.get(name))]
        entered: set[int] = set()
        while todo:
            value = todo.pop()
            if isinstance(value, ModuleType) and id(value) not in entered:
                entered.add(id(value))
                yield vars(value)
                if value.__name__.partition(".")[0] not in FOREIGN:
                    todo += [vars(value).get(name) for name in named]

    def _container(self, value: Any, depth: int) -> None:
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if len(value) > LARGEST:
            return
        self._containers[id(value)] = value, content_of(value)
        for part in list(dict.values(value)) if isinstance(value, dict) else list(value):
            self._follow(part, depth if isinstance(part, CONTAINERS) else depth - 1)


def _slots(value: Any) -> list[str]:
    """Names of the attributes that a class keeps outside of a dictionary."""
    names: list[str] = []
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        names += (slots,) if isinstance(slots, str) else slots
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _functions(value: Any) -> Iterator[Callable[..., Any]]:
    """What a wrapper of functions wraps."""
    if isinstance(value, functools.partial):
        yield value.func
    elif isinstance(value, MethodType | staticmethod | classmethod):
        yield value.__func__
    elif isinstance(value, property):
        yield from (f for f in (value.fget, value.fset) if f is not None)
    elif isinstance(value, functools.cached_property):
        yield value.func
    with suppress(Exception):  # objects of foreign kinds raise whatever they like when they are looked into
        if callable(value) and "__wrapped__" in vars(value):
            yield value.__wrapped__


def _named(code: CodeType) -> set[str]:
    """Names that code reads or writes, that of functions inside it included."""
    inner = (_named(part) for part in code.co_consts if isinstance(part, CodeType))
    return {*code.co_names}.union(*inner)


def _foreign(value: Any) -> bool:
    """Whether code is ours, torch's or Python's, which keeps nothing of a user's weights."""
    return str(getattr(value, "__module__", "")).partition(".")[0] in FOREIGN


def _set(names: dict[str, Any], name: str, value: Any) -> None:
    if value is MISSING:
        names.pop(name, None)
    else:
        names[name] = value


def content_of(container: Any) -> Any:
    """What stands in a container, of a plain kind: what a subclass makes of a copy is its own affair."""
    if isinstance(container, dict):
        return dict(dict.items(container))
    return set(container) if isinstance(container, set) else list(container)


def put_back(container: Any, content: Any) -> None:
    """Restore a container's content, unless it holds the very same things."""
    if isinstance(container, dict):  # by the methods of the kind itself: a subclass may have keys called so
        same = dict.__len__(container) == len(content)
        same = same and all(map(is_, dict.keys(container), content))
        if not (same and all(map(is_, dict.values(container), content.values()))):
            dict.clear(container)
            dict.update(container, content)
        return
    same = len(container) == len(content)
    same = same and (container == content if isinstance(container, set) else all(map(is_, container, content)))
    if not same:
        container.clear()
        container.extend(content) if isinstance(content, list) else container.update(content)


@contextmanager
def plain_parametrizations() -> Iterator[None]:
    """Inside, weights of a parametrisation are computed anew; those that torch keeps (``cached()``) do not move."""
    enabled, parametrize._cache_enabled = parametrize._cache_enabled, 0
    try:
        yield
    finally:
        parametrize._cache_enabled = enabled
