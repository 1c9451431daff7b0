"""Outputs of a recurrent network's steps, collected for its readout."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.reduction import RunningMean
from thetabox.verify.network.graph import Operation


def _mean_arguments(operation: Operation) -> tuple[int, bool]:
    """Dimension and whether it is kept."""
    keepdim = operation.args[2] if len(operation.args) > 2 else operation.kwargs.get("keepdim", False)
    return 1, bool(keepdim)


class Outputs:
    """All of them, or their mean where the readout wants no more."""

    def __init__(self, steps: int, averaging: Operation | None) -> None:
        self.steps = steps
        self.averaging = averaging
        self.mean = RunningMean(steps) if averaging is not None and not torch.is_grad_enabled() else None
        self.slices: list[Interval] = []

    def add(self, x: Interval, rows: Tensor | None = None) -> None:
        """Those of one more step: of all rows, or of some, the others being unknown truth values (:meth:`lose`)."""
        if self.mean is not None:
            self.mean.add(x, rows)
        else:
            self.slices.append(x if rows is None else self._with_unknown(x, rows))

    def lose(self, rows: Tensor, steps: int) -> None:
        """Some rows are unknown truth values from now on, for so many steps."""
        if self.mean is not None:
            self.mean.add_unknown(rows, steps)

    def value(self, context: Context) -> tuple[int | None, Interval]:
        """The mean and where in the readout it stands; or all outputs, ``[rows, steps, ...]``, and ``None``."""
        if self.mean is not None:
            assert self.averaging is not None
            return self.averaging.index, self.mean.mean(context, *_mean_arguments(self.averaging))
        if len(self.slices) < self.steps:  # every row was lost
            none = torch.empty(0, dtype=torch.long, device=self.slices[0].lower.device)
            unknown = self._with_unknown(self.slices[-1].moved(lambda t: t[:0]), none)
            self.slices += [unknown] * (self.steps - len(self.slices))
        return None, _stacked(self.slices)

    def _with_unknown(self, x: Interval, rows: Tensor) -> Interval:
        """Outputs of all rows, those that are not among ``rows`` unknown."""
        like = self.slices[0].lower
        lower = torch.zeros_like(like).index_copy(0, rows, x.lower)
        upper = torch.ones_like(like).index_copy(0, rows, x.upper)
        return replace(x, lower=lower, upper=upper, bound=None)


def _stacked(outputs: list[Interval]) -> Interval:
    # Time outermost in memory: whole blocks are copied.
    lower = torch.stack([o.lower for o in outputs]).transpose(0, 1)
    upper = lower if all(o.is_point for o in outputs) else torch.stack([o.upper for o in outputs]).transpose(0, 1)
    bounds = [o.bound for o in outputs]
    bound = None if any(b is None for b in bounds) else max(b for b in bounds if b is not None)
    nonnegative = all(o.nonnegative for o in outputs)
    return Interval(lower, upper, max(o.slack for o in outputs), bound, nonnegative, batch=0)
