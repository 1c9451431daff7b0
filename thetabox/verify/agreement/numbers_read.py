"""Numbers of weights that Python reads, whatever way it reaches them: what is computed with them no trace shows.

A trace hands the code stand-ins for parameters, which have no numbers; but a parameter that the code reaches by a list,
a closure or a view has its own, and a branch that asks for one is traced as it goes at the weights as they are. A few
points of the box do not show where it goes elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from thetabox.errors import InputError
from thetabox.models.calls import Calls
from thetabox.models.memory import storage_key
from thetabox.models.recurrent import called
from thetabox.models.running import Running
from thetabox.models.twins import Twins, asks

INPUTS = ""
"""Stands among the names of parameters for the inputs."""
LISTS = "tolist"
"""How Python reads numbers past all operators."""


def check_numbers_read(run: Running, boxed: Iterable[str], x: Tensor, functions: Iterable[str]) -> None:
    """Refuse code that asks for numbers computed of parameters of the box alone.

    Of numbers that follow from the inputs as well a trace is not made, or not made of that part of the code.

    Args:
        run: of the module, at its own weights.
        boxed: names of the parameters.
        x: a few inputs.
        functions: names of what the code has called in runs before.

    Raises:
        InputError: it does.
    """
    if not run.twins.asked_any and LISTS not in functions:
        return
    x = run.inputs(x)
    sources = _Sources(run.tensors, boxed, x, wide=run.wide)
    with suppress(Exception), sources, Calls(sources, recording=False), _Lists(sources):  # or it fails as it has before
        copy_context().run(called, run.model, x)
    run.forget()
    if sources.read:
        names = ", ".join(sorted(sources.read)[:3])
        raise InputError(
            f"the network's code asks for numbers of {names} (item(), tolist(), a condition, a shape that follows from "
            "them), which the box moves, and computes with them in Python, which no bounds follow; compute with the "
            "tensor, or exclude it"
        )


class _Sources(Twins):
    """Twins that know of which parameters of the box, and whether of the inputs, their numbers are.

    Attributes:
        read: parameters of whose numbers alone Python has read some.
    """

    def __init__(self, tensors: Mapping[str, Tensor], boxed: Iterable[str], x: Tensor, *, wide: bool) -> None:
        self.read: set[str] = set()
        self._of: dict[int, frozenset[str]] = {}
        for name, t in [*((name, tensors[name]) for name in boxed), (INPUTS, x)]:
            if (at := storage_key(t)) is not None:
                self._of[at[0]] = self._of.get(at[0], frozenset()) | {name}
        super().__init__(tensors.values(), wide=wide)

    def of(self, operands: Any) -> frozenset[str]:
        """Of what the numbers of some tensors are."""
        names: frozenset[str] = frozenset()
        for t in pytree.tree_leaves(operands):
            at = storage_key(self.twin(t)) if isinstance(t, Tensor) else None
            names |= frozenset() if at is None else self._of.get(at[0], frozenset())
        return names

    def note(self, names: frozenset[str]) -> None:
        """Python reads numbers that are of these."""
        if INPUTS not in names:
            self.read |= names

    def _enter(self, t: Tensor) -> tuple[Tensor, Tensor] | None:
        held = super()._enter(t)
        if held is not None and (at := storage_key(t)) is not None and at[0] in self._of:
            self._of.setdefault(held[1].untyped_storage().data_ptr(), self._of[at[0]])
        return held

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = self.of((args, kwargs))
        if asks(func, args):
            self.note(names)
        result = super().__torch_dispatch__(func, types, args, kwargs)
        operands = {at[0] for t in pytree.tree_leaves((args, kwargs)) if (at := _place(self, t)) is not None}
        for t in pytree.tree_leaves(result):
            if (at := storage_key(t) if isinstance(t, Tensor) else None) is not None:
                # Memory of an operand holds what it held and what was written; else it is new, whatever it was before.
                self._of[at[0]] = names | (self._of.get(at[0], frozenset()) if at[0] in operands else frozenset())
        return result


def _place(twins: Twins, t: Any) -> tuple[int, torch.dtype] | None:
    return storage_key(twins.twin(t)) if isinstance(t, Tensor) else None


class _Lists(TorchFunctionMode):
    """Notes what Python reads past all operators."""

    def __init__(self, sources: _Sources) -> None:
        super().__init__()
        self._sources = sources

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == LISTS:
            with _disable_current_modes():
                self._sources.note(self._sources.of(args))
        return func(*args, **(kwargs or {}))
