"""What a rule needs beside its operands: ε of every row, rounding, and where the operation stands."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import OneEpsilonAtATime
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import SAFETY, Rounding
from thetabox.verify.network.graph import Layout, Operation
from thetabox.verify.network.kinds import Kind
from thetabox.verify.network.operators import is_convolution

Value = Interval | Parameter
"""An operand as rules get it that take parameters as they are."""


@dataclass(frozen=True)
class RowEpsilons:
    """ε of every row: ``E`` values for each of ``N`` samples, row ``e * N + n`` in every tensor of rows.

    Values that do not depend on ε are kept once a sample (``N`` rows) until they meet one that does.
    """

    values: Tensor

    @property
    def per_sample(self) -> int:
        """Number of ε a sample."""
        return self.values.shape[0]

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.values.shape[1]

    @cached_property
    def largest(self) -> float:
        """Largest ε of all rows."""
        return float(self.values.max()) if self.values.numel() else 0.0

    @cached_property
    def uniform(self) -> float | None:
        """The one ε of all rows, if there is one."""
        same = self.values.numel() > 0 and float(self.values.min()) == self.largest
        return self.largest if same else None

    @cached_property
    def shared(self) -> bool:
        """Whether each of a sample's ε is that of all samples."""
        return bool((self.values == self.values[:, :1]).all())

    def repeated(self, times: int) -> RowEpsilons:
        """Of ``times`` copies of each sample, copies outermost (``[E, times * N]``)."""
        return RowEpsilons(self.values.repeat(1, times))


class Memo:
    """What one ε of a sweep leaves to the next: products of known inputs with parameters, and what was lost when.

    Attributes:
        known_until: an ε, and for each sample the step from which on it left nothing known of any output.
    """

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Tensor, Any]] = {}
        self.known_until: tuple[float, Tensor] | None = None

    def products(self, context: Context, x: Tensor, compute: Callable[[], Any]) -> Any:
        """What ``compute`` returned for the same product of an operation, time step and input."""
        key = (id(context.operation), context.time, context.part)
        known, products = self._known.get(key, (None, None))
        if known is None or not torch.equal(known, x):
            products = compute()
            self._known[key] = (x, products)
        return products


@dataclass
class Context:
    """State of one evaluation.

    Attributes:
        row_epsilon: ε of every row.
        rounding: errors of the bounds' and the network's evaluation.
        operation: the operation whose rule runs.
        kind: torch's types of it.
        memo: what other evaluations of the same samples share with this one, if there are any.
        time, part: the time step, and which of an operation's several products: to tell the uses of the memo apart.
        surrogate: of ``a > b``: a step function whose gradient stands for the one that a comparison has not; for values
            against a threshold that is a value or a number other than 0.
        correlated: how many generators a recurrent layer may keep of how its units depend on each other; 0 for boxes.
        few_layers: the network has so few layers that rounding may be one number for all outputs of each.
        compared: the bounds are for a run to be compared with, and need be no tighter than its own rounding.
    """

    row_epsilon: RowEpsilons
    rounding: Rounding
    operation: Operation | None = None
    kind: Kind | None = None
    memo: Memo | None = None
    time: int = 0
    part: int = 0
    surrogate: Callable[[Tensor, Tensor], Tensor] | None = None
    few_layers: bool = False
    compared: bool = False
    correlated: int = 0
    _epsilon: dict[float, Tensor] = field(default_factory=dict)
    _uniform: dict[float, float | None] = field(default_factory=dict)
    _exact: dict[int, tuple[Parameter, Interval]] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the bounds."""
        return self.rounding.dtype

    def epsilon(self, factor: float) -> Tensor:
        """``factor`` times ε, rounded up: ``[E, N]`` in the dtype of the bounds."""
        if factor not in self._epsilon:
            self._epsilon[factor] = self._rounded_up(factor)
        return self._epsilon[factor]

    def _rounded_up(self, factor: float) -> Tensor:
        values = self.row_epsilon.values
        if factor != 1.0:
            values = torch.nextafter(values * factor, torch.full_like(values, math.inf))
        rounded = values.to(self.dtype)
        if self.dtype != values.dtype:
            rounded = torch.where(
                rounded.double() < values, torch.nextafter(rounded, torch.full_like(rounded, math.inf)), rounded
            )
        return rounded

    def uniform(self, factor: float) -> float | None:
        """``factor`` times ε, rounded up, where all rows share it."""
        if factor not in self._uniform:
            one = self.row_epsilon.uniform is not None
            self._uniform[factor] = 0.0 if factor == 0.0 else float(self.epsilon(factor)[0, 0]) if one else None
        return self._uniform[factor]

    def largest(self, factor: float) -> float:
        """Upper bound of ``factor`` times ε over all rows."""
        return self.row_epsilon.largest * factor * SAFETY

    def rows(self, x: Interval) -> int:
        """How many rows the batched value has: ``N`` or ``E N``."""
        assert x.batch is not None
        return int(x.shape[x.batch]) // x.merged

    def column(self, values: Tensor, x: Interval) -> Tensor:
        """One number a row, ``[E, N]``, shaped to multiply the batched value ``x``."""
        assert x.batch is not None
        flat = values.reshape(-1)
        if x.merged > 1:
            flat = flat.repeat_interleave(x.merged)
        shape = [1] * x.lower.dim()
        shape[x.batch] = flat.numel()
        return flat.view(shape)

    def expanded(self, x: Interval) -> Interval:
        """The batched value with one row for every ε and sample."""
        per_sample = self.row_epsilon.per_sample
        if x.batch is None or per_sample == 1 or self.rows(x) == per_sample * self.row_epsilon.samples:
            return x
        dim = x.batch
        return x.moved(lambda t: torch.cat([t] * per_sample, dim))

    def interval(self, parameter: Parameter) -> Interval:
        """The box of a parameter as an interval, one a row where rows differ in ε."""
        theta = parameter.theta
        if parameter.factor == 0.0:
            # Read again in every time step.
            if id(parameter) not in self._exact:
                out = Interval.point(theta, nonnegative=bool((theta >= 0).all()))
                # A mask may hold minus infinity.
                out.slack = parameter.theta_error * out.magnitude if parameter.theta_error else 0.0
                self._exact[id(parameter)] = (parameter, out)
            return self._exact[id(parameter)][1]
        uniform = self.uniform(parameter.factor)
        if uniform is not None:
            radius, by_row = parameter.unit_radius * uniform, False
        else:
            column = self.epsilon(parameter.factor).reshape([-1] + [1] * theta.dim())
            radius, by_row = parameter.unit_radius * column, True
        out = Interval(theta - radius, theta + radius, by_row=by_row)
        out.slack = (
            4.0 * self.rounding.roundoff + parameter.theta_error * (1.0 + self.largest(parameter.factor))
        ) * out.magnitude
        out.slack += 4.0 * self.rounding.subnormal
        low = float(out.lower.detach().amin()) if out.lower.numel() else 0.0
        if low >= 0.0:
            # The slack reaches below zero, the true box does not: θ(1 - ε) >= 0 while ε <= 1.
            out.nonnegative = (
                bool((theta >= 0).all()) and parameter.absolute is None and self.largest(parameter.factor) <= 1
            )
        return out

    def aligned(self, values: list[Interval], layout: Layout) -> list[Interval]:
        """Values that broadcast against each other to ``layout``, rows included."""
        if layout.batch is None:
            if not any(v.by_row for v in values):
                return values
            rank = len(layout.shape)
            return [self._lead(v, rank) for v in values]
        differs = self.row_epsilon.per_sample > 1 and (
            any(v.by_row for v in values)
            or any(v.batch is not None and self.rows(v) != self.row_epsilon.samples for v in values)
        )
        out = []
        for v in values:
            if v.by_row:
                out.append(self._at_batch(v, layout))
            elif v.batch is not None and differs:
                out.append(self.expanded(v))
            else:
                out.append(v)
        return out

    def _lead(self, v: Interval, rank: int) -> Interval:
        """A by-row (or shared) value viewed as ``[rows, ...]`` over ``rank`` dimensions."""
        if v.by_row:
            missing = rank - (v.lower.dim() - 1)
            return v.moved(lambda t: t.view(t.shape[0], *[1] * missing, *t.shape[1:]))
        return replace(v.moved(lambda t: t[None].view(1, *[1] * (rank - t.dim()), *t.shape)), by_row=True)

    def _at_batch(self, v: Interval, layout: Layout) -> Interval:
        """A by-row value with its rows in the samples' dimension of ``layout``."""
        assert layout.batch is not None
        rank, batch = len(layout.shape), layout.batch
        led = self._lead(v, rank)
        if led.shape[batch + 1] != 1:
            raise OneEpsilonAtATime(f"{self.where} combines a parameter with the samples' dimension")

        def place(t: Tensor) -> Tensor:
            t = t.squeeze(batch + 1).movedim(0, batch)
            return t.repeat_interleave(layout.merged, batch) if layout.merged > 1 else t

        return replace(led.moved(place), by_row=False, batch=batch, merged=layout.merged)

    @property
    def layout(self) -> Layout:
        """Layout of the operation's result, or of the first of several."""
        layout = None if self.operation is None else self.operation.layout
        layout = layout[0] if isinstance(layout, tuple) else layout
        assert isinstance(layout, Layout)
        return layout

    @property
    def is_convolution(self) -> bool:
        """Whether outputs lie in the second dimension rather than in the last."""
        return self.operation is not None and is_convolution(self.operation.operator)

    @property
    def where(self) -> str:
        """For messages."""
        return "the network" if self.operation is None else self.operation.describe()
