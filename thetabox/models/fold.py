"""Batch norm folded into the layer before it."""

from __future__ import annotations

import copy
import logging

from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.batchnorm import _BatchNorm

from thetabox.errors import InputError


def folded(model: nn.Module) -> nn.Module:
    """A copy of the model in evaluation mode whose batch norms are part of the convolutions before them.

    The weights of the copy are ordinary stored numbers: what is certified of it is said of them.

    Raises:
        InputError: the model cannot be traced by ``torch.fx``, or a batch norm follows no convolution.
    """
    copied = copy.deepcopy(model).eval()
    if not any(isinstance(m, _BatchNorm) for m in copied.modules()):
        return copied
    logging.getLogger("torch.fx").setLevel(logging.ERROR)
    try:
        fused = fuse(copied)
    except Exception as error:
        raise InputError(f"cannot fold the batch norms of {type(model).__name__}: {error}") from error
    left = [name for name, m in fused.named_modules() if isinstance(m, _BatchNorm)]
    if left:
        raise InputError(f"cannot fold batch norm {left[0]}: no convolution stands before it")
    return fused
