"""The module in the precision that it has, and under a cast of torch's: near what it returns in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.calls import Call
from thetabox.models.running import Running, input_type, running
from thetabox.models.twins import NARROW
from thetabox.verify.agreement.batches import FEW, LARGE, at_once, repeated
from thetabox.verify.agreement.given import logits, ordinary
from thetabox.verify.agreement.nearness import NEAR_OWN, apart, around, near, nearness, outside
from thetabox.verify.agreement.points import FAR, BoxPoints
from thetabox.verify.agreement.refusal import refuse
from thetabox.verify.agreement.verbatim import Answer, answer_to
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.problem import Problem


def holds_narrow(problem: Problem) -> bool:
    """Whether anything in the network is of less than double precision."""
    return any(dtype in NARROW for graph in problem.network.graphs.values() for dtype in graph.dtypes.values())


class OwnPrecision:
    """The module at its own weights in its own precision, as its user calls it.

    Args:
        problem: of the module.
        run: in its own precision.
        x: inputs as the user has them, or ``None``.

    Attributes:
        first: the answer to the very ``x``, where that is the tensor that any call would be made with.
    """

    def __init__(self, problem: Problem, run: Running, x: Any) -> None:
        self.problem, self.run = problem, run
        self.first: Answer | None = None
        # Whether a batch of copies of samples is answered as the very x is.
        self._copies = False
        most = min(LARGE, at_once(problem.network))
        if problem.given is None and isinstance(x, Tensor) and ordinary(problem, x) and len(x) <= most:
            with suppress(InputError):
                self.first = answer_to(run, x)

    def takes_large(self) -> bool:
        """Whether the code is known to do for a large batch what it does for all samples.

        That is: it asks the very same of torch, not a size more, and answers the same numbers, of a type whose rounding
        hides nothing.
        """
        if self.first is None or at_once(self.problem.network) < LARGE:
            return False
        (own, calls), count = self.first, len(self.problem.x)
        places = repeated(torch.arange(min(FEW, count)), LARGE)
        try:
            answer = self.run(self.problem.x[places]).double()
        except InputError:
            return False
        self._copies = near(answer, own[places], nearness(self.run))
        return self._copies and self._is_exact() and [*self.run.calls] == [*calls]

    def _is_exact(self) -> bool:
        return torch.finfo(self.run.dtype).eps < NEAR_OWN**2

    def compare(self, wide: Tensor) -> Sequence[Call]:
        """Every sample: near the answers in double precision, or within its rounding; what the code asked of torch."""
        self.run.recording = True
        if self.first is None or not self._copies:
            own = logits(self.problem, self.run)
            self._compare(own, wide)
            return self.run.calls
        own, calls = self.first
        try:
            self._compare(own, wide)
        except InputError:
            # It may be the very x that is answered otherwise.
            self._compare(logits(self.problem, self.run), wide)
        return calls

    def _compare(self, own: Tensor, wide: Tensor) -> None:
        # What overflowed is compared with nothing: `real` speaks of real numbers; in float32 nothing is known of it.
        places = apart(own, wide, NEAR_OWN)
        bounds = around(self.problem, places, self.run) if len(places) else None
        if bounds is None:
            return
        # Of what overflowed nothing is known, neither of the number nor of its bounds, which know no half precision.
        known = bounds.upper.isfinite() & (own[places].isfinite() | self._is_exact())
        beyond = outside(bounds, torch.where(known, own[places], bounds.lower.nan_to_num(0.0, 0.0, 0.0)), NEAR_OWN)
        if len(beyond):
            name = str(self.run.dtype).removeprefix("torch.")
            what = f"its forward of sample {int(places[beyond[0]])} in {name} lies outside the bounds at ε = 0"
            refuse(self.problem, what)


def compare_cast(problem: Problem) -> None:
    """The answers under the caller's ``torch.autocast``, which bounds do not speak of, are those of the same function.

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
            answer = logits(problem, run)
            with sound_kernels():
                bounds = around(problem, slice(None), run, torch.get_autocast_dtype(device))
            differs |= bounds is not None and bool(len(outside(bounds, answer, NEAR_OWN)))
    if differs:
        raise InputError(
            "the network is not the function that would be bounded: under torch.autocast it answers another thing; "
            "call outside of it"
        )
