"""What is said of a network that is not its trace, with the likely reason."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.recurrent import run_steps
from thetabox.models.running import running
from thetabox.verify.agreement.batches import at_once, sizes
from thetabox.verify.agreement.nearness import NEAR_OWN
from thetabox.verify.network import RecurrentNetwork
from thetabox.verify.problem import Problem

# Calls with one input, to see whether they differ.
REPEATS = 8


def refuse(problem: Problem, what: str, culprit: str | None = None) -> NoReturn:
    """Raise InputError: what differs, the tensor that shows it alone, the likely reason."""
    where = f" ({culprit!r} alone shows it)" if culprit else ""
    raise InputError(f"the network is not the function that would be bounded: {what}{where}; {_reason(problem)}")


def _reason(problem: Problem) -> str:
    """Why a module and its trace are likely to differ."""
    x = problem.x[:1]
    try:
        with running(problem.model) as run:
            first = run(x).double()

            def same(answer: Tensor) -> bool:
                return torch.allclose(answer[:1].double(), first, NEAR_OWN, NEAR_OWN * float(first.abs().max()))

            if not all(same(run(x)) for _ in range(REPEATS)):
                return "two calls with the same input differ: it draws random numbers, or counts its calls"
            tried = {*sizes(problem.network), min(len(problem.x), at_once(problem.network))}
            if not all(same(run(x.expand(size, *x.shape[1:]))) for size in tried):
                return "its answer depends on how many samples are in the batch"
            if not same(run(x, gradients=True)):
                return "its answer depends on whether gradients are recorded"
            if isinstance(problem.network, RecurrentNetwork):
                held = run.inputs(x)
                with run.twins:
                    stepwise = problem.model.readout(run_steps(problem.model, held))  # type: ignore[operator, arg-type]  # the protocol
                if not same(stepwise.cpu()):
                    return (
                        "its forward (with hooks, and methods that it overrides) does something else than step and "
                        "readout, of which the proof would speak"
                    )
    except Exception:  # a network raises whatever it likes, also at these questions
        pass
    return (
        "its code does something else while it is traced (a branch on torch.compiler.is_exporting(), on the dtype, on "
        "the mode), or reads weights in a way that cannot be followed"
    )
