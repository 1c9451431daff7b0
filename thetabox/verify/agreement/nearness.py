"""How near two runs of one network come: by the numbers, and where a sum in another order shows, by bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thetabox.models.running import Running
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import SAFETY, Rounding, gamma
from thetabox.verify.interpreter.context import Context, Sweep
from thetabox.verify.interpreter.tensors import Tensors
from thetabox.verify.interval.forward import run
from thetabox.verify.network.operators import JUMPS
from thetabox.verify.problem import Problem, input_interval

# Roundoff of a double-precision run, with room for sums in any order and fused or folded operators.
ROUNDOFF = 2.0**-45
# How near, relative to the largest logit, two double-precision runs of the same operators come; else bounds are asked.
NEAR = 2.0**-33
# The same for a run in the network's own precision beside one in double precision, before bounds are asked.
NEAR_OWN = 2.0**-10


@dataclass(frozen=True)
class Evaluated(Rounding):
    """Bounds of a network whose every operation is off by a little, in whatever order it is evaluated.

    Attributes:
        roundoff: relative error of an operation.
    """

    roundoff: float = ROUNDOFF

    def of_dot(self, terms: int) -> float:
        return super().of_dot(terms) + 1.01 * gamma(terms + 4, self.roundoff)

    def of_sum(self, terms: int) -> float:
        return super().of_sum(terms) + gamma(terms + 4, self.roundoff)

    def of_operation(self, roundings: int = 1) -> float:
        return super().of_operation(roundings) + roundings * self.roundoff * SAFETY


def near(one: Tensor, other: Tensor, relative: float) -> bool:
    """Whether two answers are the same but for rounding, relative to the largest logit."""
    size = max(float(one.abs().max()), float(other.abs().max())) if one.numel() else 0.0
    return bool(((one - other).abs() <= relative * size).all())


def values(run: Running) -> dict[str, Tensor]:
    """All tensors as they are in a run."""
    return {name: run.read(name) for name in run.tensors}


def at_zero(
    problem: Problem, which: slice | Tensor, values: Mapping[str, Tensor] | None, rounding: Rounding | None = None
) -> Interval:
    """Logits of the graph at ε = 0 with room for any evaluation in double precision; ``values`` for its tensors."""
    rounding = rounding or Evaluated(torch.float64, "real", ROUNDOFF)
    settings = replace(problem.settings, rounding=rounding)
    tensors = Tensors(problem.model, settings.box, rounding, settings.device, values)
    parts = []
    for places in torch.arange(len(problem.x))[which].split(problem.chunk_size(1)):
        sweep = Sweep(torch.zeros(1, len(places), dtype=torch.float64, device=settings.device))
        context = Context(sweep, rounding, few_layers=problem.network.few_layers)
        final = run(problem.network, context, tensors, input_interval(problem.x[places], settings))
        parts.append(final.logits().settled(rounding.own))
    lower, upper = (torch.cat([getattr(p, end).double().cpu() for p in parts]) for end in ("lower", "upper"))
    return Interval(lower, upper)


def explained(
    problem: Problem, which: slice | Tensor, values: Mapping[str, Tensor], answer: Tensor, relative: float
) -> bool:
    """Whether rounding alone may make an answer: it lies in bounds that tell something, or that a jump makes wide."""
    bounds = at_zero(problem, which, values)
    if len(outside(bounds, answer, relative)):
        return False
    width = (bounds.upper - bounds.lower).amax()
    return _jumps(problem) or bool(width <= NEAR_OWN * answer.abs().amax())


def outside(bounds: Interval, logits: Tensor, relative: float) -> Tensor:
    """Rows that lie outside, by more than rounding."""
    if bounds.lower.shape != logits.shape:
        return torch.arange(max(len(logits), 1))
    room = relative * logits.abs().amax(1, keepdim=True)
    inside = (logits >= bounds.lower - room) & (logits <= bounds.upper + room)
    return (~inside.all(1)).nonzero().squeeze(1)


def _jumps(problem: Problem) -> bool:
    """Whether rounding may become a difference that is seen, at a jump or a pole: bounds then tell what it may be."""
    operations = [o for graph in problem.network.graphs.values() for o in graph.operations]
    return any(o.dtype is torch.bool or o.operator.split(".")[1:2] in [[name] for name in JUMPS] for o in operations)
