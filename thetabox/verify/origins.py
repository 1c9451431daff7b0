"""Where the tensors come from that a trace lifts out of a module's code.

A parameter that the code reads by another way than by its name (out of a list, a dictionary, a closure, as a view made
earlier) is lifted as a constant. It lies in the same memory, and by that it is known again.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.models.reach import reachable
from thetabox.models.twins import place
from thetabox.models.views import View, places_in, view_on


def view_of(model: nn.Module, constant: Tensor) -> View | None:
    """The parameter or buffer of the model that the constant is a view of, if there is one.

    Raises:
        InputError: it covers more than one tensor, or belongs to a layer or a trainable tensor that the model does
            not know.
    """
    address = place(constant)
    if address is None:
        return None
    overlaps = []
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        if place(t) == address:
            view = view_on(name, t, constant)
            if view is not None:
                return view
            overlaps.append((name, bool((places_in(t, constant) >= 0).any())))
    if any(some for _, some in overlaps):
        raise InputError(
            f"the network reads the memory of {next(n for n, some in overlaps if some)} through a tensor that reaches "
            "beyond it, which has no bounds; read the parameters themselves"
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
        elif place(thing) == address and (thing.requires_grad or isinstance(thing, nn.Parameter)):
            raise InputError(
                f"the network uses {where}, a trainable tensor that is no parameter of it, so it would be taken as "
                "exact; register it (nn.ParameterList, nn.ParameterDict, or as an attribute of the module)"
            )
