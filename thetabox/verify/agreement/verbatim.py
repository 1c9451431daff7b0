"""The very object that the user has as inputs: an array, a parameter, a tensor with attributes or gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.calls import alike, widened
from thetabox.models.outside import put_back
from thetabox.models.running import Running
from thetabox.models.several import each_of, for_each
from thetabox.verify.agreement.batches import at_once
from thetabox.verify.agreement.given import RecordedRun, all_logits
from thetabox.verify.agreement.nearness import NEAR_OWN, around, near, nearness, outside
from thetabox.verify.agreement.own import OwnForward
from thetabox.verify.agreement.points import FAR, BoxPoints
from thetabox.verify.problem import Problem


def recorded_run(run: Running, x: Any, mode: str = "no_grad") -> RecordedRun:
    """What a run returns for the very ``x``.

    Raises:
        InputError: the network does not take it.
    """
    # Code writes to an array itself, and to a tensor by way of torch.
    held = for_each(x, lambda one: one.copy(order="K") if isinstance(one, np.ndarray) else one)
    with ExitStack() as stack:
        for one in each_of(held):
            stack.enter_context(_as_it_was(one))
        return run.logits(held, mode).double(), run.calls


@contextmanager
def _as_it_was(x: Any) -> Iterator[None]:
    """Whatever code does with the very tensor beside computing with it is undone."""
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        yield
        return
    data, numbers, grad, attributes = x.data, x.detach().clone(), x.requires_grad, dict(vars(x))
    try:
        yield
    finally:
        if (x.data_ptr(), x.shape, x.stride()) != (data.data_ptr(), data.shape, data.stride()):
            x.data = data
        if x.is_leaf and x.requires_grad != grad:
            x.requires_grad_(grad)
        put_back(vars(x), attributes)
        if not torch.equal(x.detach(), numbers):
            with torch.no_grad():
                x.detach().copy_(numbers)


def run_as_given(problem: Problem, run: Running, x: Any) -> RecordedRun | None:
    """What a run returns for the very ``x`` at its own weights; ``None`` where it takes it not, or not at once."""
    if problem.x_as_given is not None or len(problem.x) > at_once(problem.network):
        return None
    run.recording = True
    run.move({})
    try:
        return recorded_run(run, x)
    except InputError:
        return None


def compare_verbatim(
    problem: Problem, run: Running, x: Any, own: OwnForward, recorded: RecordedRun | None = None
) -> None:
    """The logits of the very ``x`` that the user has, at the network's own weights and at others.

    Args:
        problem: of the network.
        run: in its own precision.
        x: inputs as the user has them.
        own: the run on a plain tensor; if the code asks no more for the very ``x``, it does nothing else.
        recorded: the run at its own weights, if it was made.

    Raises:
        InputError: it is another one than to a plain tensor of the same numbers.
    """
    if len(problem.x) > at_once(problem.network):
        return
    run.recording = True
    asks_gradient = any(isinstance(one, Tensor) and one.requires_grad for one in each_of(x))
    count, modes = len(own.logits), ("grad",) if asks_gradient else ()
    for moved in (False, True):
        run.move(BoxPoints(problem, run, problem.tensors.boxed).at(FAR, "corner") if moved else {})
        expected = None if moved else own.logits
        differs = moved
        for mode in ("no_grad", *(("grad",) if moved else modes)):
            try:
                first = not moved and mode == "no_grad"
                logits, calls = (recorded if first else None) or recorded_run(run, x, mode)
            except InputError:
                continue  # a network that does not take it is none that returns otherwise
            differs |= not alike(widened(calls), count, widened(own.calls), own.batch)
            # Where a number of its own precision overflows, that of a plain tensor does as well.
            if expected is None or not logits.isfinite().all():
                expected = all_logits(problem, run)
            if not _same(problem, run, logits, expected):
                kinds = ", ".join(f"{type(one).__module__}.{type(one).__qualname__}" for one in each_of(x))
                raise InputError(
                    "the network is not the function that would be bounded: for x as it is given "
                    f"({kinds}) it returns something else than for a plain tensor of the same numbers; give it as that"
                )
        if not differs:
            return


def _same(problem: Problem, run: Running, logits: Tensor, expected: Tensor) -> bool:
    if logits.shape != expected.shape:
        return False
    rows = expected.isfinite().all(1).nonzero().squeeze(1)
    if not len(rows) or near(logits[rows], expected[rows], NEAR_OWN):
        return True
    bounds = around(problem, rows, run)
    return bounds is None or not len(outside(bounds, logits[rows], nearness(run)))
