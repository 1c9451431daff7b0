"""Runs of a network on twins of its tensors: moved to other values, or held in double precision, nothing copied.

A copy of a module is another program: what a closure, a module global or a list outside of it holds is not copied with
it. Here the module itself runs, and below its Python code every operator that is handed a tensor of the network is
handed the twin of that tensor instead, found by the memory it lies in. So a weight is the same weight by whatever way
the code reads it, no caller's tensor is ever written to, and nothing of the process (its default dtype) is changed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from thetabox.errors import InputError
from thetabox.models.compiled import nothing_compiled
from thetabox.models.interrupts import interrupts_wait
from thetabox.models.memory import storage_key, whole
from thetabox.models.outside import plain_parametrizations
from thetabox.models.snapshot import Snapshot

SEQUENCES = (tuple, list)
NARROW = (torch.float32, torch.float16, torch.bfloat16)
# How Python reads numbers of tensors: by ``item()``, in a condition, or comparing two.
ASKING = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default, torch.ops.aten.is_nonzero.default)
# Operators by whose result, or its shape, Python learns numbers; an index does so where it is a mask.
TELLING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
RUNNING = RLock()
"""Held while a caller's module runs or its weights are read: its mode, attributes and, while a program is exported, its
parameters are changed for that time, and put back."""


class ModeChangesWeights(InputError):
    """A change of mode that a network defines by itself is more than that."""


class Twins(TorchDispatchMode):
    """Every operator inside reads and writes twins of the given tensors.

    Args:
        tensors: what has a twin from the beginning; whatever shares its memory shares the twin's.
        wide: float64 throughout: other tensors of less precision are widened as they are met, literals are exact, and
            a cast to float32 is none.
    """

    def __init__(self, tensors: Iterable[Tensor], *, wide: bool = True) -> None:
        super().__init__()
        self.wide = wide
        # Storage and dtype → the whole of it; a view on the original keeps its address from being used again.
        self._flat: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] = {}
        # Types of what has one: of most results that alone tells that they have none.
        self._types: set[torch.dtype] = set()
        # Memory of twins and of results: to be written to as it is.
        self._made: set[int] = set()
        # Whether Python has asked for a number that was computed, or for any.
        self.asked = self.asked_any = False
        for t in tensors:
            self._enter(t)

    def twin(self, t: Tensor) -> Tensor:
        """The twin of a tensor that has one, else the tensor."""
        if t.dtype not in self._types and not self._widens(t.dtype):
            return t
        key = storage_key(t)
        held = None if key is None else self._flat.get(key)
        if held is None:
            if not self._widens(t.dtype):  # nearly every operand that is no weight is a result
                return t
            held = self._enter(t)
        if held is None:
            return t if t.numel() else t.double()
        twin = held[1].as_strided(t.shape, t.stride(), t.storage_offset())
        if t.is_neg():
            twin = torch._neg_view(twin)
        return twin.conj() if t.is_conj() else twin

    def let_go(self, t: Tensor) -> None:
        """The twin of a tensor is forgotten: what is met next is as it stands there."""
        key = storage_key(t)
        if key is not None:
            self._flat.pop(key, None)

    def _enter(self, t: Tensor) -> tuple[Tensor, Tensor] | None:
        key = storage_key(t)
        if key is None:
            return None
        if key not in self._flat:
            with torch.no_grad():
                base = whole(t)
                twin = base.double() if self._widens(t.dtype) else base.clone()
                self._flat[key] = base, twin
                self._types.add(t.dtype)
                self._made.add(twin.untyped_storage().data_ptr())
        return self._flat[key]

    def _widens(self, dtype: torch.dtype) -> bool:
        return self.wide and dtype in NARROW

    def twins(self, value: Any) -> Any:
        """An operand, or several, with the twins of tensors."""
        if isinstance(value, Tensor):
            return self.twin(value)
        if isinstance(value, SEQUENCES) and any(isinstance(v, Tensor) for v in value):
            return type(value)(self.twins(v) for v in value)
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _tells(func) and asks(func, args):
            self.asked_any = True
            if func in ASKING and any(_storage_keys(a) & self._made for a in args):
                self.asked = True
        if _writes(func):
            for t in _written(func, args, kwargs):
                # A tensor that the module merely reaches is the caller's as much as its weights are.
                if (at := storage_key(t)) is not None and at[0] not in self._made:
                    self._enter(t)
        # A call costs as much as a small operator, so a tensor is not asked twice what it is.
        args = [
            self.twin(a) if isinstance(a, Tensor) else self.twins(a) if isinstance(a, SEQUENCES) else a for a in args
        ]
        if kwargs:
            kwargs = {k: self.twins(v) for k, v in kwargs.items()}
        result = widely(func, args, kwargs) if self.wide else func(*args, **kwargs)
        if type(result) is not Tensor:
            made = _storage_keys(result) - self._made
            self._made |= made - _storage_keys((*args, *kwargs.values()))
            return result
        at = storage_key(result)
        # In memory that is known, as most are once the code runs again; else of its own, or of an operand.
        if at is not None and at[0] not in self._made and at[0] not in _storage_keys((*args, *kwargs.values())):
            self._made.add(at[0])
        return result


def asks(operator: Any, args: Sequence[Any]) -> bool:
    """Whether an operator tells Python numbers of its operands."""
    if operator is torch.ops.aten.index.Tensor:
        return any(isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8) for t in args[1])
    return _tells(operator)


@functools.cache
def _tells(operator: Any) -> bool:
    return not TELLING.isdisjoint(getattr(operator, "tags", ()))


def _written(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """Operands that an operator writes to."""
    for index, name in _writes(operator):
        value = kwargs.get(name, args[index] if index < len(args) else None)
        yield from (t for t in pytree.tree_leaves(value) if isinstance(t, Tensor))


@functools.cache
def _writes(operator: Any) -> tuple[tuple[int, str], ...]:
    """Places and names of the arguments that an operator writes to."""
    arguments = enumerate(operator._schema.arguments if hasattr(operator, "_schema") else ())
    return tuple((index, a.name) for index, a in arguments if a.alias_info is not None and a.alias_info.is_write)


def _storage_keys(values: Any) -> set[int]:
    """Addresses of the memory that tensors lie in."""
    addresses: set[int] = set()
    for value in values if isinstance(values, SEQUENCES) else (values,):
        if isinstance(value, Tensor):
            if (at := storage_key(value)) is not None:
                addresses.add(at[0])
        elif isinstance(value, SEQUENCES):
            addresses |= _storage_keys(value)
    return addresses


def widely(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The operator's result where every number is float64: operands are already, dtypes and new tensors become so."""
    args = [_wide(a) if type(a) is torch.dtype else a for a in args]
    if kwargs:
        kwargs = {k: _wide(v) for k, v in kwargs.items()}
    result = operator(*args, **kwargs)
    if isinstance(result, Tensor):
        if result.dtype not in NARROW:
            return result
        schema = getattr(operator, "_schema", None)
        chooses = schema is not None and any(a.name == "dtype" for a in schema.arguments)
        if chooses and not any(isinstance(a, Tensor) for a in args):
            # A new tensor of the default dtype: a literal in it is the number that was written.
            return operator(*args, **{**kwargs, "dtype": torch.float64})
        return _of_whole(operator, args, kwargs, result)
    if type(result) is tuple and not any(isinstance(part, SEQUENCES) for part in result):
        return tuple(_double(part) for part in result)
    return pytree.tree_map(_double, result)


def _wide(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in NARROW else value


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.dtype in NARROW else value


def _of_whole(operator: Any, args: list[Any], kwargs: Mapping[str, Any], result: Tensor) -> Tensor:
    """A result in float64; of whole numbers and truth values alone it is computed anew, for torch rounded it."""
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if not tensors or any(t.is_floating_point() or t.is_complex() for t in tensors):
        return result.double()
    for kept in ((), (torch.bool,)):  # truth values are numbers to most operators, and conditions to some

        def wide(t: Tensor, kept: tuple[torch.dtype, ...] = kept) -> Tensor:
            return t if t.dtype in kept else t.double()

        try:
            recomputed = operator(
                *pytree.tree_map_only(Tensor, wide, args), **pytree.tree_map_only(Tensor, wide, kwargs)
            )
        except (RuntimeError, TypeError):
            continue
        if isinstance(recomputed, Tensor) and recomputed.dtype is torch.float64 and recomputed.shape == result.shape:
            return recomputed
    return result.double()


@contextmanager
def untouched(model: nn.Module, *, numbers: bool = False) -> Iterator[Snapshot]:
    """The model in evaluation mode inside; afterwards every attribute of every module is what it was.

    A network may keep activations, count its calls, or write weights into attributes while it runs. What is handed over
    puts all of that back to how a run finds it.

    Args:
        model: the network.
        numbers: also of tensors that it merely reaches, for what runs without twins.
    """
    with RUNNING, nothing_compiled(), plain_parametrizations():
        changed = [(m, m.training) for m in model.modules() if getattr(m, "training", False)]
        # A change of mode that a network defines by itself may do anything.
        before = Snapshot(model, numbers=numbers) if any(_overrides_mode(m) for m, _ in changed) else None
        stored = _stored(model) if before else []
        try:
            if before:
                model.eval()
                _check_same(stored)
            else:
                for module, _ in changed:
                    _set_mode(module, False)
            inside = Snapshot(model, numbers=numbers)
            try:
                yield inside
            finally:
                with interrupts_wait(), torch.no_grad():
                    inside.restore()
        finally:
            with interrupts_wait(), torch.no_grad():
                if before:
                    before.restore()
                    for tensor, value in stored:
                        tensor.data.copy_(value)
                else:
                    for module, mode in changed:
                        _set_mode(module, mode)


def _set_mode(module: nn.Module, mode: Any) -> None:
    if "training" in vars(module):  # whatever its class does where an attribute is set
        vars(module)["training"] = mode
    else:
        module.training = mode


def _check_same(stored: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Refuse a change of mode that changes weights: it is not clear which of the two are to be certified.

    Raises:
        ModeChangesWeights: it does.
    """
    same = (torch.allclose(tensor.detach(), value, rtol=0.0, atol=0.0, equal_nan=True) for tensor, value in stored)
    if not all(same):
        raise ModeChangesWeights(
            "the network's eval() changes its weights, so which are meant is open; call eval() before"
        )


def _overrides_mode(module: nn.Module) -> bool:
    kind = type(module)
    overrides = kind.train is not nn.Module.train or kind.eval is not nn.Module.eval or "training" not in vars(module)
    return overrides and not isinstance(module, torch.jit.ScriptModule)


def _stored(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """A change of mode that a network defines by itself may write to its weights."""
    return [(t, t.detach().clone()) for t in [*model.parameters(), *model.buffers()]]
