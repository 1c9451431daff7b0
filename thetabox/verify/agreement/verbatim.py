"""The very object that the user has as inputs: an array, a parameter, a tensor with attributes or gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.running import Running
from thetabox.verify.agreement.batches import at_once
from thetabox.verify.agreement.nearness import NEAR_OWN, explained, near
from thetabox.verify.problem import Problem


def compare_verbatim(problem: Problem, run: Running, x: Any, own: Tensor) -> None:
    """The answer to the very ``x`` that the user has: an array, say, a parameter, or with attributes of its own.

    Args:
        problem: of the network.
        run: in its own precision.
        x: inputs as the user has them.
        own: logits.
    """
    if len(own) > at_once(problem.network):
        return
    for mode in ("no_grad", "grad"):
        # Code writes to an array itself, and to a tensor by way of torch.
        held = x.copy(order="K") if isinstance(x, np.ndarray) else x
        try:
            answer = run.answer(held, mode).double()
        except InputError:
            continue  # a network that does not take it is none that answers otherwise
        if answer.shape == own.shape and near(answer, own, NEAR_OWN):
            continue
        everything = slice(None)
        if answer.shape != own.shape or not explained(problem, everything, run, answer, own):
            raise InputError(
                "the network is not the function that would be bounded: it answers x as it is given "
                f"({type(x).__module__}.{type(x).__qualname__}) otherwise than a plain tensor of the same numbers; "
                "give it as that"
            )
