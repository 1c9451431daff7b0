"""One line for people of an error that a network's own code raised: where it arose, and what to do."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from torch import nn

from thetabox.errors import InputError
from thetabox.models.input_type import input_type

# Code of these is not the user's.
OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
# What torch reports about operands in two types.
TYPES = ("same dtype", "scalar type", "expected m1 and m2", "dtype", "should be the same", "must match the type")
LONGEST = 200
# What torch reports of its own control flow (cond, while_loop, scan) where a mode looks on.
HIGHER = re.compile(r"HigherOrderOperator (\w+)")
# What torch reports of an operator, or a network, without derivatives.
FLAT = ("derivative for", "does not require grad", "not differentiable")
HIDDEN = (
    "the network reads what an earlier call of it has kept, in a place where it cannot be found and put back; keep it "
    "in an attribute of the module, or compute it in every call"
)


def failure(model: nn.Module, shape: Sequence[int], error: Exception) -> InputError:
    """What is reported of a network that fails on inputs.

    Args:
        model: whose forward raised.
        shape: of the inputs.
        error: that was raised.
    """
    if "fake" in str(error).lower():
        return InputError(HIDDEN)
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    where = _where(model, error)
    higher = HIGHER.search(reason)
    if higher is not None:
        return InputError(
            f"the network calls torch's {higher[1]}{where}, an operator on functions, which no bounds follow; write "
            "out what it computes (of a condition both branches, and torch.where)"
        )
    return InputError(
        f"the network does not take inputs of shape {list(shape[1:])}{where}: {reason[:LONGEST]}"
        f"{_mend(str(error), model)}"
    )


@contextmanager
def needs_gradient() -> Iterator[None]:
    """A gradient by the weights is taken inside.

    Raises:
        InputError: the network has none.
    """
    try:
        yield
    except RuntimeError as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        if not any(words in reason for words in FLAT):
            raise
        raise InputError(
            f"the network has no gradient by its weights, which attacks and training need ({reason[:LONGEST]}); write "
            "what has none as a torch.autograd.Function with a surrogate gradient"
        ) from None


def _where(model: nn.Module, error: Exception) -> str:
    """The innermost part of the network, and the innermost line of the user's own code."""
    names = {id(module): name for name, module in model.named_modules() if name}
    part = line = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        at = frame.f_locals.get("self")
        if id(at) in names and isinstance(at, nn.Module):
            part = f"layer {names[id(at)]!r} ({type(at).__name__})"
        if _is_own(frame):
            line = f"{Path(frame.f_code.co_filename).name}:{number}"
    places = [place for place in (part, line) if place]
    return f" in {', '.join(places)}" if places else ""


def _is_own(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return not file.startswith((*OURS, "<")) and frame.f_code.co_name == "forward"


def _mend(text: str, model: nn.Module) -> str:
    if any(sign in text for sign in TYPES) and any(kind in text.lower() for kind in ("double", "float", "half")):
        held = str(input_type(model)[0]).removeprefix("torch.")
        return (
            f"; it computes in {held}, so what its code makes must too: write (u > 0).to(u.dtype) where "
            "a surrogate has .float(), and dtype=x.dtype where it makes tensors"
        )
    if any(sign in text for sign in ("shape", "size", "dim", "Expected")):
        return "; give x of the shape [samples, …] that the network was trained on"
    return ""
