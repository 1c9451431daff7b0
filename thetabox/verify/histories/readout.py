r"""Logits of :class:`~.neurons.Spiking` networks.

What is read is a sum of spikes, or the potential of cells that never spike: then that is a filter of the trains of
others, :math:`v = \sum_s G_s W_s + \ldots`, and with the readout's own weights the logits are
:math:`\sum_s G_s (W_s W) + \ldots`: each margin is one row over the traces' hulls.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import SAFETY, Rounding
from thetabox.verify.histories.circuit import CircuitReadout, Drive, Loss, ReadoutQuantity
from thetabox.verify.histories.neurons import Boxed
from thetabox.verify.histories.wiring import Held, upward
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.margin import class_margins
from thetabox.verify.interpreter.rules.dense import linear


@dataclass(frozen=True)
class Source:
    """A quantity that is read, with the weights of it.

    Attributes:
        read: the quantity.
        error: how far its ends may be off at the end.
        weights: ``[units, columns]``: logits, or the cells in front of them.
    """

    read: ReadoutQuantity
    error: float
    weights: Held


class SpikingReadout(CircuitReadout):
    """Logits of a sum of spikes, or of potentials.

    Args:
        rounding: of the bounds.
        sources: what is read.
        behind: weights of the potentials, ``None`` where spikes are read, or where the potentials are the logits.
        bias: of the logits.
        kept: whether what is lost in a quantity stays lost.
    """

    def __init__(
        self, rounding: Rounding, sources: list[Source], behind: Held | None, bias: Boxed, *, kept: bool
    ) -> None:
        self.rounding, self.behind, self.kept = rounding, behind, kept
        self.reads = tuple(source.read for source in sources)
        self.sizes = [len(source.weights.weight.theta) for source in sources]
        before = _stacked([s.weights for s in sources], rounding)
        self.before = before
        whole = before if behind is None else _composed(before, behind, rounding)
        self.weight, self.error = whole.weight.moved(lambda t: t.T), whole.error
        device, dtype = self.weight.theta.device, rounding.dtype
        self.off = torch.cat([device_row(s.error, n, dtype, device) for s, n in zip(sources, self.sizes, strict=True)])
        centre = bias.centre.to(device).double()
        self.bias = centre.to(dtype)
        lost = bias.error.to(device).double() + (self.bias.double() - centre).abs() * 2.0
        self.bias_spread, self.bias_error = upward(bias.spread.to(device), dtype), upward(lost, dtype)

    def _hidden(self, read: Interval) -> Interval:
        hidden = Interval(read.lower.clamp(min=0.0), read.upper, slack=0.0, nonnegative=True)
        hidden.batch = 0
        return hidden

    def _rest(self, context: Context, hidden: Interval, drive: Drive | None) -> tuple[Tensor, Tensor]:
        """Centre and radius of what is in the logits beside weights times what is read, ``[rows, classes]``."""
        roundoff, dtype = self.rounding.roundoff, self.rounding.dtype
        epsilon = context.epsilon(1.0).reshape(-1, 1)
        centre = self.bias.expand(len(hidden.lower), -1)
        radius = epsilon * self.bias_spread + self.bias_error
        if bool((self.off > 0).any()):
            radius = radius + self._apart(epsilon)
        if self.error is not None:
            radius = radius + ((hidden.upper + self.off) @ self.error) * (1.0 + 8.0 * roundoff * len(self.error))
        if drive is not None:
            value, spread = drive.centre[:, 0], epsilon * drive.spread[:, 0] + drive.size[:, 0]
            if self.behind is not None:
                moved, apart = self._behind(context, hidden, value, spread)
                value, spread = moved, apart
            centre, radius = centre + value, radius + spread
        size = centre.abs() + radius
        return centre, radius + 16.0 * roundoff * size + torch.finfo(dtype).smallest_normal

    def _apart(self, epsilon: Tensor) -> Tensor:
        """What errors of the traces may do to logits, ``[rows, classes]``.

        Cells of one decay share a trace, but each has a decay of its own within the error: what that does to one cell
        it need not do to the next, so nothing of it cancels between cells or between classes.
        """

        def through(size: Tensor, weights: Held) -> Tensor:
            most = size @ (weights.weight.magnitude + weights.off) + epsilon * (size @ weights.spread)
            return most * (1.0 + 8.0 * self.rounding.roundoff * (len(weights.weight.theta) + 8))

        cells = through(self.off[None], self.before)
        return cells if self.behind is None else through(cells, self.behind)

    def _behind(self, context: Context, hidden: Interval, value: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        """What the potentials' weights make of inputs and constants, with what their own box adds to everything."""
        assert self.behind is not None
        weight, roundoff = self.behind.weight, self.rounding.roundoff
        relative = self.rounding.of_dot(len(weight.theta) + 8) + 4.0 * weight.theta_error
        apart = (spread + relative * value.abs()) @ (weight.magnitude + self.behind.off) * (1.0 + 8.0 * relative)
        # The potentials' own size, by all they read.
        epsilon = context.epsilon(1.0).reshape(-1, 1)
        before = self.before
        terms = 1.0 + 8.0 * roundoff * (len(before.weight.theta) + 8)
        most = hidden.upper + self.off
        size = most @ (before.weight.magnitude + before.off) + epsilon * (most @ before.spread)
        size = (size + value.abs() + spread) * terms
        box = epsilon * (size @ self.behind.spread) + size @ self.behind.off
        return value @ weight.theta, apart + box * (1.0 + 8.0 * relative)

    def margins(self, context: Context, read: Interval, drive: Drive | None, labels: Tensor) -> Tensor:
        margin = self.each_margin(context, read, drive, labels)
        return margin.scatter(1, labels[:, None], torch.inf).amin(1)

    def each_margin(self, context: Context, read: Interval, drive: Drive | None, labels: Tensor) -> Tensor:
        """Proven lower bounds of the margins against every class, ``[rows, classes]``."""
        hidden = self._hidden(read)
        margins, _ = class_margins(context, hidden, self.weight, None, labels)
        centre, radius = self._rest(context, hidden, drive)
        mine = labels[:, None]
        apart = centre.gather(1, mine) - centre
        lost = radius.expand_as(centre).gather(1, mine) + radius
        roundoff = self.rounding.roundoff
        lost = lost + 8.0 * roundoff * (margins.abs() + centre.abs() + centre.gather(1, mine).abs() + lost)
        return (margins + apart) - lost * SAFETY

    def logits(self, context: Context, read: Interval, drive: Drive | None) -> Interval:
        hidden = self._hidden(read)
        ends = linear(context, hidden, self.weight, None).settled(self.rounding.roundoff)
        centre, radius = self._rest(context, hidden, drive)
        roundoff = self.rounding.roundoff
        radius = radius + 8.0 * roundoff * (ends.lower.abs() + ends.upper.abs() + centre.abs() + radius)
        return Interval(ends.lower + centre - radius, ends.upper + centre + radius)

    def losses(self, read: Tensor, drive: Drive | None, labels: Tensor) -> tuple[list[Loss], Tensor]:
        theta = self.weight.theta
        margin = torch.einsum("ru,rku->rk", read, theta[labels][:, None] - theta)
        rest = self.bias.expand(len(read), -1)
        if drive is not None:
            value = drive.centre[:, 0]
            rest = rest + (value if self.behind is None else value @ self.behind.weight.theta)
        margin = margin + rest.gather(1, labels[:, None]) - rest
        if not self.kept:
            # Filters forget: what is not known of them now says nothing of the end.
            return [], torch.full_like(margin, torch.inf)
        apart = (theta[labels][:, None] - theta).abs().transpose(1, 2)
        parts = apart.split(self.sizes, 1)
        return [Loss(one, weight) for one, weight in zip(self.reads, parts, strict=True)], margin


def device_row(value: float, count: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, " count"]:
    """One number, several times."""
    return torch.full((count,), value, dtype=dtype, device=device)


def _stacked(parts: list[Held], rounding: Rounding) -> Held:
    """Weights of several sources one below the other."""
    if len(parts) == 1:
        return parts[0]
    weights = [part.weight for part in parts]
    theta = torch.cat([w.theta for w in weights])
    common = max(w.theta_error for w in weights)
    error = None
    if any(part.error is not None for part in parts):
        error = torch.cat([torch.zeros_like(p.weight.theta) if p.error is None else p.error for p in parts])
    if len({w.factor for w in weights}) == 1 and all(w.absolute is None for w in weights):
        return Held(Parameter(theta, weights[0].factor, None, common), error)
    return Held(Parameter(theta, 1.0, torch.cat([part.spread for part in parts]), common), error)


def _composed(before: Held, behind: Held, rounding: Rounding) -> Held:
    """Products of weights; the box of the second is left to :meth:`SpikingReadout._behind`."""
    terms = len(behind.weight.theta)
    relative = rounding.of_dot(terms + 8)
    size = behind.weight.magnitude
    spread = (before.spread @ size) * (1.0 + 4.0 * relative)
    error = (before.weight.magnitude @ size) * relative + before.off @ size
    error = error * (1.0 + 4.0 * relative) + terms * 64.0 * rounding.subnormal
    return Held(Parameter(before.weight.theta @ behind.weight.theta, 1.0, spread, 0.0), error)
