"""The operands of an operator, and how large their numbers are."""

from __future__ import annotations

import torch
from torch import Tensor

from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop
from thetabox.verify.network.graph import Operation, Ref


def operand(samples: Samples, operation: Operation, argument_index: int) -> int:
    """Position of the operand at ``argument_index``.

    Raises:
        Stop: it is no value that holds the samples in its first dimension.
    """
    argument = operation.args[argument_index] if len(operation.args) > argument_index else None
    if not isinstance(argument, Ref) or not samples.plain(argument.index):
        raise Stop
    return argument.index


def sizes(samples: Samples, operation: Operation, argument_index: int) -> Tensor:
    """Sizes of the operand's numbers, at most.

    Raises:
        Stop: as :func:`operand`.
    """
    value = samples.interval(operand(samples, operation, argument_index))
    return torch.maximum(value.lower.abs(), value.upper.abs())
