"""Numbers of weights that Python reads, whatever way it reaches them: what is computed with them no trace shows.

A trace hands the code stand-ins for parameters, which have no numbers; but a parameter that the code reaches by a list,
a closure or a view has its own, and a branch that asks for one is traced as it goes at the weights as they are. A few
points of the box do not show where it goes elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from thetabox.errors import InputError
from thetabox.models.calls import Calls
from thetabox.models.memory import storage_key
from thetabox.models.recurrent import called
from thetabox.models.running import MODES, Running
from thetabox.models.twins import Twins, asks

INPUTS = ""
"""Stands among the names of parameters for the inputs."""
LISTS = "tolist"
"""How Python reads numbers past all operators."""


def may_read(run: Running, functions: Iterable[str]) -> bool:
    """Whether Python may have read numbers in runs before; ``functions`` are names of what the code has called."""
    return run.twins.asked_any or LISTS in functions


def check_numbers_read(run: Running, boxed: Sequence[str], batches: Iterable[tuple[Tensor, str]]) -> None:
    """Refuse code that asks for numbers computed of parameters of the box alone.

    Of numbers that follow from the inputs as well a trace is not made, or not made of that part of the code.

    Args:
        run: of the module, at its own weights.
        boxed: names of the parameters.
        batches: a few inputs, and the mode of torch, for every way that the code takes.

    Raises:
        InputError: it does.
    """
    for x, mode in batches:
        run.forget()  # what a run before has kept would not be asked for
        refuse_read(numbers_read(run.model, run.tensors, boxed, run.inputs(x), mode=mode, wide=run.wide))
    run.forget()


def numbers_read(
    model: nn.Module, tensors: Mapping[str, Tensor], boxed: Iterable[str], x: Tensor, *, mode: str, wide: bool
) -> set[str]:
    """Parameters of whose numbers alone Python reads some in a call.

    Args:
        model: or a copy of it, whose tensors are the named ones.
        tensors: by name.
        boxed: names of those that are asked about.
        x: a few inputs.
        mode: of torch.
        wide: in float64.
    """
    sources = _Sources(tensors, boxed, x, wide=wide)
    # A network that fails here has failed before, which was said or is no way that it takes.
    with suppress(Exception), MODES[mode](), sources, Calls(sources, recording=False), _Lists(sources):
        copy_context().run(called, model, x)
    return sources.read


def refuse_read(names: Iterable[str]) -> None:
    """Raise InputError if there are any."""
    if listed := ", ".join(sorted(names)[:3]):
        raise InputError(
            f"the network's code asks for numbers of {listed} (item(), tolist(), a condition, a shape that "
            "follows from them), which the box moves, and computes with them in Python, which no bounds follow; "
            "compute with the tensor, or exclude it"
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
        at = storage_key(t)
        new = at is not None and at not in self._flat
        held = super()._enter(t)
        if held is not None and at is not None and new:
            self._of[held[1].untyped_storage().data_ptr()] = self._of.get(at[0], frozenset())
        return held

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = self.of((args, kwargs))
        if asks(func, args):
            self.note(names)
        result = super().__torch_dispatch__(func, types, args, kwargs)
        for t in pytree.tree_leaves(result):
            if (at := storage_key(t) if isinstance(t, Tensor) else None) is not None:
                # Also of memory that a result of before had; what an operand in it held is among the names.
                self._of[at[0]] = names
        return result


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
