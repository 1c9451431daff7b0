"""How near two runs of one network come: by the numbers, and where a sum in another order shows, by bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.running import Running
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import SAFETY, Rounding, gamma
from thetabox.verify.interpreter.context import Context, RowEpsilons
from thetabox.verify.interval.forward import run
from thetabox.verify.network.operators import JUMPS
from thetabox.verify.problem import Problem, input_interval

# Roundoff of a double-precision run, enough for sums in any order and fused or folded operators.
ANY_ORDER = 2.0**-45
# How near, relative to the largest logit of a sample, two double-precision runs of the same operators come; else bounds
# are asked.
NEAR = 2.0**-33
# The same for a run in the network's own precision beside one in double precision, before bounds are asked.
NEAR_OWN = 2.0**-10
# The same for two runs in the network's own precision, in units of its last place.
LAST_PLACES = 8


@dataclass(frozen=True)
class Evaluated(Rounding):
    """Bounds of a network whose every operation is off by a little, in whatever order it is evaluated.

    Attributes:
        operation_error: relative error of an operation.
    """

    operation_error: float = ANY_ORDER

    def of_dot(self, terms: int) -> float:
        return super().of_dot(terms) + 1.01 * gamma(terms + 4, self.operation_error)

    def of_sum(self, terms: int) -> float:
        return super().of_sum(terms) + gamma(terms + 4, self.operation_error)

    def of_operation(self, roundings: int = 1) -> float:
        return super().of_operation(roundings) + roundings * self.operation_error * SAFETY


def nearness(run: Running) -> float:
    """How near two runs of this precision come by the numbers."""
    return NEAR if run.wide else max(NEAR, LAST_PLACES * torch.finfo(run.dtype).eps)


def near(one: Float[Tensor, "samples classes"], other: Float[Tensor, "samples classes"], relative: float) -> bool:
    """Whether two runs return the same logits but for rounding, relative to the largest logit of each sample."""
    return _surely_near(one, other, relative) or not len(apart(one, other, relative))


def _surely_near(one: Tensor, other: Tensor, relative: float) -> bool:
    """As most are; what is no number, or infinite in one of the two, is smaller than nothing."""
    if one.shape != other.shape or not one.shape[1]:
        return False
    return bool(((one - other).abs() < relative * one.abs().amax(1, keepdim=True)).all())


def distance(one: Float[Tensor, "samples classes"], other: Float[Tensor, "samples classes"]) -> float:
    """The largest difference of two runs, relative to the largest logit of its sample; of numbers alone."""
    if one.shape != other.shape:
        return torch.inf
    return float((_difference(one, other) / _size(one, other)).nan_to_num(0.0, 0.0).amax())


def apart(one: Float[Tensor, "samples classes"], other: Float[Tensor, "samples classes"], relative: float) -> Tensor:
    """Samples of which two runs do not return the same, but for rounding; what is no number is the same as nothing."""
    return (~(_difference(one, other) <= relative * _size(one, other)).all(1)).nonzero().squeeze(1)


def _difference(one: Tensor, other: Tensor) -> Tensor:
    """Infinite logits are the same as themselves alone."""
    return torch.where(one == other, 0.0, (one - other).abs())


def _size(*logits: Tensor) -> Tensor:
    """The largest finite logit of each sample."""
    sizes = [one.abs().masked_fill(~one.isfinite(), 0.0).amax(1, keepdim=True) for one in logits]
    return torch.stack(sizes).amax(0)


def values(run: Running) -> dict[str, Tensor]:
    """All tensors as they are in a run."""
    return {name: run.read(name) for name in run.tensors}


def at_zero(
    problem: Problem, which: slice | Tensor, values: Mapping[str, Tensor], rounding: Rounding | None = None
) -> Interval:
    """Bounds of the graph's logits at ε = 0 that hold for any evaluation in float64; ``values`` for its tensors."""
    rounding = rounding or Evaluated(torch.float64, "real", ANY_ORDER)
    settings = replace(problem.settings, rounding=rounding)
    tensors = problem.tensors.around(values, rounding)
    parts = []
    for samples in torch.arange(len(problem.x))[which].split(problem.chunk_size(1)):
        at_zero = RowEpsilons(torch.zeros(1, len(samples), dtype=torch.float64, device=settings.device))
        context = Context(at_zero, rounding, few_layers=problem.network.few_layers, compared=True)
        final = run(problem.network.with_ending, context, tensors, input_interval(problem.x[samples], settings))
        parts.append(final.logits().settled(rounding.roundoff))
    lower, upper = (torch.cat([getattr(p, end).double().cpu() for p in parts]) for end in ("lower", "upper"))
    # Of what has no end nothing is known.
    return Interval(
        lower.nan_to_num(-torch.inf, torch.inf, -torch.inf), upper.nan_to_num(torch.inf, torch.inf, -torch.inf)
    )


def around(problem: Problem, which: slice | Tensor, run: Running, dtype: torch.dtype | None = None) -> Interval | None:
    """What rounding may make of the graph at the weights of a run, in the precision of that run or another one.

    ``None`` where sums are too long for any bound in that precision. Of what may overflow nothing is known.
    """
    dtype = dtype or (torch.float64 if run.wide else run.dtype)
    if run.wide and dtype is torch.float64:
        return at_zero(problem, which, values(run))
    more = max(1.0, 2.0 * torch.finfo(dtype).eps / ANY_ORDER)
    rounding = Rounding(torch.float64, "float32") if dtype is torch.float32 else None
    try:
        bounds = at_zero(problem, which, values(run), rounding)
    except InputError:
        return None
    if rounding is None:
        # No sum of a few terms has a bound in half precision: errors are taken to grow with the roundoff.
        centre, radius = (bounds.upper + bounds.lower) / 2, (bounds.upper - bounds.lower) / 2
        bounds = Interval(centre - more * radius, centre + more * radius)
    finite = bounds.lower.isfinite() & bounds.upper.isfinite()
    return Interval(torch.where(finite, bounds.lower, -torch.inf), torch.where(finite, bounds.upper, torch.inf))


def explained(
    problem: Problem,
    which: slice | Tensor,
    run: Running,
    logits: Tensor,
    expected: Tensor,
    graph: Callable[[], Tensor] | None = None,
) -> bool:
    """Whether rounding alone explains logits.

    They lie in bounds that tell something, or that a jump makes wide, or the ``graph`` returns them too for the same
    batch: torch sums a batch of another size in another order, which shows where sums cancel.
    """
    bounds = around(problem, which, run)
    if bounds is None:
        return near(logits, expected, NEAR_OWN)
    if len(outside(bounds, logits, nearness(run))):
        return False
    width = (bounds.upper - bounds.lower).amax(1)
    if jumps(problem) or bool((width <= NEAR_OWN * logits.abs().amax(1)).all()):
        return True
    return graph is not None and near(graph(), logits, nearness(run))


def outside(bounds: Interval, logits: Tensor, relative: float) -> Tensor:
    """Rows that lie outside, by more than rounding."""
    if bounds.lower.shape != logits.shape:
        return torch.arange(max(len(logits), 1))
    tolerance = relative * _size(logits)
    inside = (logits >= bounds.lower - tolerance) & (logits <= bounds.upper + tolerance)
    return (~inside.all(1)).nonzero().squeeze(1)


def jumps(problem: Problem) -> bool:
    """Whether rounding may become a difference that is seen, at a jump or a pole: bounds then tell what it may be."""
    operations = [o for graph in problem.network.with_ending.graphs.values() for o in graph.operations]
    return any(o.dtype is torch.bool or o.operator.split(".")[1:2] in [[name] for name in JUMPS] for o in operations)
