"""Where the tensors come from that a trace lifts out of a module's code.

A parameter that the code reads by another way than by its name (out of a list, a dictionary, a closure, as a view made
earlier) is lifted as a constant. It lies in the same memory, and by that it is known again.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from thetabox.errors import InputError
from thetabox.models import heap
from thetabox.models.memory import share_memory, sharing, storage_key
from thetabox.models.reach import reachable
from thetabox.models.views import View, places_in, view_on


def check_apart(model: nn.Module, boxed: Collection[str]) -> None:
    """Refuse a tensor that is partly another one, of which either is in the box: they cannot move by themselves.

    Two names of the very same numbers are no such thing: the box takes them for one.

    Args:
        model: whose parameters and buffers are looked at.
        boxed: names of those that move.

    Raises:
        InputError: two share memory.
    """
    for one, other in sharing([*model.named_parameters(), *model.named_buffers()]):
        if one in boxed or other in boxed:
            raise InputError(
                f"{one} and {other} share memory, so neither moves by itself; register one of them, and make the other "
                "from it in forward"
            )


class Origins:
    """Whose memory the constants of one trace lie in.

    Args:
        model: that was traced.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._own = [*model.named_parameters(), *model.named_buffers()]

    def view_of(self, constant: Tensor) -> View | None:
        """The parameter or buffer of the model that a constant is a view of, if there is one.

        Raises:
            InputError: it covers more than one tensor, reads one as other numbers, or belongs to a layer or a
                trainable tensor that the model does not know.
        """
        address = storage_key(constant)
        if address is None:
            return None
        for name, t in self._own:
            plain = constant.is_neg() == t.is_neg() and constant.is_conj() == t.is_conj()
            if storage_key(t) == address and plain and (view := view_on(name, t, constant)) is not None:
                return view
            if share_memory(t, constant):
                beyond = storage_key(t) == address and bool((places_in(t, constant) < 0).any())
                how = "a tensor that reaches beyond it" if beyond else "a tensor that reads it as other numbers"
                raise InputError(
                    f"the network reads the memory of {name} through {how}, which has no bounds; read the parameters "
                    "themselves"
                )
        if constant.grad_fn is not None:
            raise InputError(
                "the network reads a tensor that was computed of trainable ones before it was called (kept in a cache, "
                "say), so it would be taken as exact; compute it in forward, or detach it if it is a constant"
            )
        if constant.is_floating_point() and address in self._weights:
            self._refuse(address)
        return None

    @cached_property
    def _weights(self) -> set[tuple[int, torch.dtype]]:
        """Where the weights of the process lie: whatever holds them, a trainable tensor is one."""
        layers = (thing for _, thing in self._reached if isinstance(thing, nn.Module))
        tensors = [t for layer in layers for t in [*layer.parameters(), *layer.buffers()]]
        for thing in heap.objects():
            if issubclass(type(thing), Tensor) and not is_lazy(thing) and _trainable(thing):
                tensors.append(thing)
        return {at for t in tensors if (at := storage_key(t)) is not None}

    @cached_property
    def _reached(self) -> list[tuple[str, Any]]:
        return list(reachable(self.model, nn.Module, Tensor))

    def _refuse(self, address: tuple[int, torch.dtype]) -> NoReturn:
        """Say of a weight that the model does not know how its code reaches it, where that is seen."""
        for where, thing in self._reached:
            if isinstance(thing, nn.Module):
                for name, t in [*thing.named_parameters(), *thing.named_buffers()]:
                    if storage_key(t) == address:
                        raise InputError(
                            f"the network uses the layer {where} ({type(thing).__name__}), whose {name} is no "
                            "parameter of it, so it would be taken as exact; register the layer (nn.ModuleList, "
                            "nn.ModuleDict, or as an attribute of the module)"
                        )
        paths = (where for where, thing in self._reached if isinstance(thing, Tensor) and storage_key(thing) == address)
        raise InputError(
            f"the network uses {next(paths, 'a tensor')}, a trainable tensor that is no parameter of it, so it would "
            "be taken as exact; register it (nn.ParameterList, nn.ParameterDict, or as an attribute of the module), "
            "or its layer"
        )


def _trainable(t: Tensor) -> bool:
    return isinstance(t, nn.Parameter) or (t.requires_grad and t.is_leaf)
