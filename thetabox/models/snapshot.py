"""What a module holds besides the numbers of its tensors, so that it can be put back after a run."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from thetabox.models.outside import CONTAINERS, Outside, content_of, put_back

PLAIN = (str, bytes, int, float, complex, type(None))
# How many containers and objects are looked at: an attribute may lead to a whole program.
MOST = 100_000


class Snapshot:
    """Attributes of a module and of the objects that it reaches, and what stands in containers, however deep.

    What its code keeps outside of it goes with them (:class:`.Outside`).

    Args:
        model: whose parts are remembered; its parameters and buffers by identity and memory, not by their numbers.
        numbers: also the numbers of other tensors, which no twin protects while a program is exported.
    """

    def __init__(self, model: nn.Module, *, numbers: bool = False) -> None:
        self._numbers: list[tuple[Tensor, Tensor]] | None = [] if numbers else None
        self._containers: list[tuple[Any, Any]] = []
        self._filled: list[tuple[Any, Any]] = []
        self._empty: list[Any] = []
        self._slots: list[tuple[Any, str, Any]] = []
        self._generators: list[tuple[torch.Generator, Tensor]] = []
        tensors = [t for t in [*model.parameters(), *model.buffers()] if not is_lazy(t)]
        self._memory = [(t, t.data, _layout(t)) for t in tensors]
        self._outside = Outside(model)
        seen = {id(t) for t in tensors}
        todo: list[Any] = [*model.modules(), *(t.__dict__ for t in tensors)]
        while todo and len(seen) < MOST:
            thing = todo.pop()
            if isinstance(thing, PLAIN) or id(thing) in seen:
                continue
            seen.add(id(thing))
            todo += self._entered(thing)

    def _entered(self, thing: Any) -> list[Any]:
        """Remember one object, or what stands in it; returns what it holds."""
        if isinstance(thing, CONTAINERS):
            self._remember(thing, content := content_of(thing))
            return list(content.values() if isinstance(content, dict) else content)
        if isinstance(thing, tuple):
            return list(thing)
        if isinstance(thing, Tensor) and self._numbers is not None and thing.layout == torch.strided:
            self._numbers.append((thing, thing.detach().clone()))
        if isinstance(thing, torch.Generator):
            self._generators.append((thing, thing.get_state()))
        if isinstance(thing, Tensor | type) or inspect.ismodule(thing) or inspect.isroutine(thing):
            return []
        held: list[Any] = []
        attributes = getattr(thing, "__dict__", None)
        if isinstance(attributes, dict):
            self._remember(attributes, content := content_of(attributes))
            held += content.values()
        for kind in type(thing).__mro__:
            slots = vars(kind).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                with suppress(Exception):  # objects of foreign kinds raise whatever they like
                    value = getattr(thing, name)
                    self._slots.append((thing, name, value))
                    held.append(value)
        return held

    def _remember(self, container: Any, content: Any) -> None:
        self._containers.append((container, content))
        if content:
            self._filled.append((container, content))
        else:
            self._empty.append(container)

    def restore(self) -> None:
        """Put everything back that is no longer as it was."""
        # Most are dictionaries without hooks, and stay so.
        for container, content in self._containers if any(map(len, self._empty)) else self._filled:
            put_back(container, content)
        self._outside.restore()
        for thing, name, value in self._slots:
            with suppress(Exception):
                if getattr(thing, name, None) is not value:
                    setattr(thing, name, value)
        for generator, state in self._generators:
            generator.set_state(state)
        for t, data, layout in self._memory:
            if _layout(t) != layout:
                t.data = data
        for t, value in self._numbers or ():
            if not t.is_meta and not torch.equal(t.detach(), value):
                with torch.no_grad():
                    t.detach().copy_(value)


def _layout(t: Tensor) -> tuple[Any, ...]:
    return t.data_ptr(), t.dtype, t.shape, t.stride()
