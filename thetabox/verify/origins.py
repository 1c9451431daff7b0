"""Where the tensors come from that a trace lifts out of a module's code.

A parameter that the code reads by another way than by its name (out of a list, a dictionary, a closure, as a view made
earlier) is lifted as a constant. It lies in the same memory, and by that it is known again.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from thetabox.errors import InputError
from thetabox.models.memory import place, share_memory, sharing
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


def view_of(model: nn.Module, constant: Tensor) -> View | None:
    """The parameter or buffer of the model that the constant is a view of, if there is one.

    Raises:
        InputError: it covers more than one tensor, or belongs to a layer or a trainable tensor that the model does
            not know.
    """
    address = place(constant)
    if address is None:
        return None
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        plain = constant.is_neg() == t.is_neg() and constant.is_conj() == t.is_conj()
        if place(t) == address and plain and (view := view_on(name, t, constant)) is not None:
            return view
        if share_memory(t, constant):
            beyond = place(t) == address and bool((places_in(t, constant) < 0).any())
            how = "a tensor that reaches beyond it" if beyond else "a tensor that reads it as other numbers"
            raise InputError(
                f"the network reads the memory of {name} through {how}, which has no bounds; read the parameters "
                "themselves"
            )
    _check_known(model, constant, address)
    return None


def _check_known(model: nn.Module, constant: Tensor, address: tuple[int, torch.dtype]) -> None:
    """Raise for a weight that the model does not know: nothing would be perturbed."""
    if not constant.is_floating_point():
        return
    for where, thing in reachable(model, nn.Module, Tensor):
        if isinstance(thing, nn.Module):
            for name, t in [*thing.named_parameters(), *thing.named_buffers()]:
                if place(t) == address:
                    raise InputError(
                        f"the network uses the layer {where} ({type(thing).__name__}), whose {name} is no parameter "
                        "of it, so it would be taken as exact; register the layer (nn.ModuleList, nn.ModuleDict, or "
                        "as an attribute of the module)"
                    )
        elif place(thing) == address and _trainable(thing):
            _refuse_trainable(where)
    # However the code reaches it, in a container of whatever kind: a trainable tensor is a weight.
    if any(place(t) == address for t in _alive()):
        _refuse_trainable("a tensor")


def _trainable(t: Tensor) -> bool:
    return isinstance(t, nn.Parameter) or (t.requires_grad and t.is_leaf)


def _refuse_trainable(where: str) -> None:
    raise InputError(
        f"the network uses {where}, a trainable tensor that is no parameter of it, so it would be taken as exact; "
        "register it (nn.ParameterList, nn.ParameterDict, or as an attribute of the module), or its layer"
    )


def _alive() -> Iterator[Tensor]:
    """Every trainable tensor of the process."""
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor) and not is_lazy(thing) and _trainable(thing):
            yield thing
