r"""Logits that are the largest potential of a leaky readout over all steps.

Of :math:`\max_t u_y(t) - \max_t u_k(t)` the second is reached in some step s. There the first is at least
:math:`u_y(s)`, and at least the largest lower end of any step:

.. math:: \text{margin}_k \ge \min_s \max\bigl(\underline{u_y - u_k}(s),\;
    \max_t \underline u_y(t) - \overline u_k(s)\bigr) .
"""

from __future__ import annotations

import torch
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.histories.circuit import Drive
from thetabox.verify.histories.readout import SpikingReadout
from thetabox.verify.interpreter.context import Context


class LargestOverTime(SpikingReadout):
    """The readout of one step, asked behind each."""

    every_step = True

    def following(self, context: Context, drive: Drive | None, labels: Tensor) -> LargestSoFar:
        return LargestSoFar(self, context, drive, labels)


class LargestSoFar:
    """Bounds of every step, put together.

    Args:
        readout: of a step.
        context: ε of the rows.
        drive: what inputs and constants do to what is read, at every step.
        labels: of the rows.
    """

    def __init__(self, readout: LargestOverTime, context: Context, drive: Drive | None, labels: Tensor) -> None:
        self.readout, self.context, self.drive, self.labels = readout, context, drive, labels
        self.lower: list[Tensor] = []
        self.upper: list[Tensor] = []
        self.apart: list[Tensor] = []

    def step(self, time: int, low: Tensor, high: Tensor) -> None:
        """The quantities behind a step, ``[rows, features]``."""
        read = Interval(low, high, nonnegative=True)
        read.batch = 0
        now = None
        if self.drive is not None:
            here = slice(time, time + 1)
            now = Drive(self.drive.centre[:, here], self.drive.spread[:, here], self.drive.size[:, here])
        ends = self.readout.logits(self.context, read, now)
        self.lower.append(ends.lower)
        self.upper.append(ends.upper)
        self.apart.append(self.readout.each_margin(self.context, read, now, self.labels))

    def margins(self) -> Tensor:
        """Proven lower bound of the least margin of every row."""
        mine = self.labels[:, None]
        least = torch.stack(self.lower).amax(0).gather(1, mine)
        upper = torch.stack(self.upper)
        beyond = least - upper
        beyond = beyond - 4.0 * self.readout.rounding.roundoff * (least.abs() + upper.abs())
        margin = torch.maximum(torch.stack(self.apart), beyond).amin(0)
        return margin.scatter(1, mine, torch.inf).amin(1)

    def logits(self) -> Interval:
        """Bounds of the logits of every row."""
        return Interval(torch.stack(self.lower).amax(0), torch.stack(self.upper).amax(0))
