"""The module in the precision that it has, and under a cast of torch's: near what it returns in double precision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.calls import Call, alike
from thetabox.models.input_type import input_type
from thetabox.models.running import Running, running
from thetabox.models.twins import NARROW
from thetabox.verify.agreement.batches import FEW
from thetabox.verify.agreement.given import RecordedRun, all_logits, logits_of
from thetabox.verify.agreement.nearness import NEAR_OWN, apart, around, near, outside
from thetabox.verify.agreement.points import FAR, BoxPoints
from thetabox.verify.agreement.refusal import refuse
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.problem import Problem


def holds_narrow(problem: Problem) -> bool:
    """Whether anything in the network is of less than double precision."""
    return any(dtype in NARROW for graph in problem.network.graphs.values() for dtype in graph.dtypes.values())


def compare_precision(
    problem: Problem, run: Running, wide: Tensor, recorded: RecordedRun | None = None
) -> tuple[Sequence[Call], Tensor, Tensor]:
    """Every sample in the network's own precision: near the logits in double precision, or within its rounding.

    Args:
        problem: of the network.
        run: in its own precision.
        wide: the logits in double precision.
        recorded: the run on the caller's very inputs, where a copy of them makes the same call.

    Returns:
        The calls of torch for them; logits in double precision, and in the network's own where that gives
        another class, beyond what the rounding of a sum does; all logits in its own.
    """
    run.recording = True
    if recorded is not None and near(recorded[0], wide, NEAR_OWN):
        # Some code knows the very object; a few samples show whether it does.
        copied = logits_of(problem, run, slice(FEW)).double()
        if alike(run.calls, len(copied), recorded[1], len(wide)) and near(copied, wide[:FEW], NEAR_OWN):
            return recorded[1], wide, recorded[0]
    run.move({})
    narrow = all_logits(problem, run)
    calls = run.calls
    name = str(run.dtype).removeprefix("torch.")
    return calls, within_rounding(problem, run, narrow, wide, f"its forward of sample {{}} in {name} lies"), narrow


def within_rounding(problem: Problem, run: Running, narrow: Tensor, wide: Tensor, what: str) -> Tensor:
    """Logits in double precision, and in that of a run where those give another class, beyond what rounding a sum does.

    Args:
        problem: of the network.
        run: at the network's own weights, in its own precision.
        narrow: what it returns for every sample in that, float64.
        wide: the logits in double precision.
        what: lies outside if it does, with a place for the number of the sample.

    Raises:
        InputError: they are further apart than rounding takes them.
    """
    # What overflowed is compared with nothing: `real` speaks of real numbers, and in float32 nothing is known of it.
    samples = apart(narrow, wide, NEAR_OWN)
    bounds = around(problem, samples, run) if len(samples) else None
    if bounds is None:
        return wide
    # Of what overflowed nothing is known, neither of the number nor of its bounds, which know no half precision.
    exact = torch.finfo(run.dtype).eps < NEAR_OWN**2
    comparable = bounds.upper.isfinite() & (narrow[samples].isfinite() | exact)
    beyond = outside(bounds, torch.where(comparable, narrow[samples], bounds.lower.nan_to_num(0.0, 0.0, 0.0)), NEAR_OWN)
    if len(beyond):
        refuse(problem, f"{what.format(int(samples[beyond[0]]))} outside the bounds at ε = 0")
    of_class = narrow[samples].gather(1, wide[samples].argmax(1, keepdim=True)).squeeze(1)
    others = samples[narrow[samples].isfinite().all(1) & (of_class < narrow[samples].amax(1))]
    logits = wide.clone()
    logits[others] = narrow[others]
    return logits


def compare_cast(problem: Problem) -> None:
    """The logits under the caller's ``torch.autocast``, which bounds do not speak of, are those of the same function.

    Raises:
        InputError: they are not; or the claim is for float32, in which the network does not compute there.
    """
    device = input_type(problem.model, problem.x)[1].type
    if not torch.is_autocast_enabled(device):
        return
    if problem.settings.rounding.network:
        raise InputError(
            "arithmetic='float32' speaks of a network that computes in float32, and torch.autocast is on; call outside "
            "of it, or use arithmetic='real'"
        )
    with torch.no_grad(), running(problem.model, problem.x, wide=False) as run:
        differs = False
        for values in ({}, BoxPoints(problem, run, problem.tensors.boxed).at(FAR, "corner")):
            run.move(values)
            logits = all_logits(problem, run)
            with sound_kernels():
                bounds = around(problem, slice(None), run, torch.get_autocast_dtype(device))
            differs |= bounds is not None and bool(len(outside(bounds, logits, NEAR_OWN)))
    if differs:
        raise InputError(
            "the network is not the function that would be bounded: under torch.autocast it returns another thing; "
            "call outside of it"
        )
