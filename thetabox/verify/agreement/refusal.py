"""What is reported of a network that is not its trace, with the likely reason."""

from __future__ import annotations

from contextlib import suppress
from typing import NoReturn

from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.recurrent import run_steps
from thetabox.models.running import Running, running
from thetabox.models.several import Separate, each_of
from thetabox.verify.agreement.batches import at_once, sizes
from thetabox.verify.agreement.given import all_logits
from thetabox.verify.agreement.nearness import NEAR_OWN, near, nearness
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
        with running(problem.model, problem.x) as run:
            given = problem.x_as_given
            if given is not None and not _same_as_floats(problem, run):
                layouts = ", ".join(_layout(one) for one in each_of(given))
                return f"its answer depends on the type or memory layout of x ({layouts}); {_advice(given)}"
            first = run(x).double()

            def same(logits: Tensor) -> bool:
                return near(logits[:1].double(), first, nearness(run))

            if not all(same(run(x)) for _ in range(REPEATS)):
                return "two calls with the same input differ: it draws random numbers, or counts its calls"
            tried = {*sizes(problem.network), min(len(problem.x), at_once(problem.network))}
            if not all(same(run(x.expand(size, *x.shape[1:]))) for size in tried):
                return "its answer depends on how many samples are in the batch"
            if not same(run(x, mode="grad")):
                return "its answer depends on whether gradients are recorded"
            with suppress(InputError):
                if not same(run(x, mode="inference")):
                    return "its answer depends on whether torch is in inference mode"
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


def _same_as_floats(problem: Problem, run: Running) -> bool:
    """Whether the module returns for inputs as the user has them what it returns for the same numbers in floats."""
    with suppress(InputError):
        return near(all_logits(problem, run), run(problem.x).double(), NEAR_OWN)
    return False


def _advice(x: Tensor | Separate) -> str:
    if isinstance(x, Separate):
        return "let its code ask for no more than numbers and shapes of its inputs, which go through one tensor here"
    return "give x as the floats that it computes with, contiguous"


def _layout(x: Tensor) -> str:
    name = str(x.dtype).removeprefix("torch.")
    return name if x.is_contiguous() else f"{name}, strides {list(x.stride())}"
