r"""Backward walks: rows of coefficients from a value down to what is known, by one table from operator to rule.

A backward rule takes the coefficients ``A [samples, rows, *shape]`` on an operator's result and hands coefficients on
its operands to the walk, so that with every constant put aside

.. math:: \langle A, f(x) \rangle \ge \sum_i \langle A_i, x_i \rangle + c

for all operands inside their intervals and all parameters in their boxes, rounding included. A rule raises
:class:`Stop`, before it has handed on anything, where it does not apply.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.effort import fan
from thetabox.verify.linear.constant import WalkConstant, gamma_sum
from thetabox.verify.linear.region import Frame, Region, placed
from thetabox.verify.linear.samples import Samples, first_layout
from thetabox.verify.network.graph import Operation, Ref
from thetabox.verify.network.kinds import kinds

# Relative errors below this may be taken of the largest number instead of each.
NEGLIGIBLE = 1e-9
# Values of more numbers are not looked at whole where a window would do.
MOST_WIDENED = 1 << 12
# More than what all products of one layer can lose where they underflow in float64, of factors below 1.
UNDERFLOW = 2.0**-1034


Backward = Callable[["Walk", Operation, Tensor, Region | None], None]

BACKWARD: dict[str, Backward] = {}


class Stop(Exception):
    """The rule does not apply: the result's interval stands for the operator."""


class NeedsImages(Stop):
    """The rule applies to whole images alone."""


def backward(*operators: str) -> Callable[[Backward], Backward]:
    """Register a function as the backward rule of operators such as ``"aten.relu.default"``."""

    def register(function: Backward) -> Backward:
        for operator in operators:
            BACKWARD[operator] = function
        return function

    return register


class Walk:
    """Coefficients on the values of a graph, ``[samples, rows, *shape]`` each, and one constant a row.

    Args:
        samples: the samples' intervals.
        frame: which of them, whole or around a position.
        rows: rows of each sample.
        coarse: turn a convolution's noise into a constant, at two products instead of three.
    """

    def __init__(self, samples: Samples, frame: Frame, rows: int, *, coarse: bool = False) -> None:
        self.samples, self.frame, self.rows, self.coarse = samples, frame, rows, coarse
        count = len(samples.epsilon[frame.samples])
        self.constant = WalkConstant(count, rows, samples.epsilon.device)
        self.coefficients: dict[int, tuple[Tensor, Region | None]] = {}
        self.widest = 1
        # Multiply-adds of a row so far, as a forward pass counts them.
        self.work = 0
        # What each operation loses at the values of the unperturbed network, where those are given.
        self.nominal: dict[int, Tensor] | None = None
        self.losses: dict[int, Tensor] = {}
        self._given = self.constant.value

    def run(self) -> Float[Tensor, "samples rows"]:
        """Walk down from the coefficients given; lower bounds of the rows."""
        operations = self.samples.graph.operations
        for operation in reversed(operations):
            if operation.index in self.coefficients:
                self.step(operation, *self.coefficients.pop(operation.index))
        for index in list(self.coefficients):
            self.concretise(index, *self.coefficients.pop(index))
        return self.constant.lower()

    def started(self, operation: Operation, neurons: Tensor, region: Region | None) -> None:
        """Called where a walk started in front of an operation: at outputs ``neurons``, then at their negatives."""

    def account(self, nominal: dict[int, Tensor]) -> None:
        """Keep account of :attr:`losses` from now on (walks of whole images only)."""
        self.nominal = nominal

    def step(self, operation: Operation, a: Tensor, region: Region | None) -> None:
        """Pass one operation."""
        self.work += a[0, 0].numel() * fan(self.samples.graph, operation)
        if self.nominal is None:
            self._pass(operation, a, region)
            return
        before, self._given = self.constant.value.clone(), torch.zeros_like(self.constant.value)
        self._pass(operation, a, region)
        reached = self._given + (self.constant.value - before)
        self.losses[operation.index] = dot(a, self.nominal[operation.index]) - reached

    def _pass(self, operation: Operation, a: Tensor, region: Region | None) -> None:
        rule = BACKWARD.get(operation.operator)
        if rule is not None and self._apart(operation):
            try:
                rule(self, operation, a, region)
                return
            except NeedsImages:
                if self._few_numbers(operation):
                    self.coefficients[operation.index] = (a, region)
                    self._widen()
                    self._pass(operation, *self.coefficients.pop(operation.index))
                    return
            except Stop:
                pass
        self.concretise(operation.index, a, region)

    def _few_numbers(self, operation: Operation) -> bool:
        """Whether all values up to an operation are so small that windows of them save little."""
        shapes = [self.samples.shape(i) for i in (operation.index, *self.coefficients)]
        return not self.frame.whole and all(math.prod(shape) <= MOST_WIDENED for shape in shapes)

    def _widen(self) -> None:
        """Go on about whole images, zeros around the windows."""
        for index, (a, region) in self.coefficients.items():
            if region is not None:
                height, width = self.samples.shape(index)[-2:]
                self.coefficients[index] = (self.frame.unfolded(a, region, (height, width)), None)
                self.widest = max(self.widest, self.coefficients[index][0][0, 0].numel())
        self.frame = Frame(self.frame.samples)

    def _apart(self, operation: Operation) -> bool:
        """Whether the result is real numbers as the network rounds them, samples first, and so are the operands'."""
        if not kinds(self.samples.graph)[operation.index].plain:
            return False
        layout = first_layout(operation)
        if layout is None or (layout.batch, layout.merged) != (0, 1):
            return False
        return all(self.samples.plain(i) for i in operation.inputs if self.samples.depends(i))

    def cut(self, t: Tensor, region: Region | None) -> Tensor:
        """A tensor of all samples on a region of this walk's samples."""
        return self.frame.cut(t, region)

    def ends(self, index: int, region: Region | None = None) -> tuple[Tensor, Tensor]:
        """Both ends of a value on a region; one tensor for a known value."""
        value = self.samples.interval(index)
        lower = self.cut(value.lower, region)
        return lower, lower if value.is_point else self.cut(value.upper, region)

    def epsilon(self, values: Float[Tensor, " samples"], dims: int) -> Tensor:
        """One number a sample, shaped for ``[samples, rows, ...]`` of ``dims`` dimensions."""
        picked = values[self.frame.samples]
        return picked.view(-1, *[1] * (dims - 1))

    def give(self, index: int, a: Tensor, region: Region | None = None) -> None:
        """Add coefficients on a value; those beyond its edges multiply zeros and are dropped."""
        if not a[0, 0].numel():
            return  # a value of no numbers, as of a layer without neurons
        if region is not None:
            shape = self.samples.shape(index)
            height, width = (shape[-2], shape[-1])
            if self.frame.whole or region.fixed:
                a, region = placed(a, region.offset, (0, 0), (height, width)), None
            elif region.exceeds((height, width)):
                # Far from where it started a window is larger than the image: most of it would be zeros.
                a, region = self.frame.unfolded(a, region, (height, width)), None
            else:
                mask = self.frame.inside((height, width), region)
                a = a if mask is None else a * mask
        if self.nominal is not None:
            self._given = self._given + dot(a, self.nominal[index])
        if index in self.coefficients:
            other, there = self.coefficients[index]
            if (region is None) != (there is None):
                shape = self.samples.shape(index)
                if region is not None:
                    a, region = self.frame.unfolded(a, region, (shape[-2], shape[-1])), None
                elif there is not None:
                    other, there = self.frame.unfolded(other, there, (shape[-2], shape[-1])), None
            if region is not None and there is not None and region != there:
                wide = region.joined(there)
                a, other, region = region.fitted(a, wide), there.fitted(other, wide), wide
            a = a + other
            self.lose_coefficients(a, index, region, 4)
        self.coefficients[index] = (a, region)
        self.widest = max(self.widest, a[0, 0].numel())

    def lose_coefficients(self, a: Tensor, index: int, region: Region | None, terms: int) -> None:
        """Coefficients ``a`` on a value were computed by ``terms`` roundings each."""
        lower, upper = self.ends(index, region)
        self.penalty(a, lower.abs() if lower is upper else torch.maximum(lower.abs(), upper.abs()), gamma_sum(terms))

    def penalty(self, a: Tensor, z: Tensor, relative: float | Tensor, least: float | Tensor = 0.0) -> None:
        """Take off ``⟨|a|, relative z + least⟩`` (z at least 0, ``[samples, *shape]``), and what underflows on the way.

        ``least`` is what a network's own products may lose where they underflow, whatever z.
        """
        count, most = z[0].numel(), flat(z, 1).amax(1)
        tiny = self.underflow()
        if isinstance(relative, float) and relative < NEGLIGIBLE and isinstance(least, float):
            size = torch.linalg.vector_norm(flat(a, 2), 1, 2) * (most * relative + (tiny + least))[:, None]
        else:
            size = dot(a.abs(), flat(z * relative + least, 1) + tiny[:, None])
        self.constant.lose(size + tiny[:, None], count)

    def underflow(self) -> Float[Tensor, " samples"]:
        """What float64 may lose by underflow in one operation, whatever the lost numbers are multiplied by next."""
        samples = self.samples
        return UNDERFLOW * (1.0 + samples.epsilon[self.frame.samples]) * (1.0 + samples.size[self.frame.samples])

    def concretise(self, index: int, a: Tensor, region: Region | None) -> None:
        """Put a value's interval in the place of the value."""
        lower, upper = self.ends(index, region)
        count = a[0, 0].numel()
        if lower is upper:
            self.constant.add(dot(a, lower))
            self.penalty(a, lower.abs(), gamma_sum(count))
            return
        self.constant.add(dot(a.clamp(min=0), lower) + dot(a.clamp(max=0), upper))
        self.penalty(a, torch.maximum(lower.abs(), upper.abs()), gamma_sum(2 * count))

    def operand(self, operation: Operation, place: int) -> int:
        """Position of the operand at ``place``.

        Raises:
            Stop: it is no value that holds the samples in its first dimension (an expanded parameter, say).
        """
        argument = operation.args[place] if len(operation.args) > place else None
        if not isinstance(argument, Ref) or not self.samples.plain(argument.index):
            raise Stop
        return argument.index

    def is_exact_input(self, index: int) -> bool:
        """Whether a value is an input that is known exactly."""
        value = self.samples.values[index]
        return index in self.samples.graph.inputs and isinstance(value, Interval) and value.is_point


def dot(a: Tensor, z: Tensor) -> Tensor:
    """``[samples, rows, *shape]`` times ``[samples, *shape]``, summed over the shape."""
    return torch.bmm(flat(a, 2), flat(z, 1)[:, :, None]).squeeze(2)


def flat(t: Tensor, first: int) -> Tensor:
    """``t`` with one dimension from ``first`` on, of one number where there is none."""
    return t.flatten(first) if t.dim() > first else t.unsqueeze(first)
