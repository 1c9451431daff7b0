"""A network whose own weights are written to: in a copy in double precision, or in itself for a while.

A run on twins (:mod:`.twins`) sees what the code hands to operators. What a cache compares (the version of a tensor),
Python makes of the numbers or another thread computes lies outside of it; here the weights are really other ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from thetabox.deep_copy import deep_copy
from thetabox.models.forgetting import forget
from thetabox.models.interrupts import interrupts_wait
from thetabox.models.memory import named_tensors, storage_key, whole, write
from thetabox.models.reach import reachable
from thetabox.models.recurrent import called
from thetabox.models.twins import NARROW, Twins, untouched


class Unfaithful(Exception):
    """The copy is another program: it reads what is no part of the network, or cannot be made or run."""


class Replica:
    """A deep copy in evaluation mode; tensors that share memory in the network share it in the copy.

    Args:
        model: stays as it is.
        held: its tensors and those that its code reaches.

    Raises:
        Unfaithful: some part of it cannot be copied.
    """

    def __init__(self, model: nn.Module, held: Iterable[Tensor]) -> None:
        _check_ordinary(model)
        memo: dict[int, Any] = {}
        self._originals: set[int] = set()
        for t, original in _elsewhere(held, wide=True):
            memo[id(t)] = nn.Parameter(original, t.requires_grad) if isinstance(t, nn.Parameter) else original
            self._originals.add(t.untyped_storage().data_ptr())
        # Most attributes of modules are dictionaries of hooks that they have not, over which copying takes its time.
        for attribute in (value for module in model.modules() for value in vars(module).values()):
            if type(attribute) in (dict, OrderedDict) and not attribute:
                memo[id(attribute)] = type(attribute)()
        try:
            self.copy = deep_copy(model, memo)
        except Exception as error:  # whatever cannot be copied says so in its own way
            raise Unfaithful from error
        if not isinstance(self.copy, nn.Module):
            raise Unfaithful
        for module in self.copy.modules():
            if getattr(module, "training", False):
                module.training = False
        self._own, self._tensors = named_tensors(model), named_tensors(self.copy)
        if not all(_apart(t, self._tensors.get(name)) for name, t in self._own.items()):
            raise Unfaithful
        # The memo keeps what it was given alive.
        self._memo = memo

    def move(self, values: Mapping[str, Tensor]) -> None:
        """Write parameters by name; their versions are then above those of the network's own."""
        for name, value in values.items():
            original, held = self._own[name], self._tensors[name]
            write(held, value)
            if held._version <= original._version:
                torch._C._autograd._unsafe_set_version_counter((held,), (original._version + 1,))

    def forget(self, way: str) -> None:
        """Lose what earlier calls may have kept in the module (:mod:`.forgetting`)."""
        forget(self.copy, way)

    def __call__(self, x: Shaped[Tensor, "samples ..."]) -> Tensor:
        """What the copy returns for inputs in double precision, in float64 on the CPU.

        Raises:
            Unfaithful: it reads a tensor of the network itself, or fails.
        """
        return _returned(self.copy, _widened(x), _Watch(self._originals, wide=True))


class Swapped:
    """The network itself, with its tensors in other memory; made by :func:`swapped`."""

    def __init__(self, model: nn.Module, originals: set[int]) -> None:
        self._model, self._originals = model, originals

    def move(self, values: Mapping[str, Tensor]) -> None:
        """Write parameters by name."""
        held = named_tensors(self._model)
        for name, value in values.items():
            if value.numel():  # what is empty has no memory elsewhere
                write(held[name], value.to(held[name].dtype))

    def __call__(self, x: Shaped[Tensor, "samples ..."]) -> Tensor:
        """What the network returns in its own precision, as float64 on the CPU.

        Raises:
            Unfaithful: it reads what could not be put elsewhere, or fails.
        """
        return _returned(self._model, x.clone(), _Watch(self._originals, wide=False))


@contextmanager
def swapped(model: nn.Module) -> Iterator[Swapped]:
    """The tensors of a network in other memory, which may be written to; inside, other threads see it too.

    What no copy is: a network that reads its weights through closures, or holds a lock. The tensors are the same
    objects, so that whoever holds one sees the other numbers; their own memory is never written to, and they have it
    again afterwards.

    Raises:
        Unfaithful: some tensor cannot be put elsewhere.
    """
    _check_ordinary(model)
    with untouched(model), torch.no_grad():
        held = [*model.parameters(), *model.buffers(), *(t for _, t in reachable(model, Tensor))]
        moved = list(_elsewhere(held, wide=False))
        # Aliases: a version belongs to the tensor, and ends with the memory that it had meanwhile.
        kept = [(t, t.data, t._version) for t, _ in moved]
        originals = {t.untyped_storage().data_ptr() for t, _ in moved}
        try:
            try:
                for t, original in moved:
                    t.data = original
            except (RuntimeError, TypeError) as error:
                raise Unfaithful from error
            yield Swapped(model, originals)
        finally:
            with interrupts_wait():
                for t, data, version in kept:
                    if t.data_ptr() != data.data_ptr():  # one that refuses other memory has its own still
                        t.data = data
                    torch._C._autograd._unsafe_set_version_counter((t,), (version,))


def _check_ordinary(model: nn.Module) -> None:
    if torch.is_inference_mode_enabled() or any(t.is_inference() for t in named_tensors(model).values()):
        raise Unfaithful  # such tensors have no version
    compiled = [module for module in model.modules() if isinstance(module, torch.jit.ScriptModule)]
    if any(True for module in compiled for _ in [*module.parameters(), *module.buffers()]):
        raise Unfaithful  # compiled code keeps its weights to itself


def _apart(original: Tensor, copied: Tensor | None) -> bool:
    """Whether a tensor of a copy is of the same form, in memory of its own."""
    return (
        copied is not None
        and copied.shape == original.shape
        and (storage_key(original) is None or storage_key(copied) != storage_key(original))
    )


def _elsewhere(held: Iterable[Tensor], *, wide: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Tensors, with the same numbers in other memory, shared as theirs."""
    stores: dict[tuple[int, torch.dtype], Tensor] = {}
    seen: set[int] = set()
    for t in held:
        at = storage_key(t)
        if at is None or t.is_neg() or t.is_conj() or id(t) in seen:
            continue
        if t.is_inference() and not wide:  # it has no version, and cannot be put elsewhere
            raise Unfaithful
        seen.add(id(t))
        if at not in stores:
            stores[at] = whole(t).double() if wide and t.dtype in NARROW else whole(t).clone()
        yield t, stores[at].as_strided(t.shape, t.stride(), t.storage_offset())


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.float64 if x.is_floating_point() else x.dtype, copy=True)


def _returned(model: nn.Module, x: Tensor, watch: _Watch) -> Tensor:
    with torch.no_grad(), watch:
        try:
            output = copy_context().run(called, model, x)
        except Exception as error:  # a network raises whatever it likes
            raise Unfaithful from error
    if not isinstance(output, Tensor):
        raise Unfaithful
    return output.double().cpu()


class _Watch(Twins):
    """No operand that lies in the memory of the original."""

    def __init__(self, originals: set[int], *, wide: bool) -> None:
        super().__init__((), wide=wide)
        self._originals = originals

    def twin(self, t: Tensor) -> Tensor:
        at = storage_key(t)
        if at is not None and at[0] in self._originals:
            raise Unfaithful
        return super().twin(t)
