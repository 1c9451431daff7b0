"""Where verification fails first: uncertain activations by layer, uncertain spikes by time step."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.domain import Profile
from thetabox.verify.interval.forward import run_problem
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.network.graph import Operation
from thetabox.verify.network.operators import COMPARISONS, PIECEWISE_LINEAR
from thetabox.verify.problem import Problem, Which


def profile_of(problem: Problem, which: Which, epsilon: Float[Tensor, "levels samples"]) -> Profile | None:
    """Shares over some samples, one ε a row; ``None`` for a network without kinks or comparisons."""
    levels, samples = epsilon.shape
    shares: dict[str, list[Tensor]] = {}
    steps = problem.network.steps > 1

    def share(uncertain: Tensor) -> Tensor:
        rows = uncertain.double().flatten(1).mean(1)
        return rows.view(-1, samples).mean(1).expand(levels).cpu()

    def observe(time: int, operation: Operation, args: tuple[Any, ...], result: Any) -> None:
        if not isinstance(result, Interval) or result.batch != 0:
            return
        if steps and operation.operator in COMPARISONS:
            shares.setdefault(str(time), []).append(share(result.lower != result.upper))
        elif not steps and operation.operator in PIECEWISE_LINEAR:
            x = args[0]
            name = operation.where or operation.name
            shares.setdefault(name, []).append(share((x.lower < 0) & (x.upper > 0)))

    with torch.no_grad(), sound_kernels():
        run_problem(problem, which, epsilon, observe)
    if not shares:
        return None
    columns = [torch.stack(parts).amax(0) for parts in shares.values()]
    return Profile("steps" if steps else "layers", list(shares), torch.stack(columns, 1))
