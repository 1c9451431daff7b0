"""What torch.export reports about code that it cannot follow, in words for who wrote it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thetabox.errors import InputError

# What torch.export reports of code that it cannot follow, and what that means for who wrote it.
MEANINGS = {
    "Constraints violated": "its code ties the batch to one size, as len(x), int(x.shape[0]) and x.shape[0] == 3 do; "
    "write x.shape[0] where it needs the size",
    "data-dependent expression": "its code branches on numbers that it computes, in an if, an assert or by "
    ".item(); a certificate speaks of one function of all inputs and weights",
    "zeros(): argument 'size' failed to unpack": "its sizes are numbers that it computes, as those of a "
    "PackedSequence; give sequences of one length as a plain tensor [samples, steps, features]",
    "found a fake tensor in the exported program": "its code keeps tensors, or writes to .data of its weights",
}


def untraceable(model: nn.Module, examples: Sequence[Tensor], error: Exception) -> InputError:
    """The error to raise where a trace failed.

    Raises:
        KeyboardInterrupt: that is why it failed.
    """
    if "KeyboardInterrupt" in str(error):  # inside torch it may become an error of torch's
        raise KeyboardInterrupt from error
    if isinstance(model, torch.jit.ScriptModule):
        return InputError("scripted modules (torch.jit.script) have no trace; give the Python module it was made from")
    scripted = next((name for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)), None)
    if scripted is not None:
        return InputError(f"{scripted} is scripted (torch.jit.script) and has no trace; take what it was made from")
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    for sign, meaning in MEANINGS.items():
        if sign in str(error):
            reason = meaning
    if reason == MEANINGS["Constraints violated"] and _steps_first(model):
        reason += ". A recurrent layer that is given [samples, steps, features] needs batch_first=True"
    return InputError(
        f"torch.export cannot trace {type(model).__name__} on inputs of shape "
        f"{[tuple(e.shape[1:]) for e in examples]} with a free batch size: {reason.strip()[:300]}"
    )


def _steps_first(model: nn.Module) -> bool:
    """Whether a recurrent layer takes its first dimension for that of time."""
    return any(isinstance(m, nn.RNNBase) and not m.batch_first for m in model.modules())
