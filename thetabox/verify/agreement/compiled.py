"""What ``torch.compile`` made of a network returns what its code does."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.models.compiled import is_compiled
from thetabox.models.running import MODES, running
from thetabox.models.several import for_each
from thetabox.models.twins import untouched
from thetabox.verify.agreement.batches import at_once
from thetabox.verify.agreement.precision import within_rounding
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.problem import Problem


def compare_compiled(problem: Problem, logits: Float[Tensor, "samples classes"]) -> Float[Tensor, "samples classes"]:
    """Every sample by what was compiled of the network before, in each mode of torch and for each kind of input.

    Args:
        problem: of the network.
        logits: that its code returns.

    Returns:
        The logits; those that were compiled where these give another class.

    Raises:
        InputError: they are further apart than rounding takes them.
    """
    if not is_compiled(problem.model):
        return logits
    count, most = len(problem.x), at_once(problem.network)
    what = "what torch.compile made of it returns for sample {} what lies"
    # No twins: what was compiled fits none of these runs. Nothing that it writes to stays.
    with untouched(problem.model, numbers=True), running(problem.model, problem.x, wide=False) as run:
        given = problem.x_as_given
        x = run.inputs(problem.x) if given is None else for_each(given, lambda t: t.to(run.device))
        with torch.inference_mode():
            made_there = for_each(x, torch.clone)
        for mode, given in (*((mode, x) for mode in MODES), ("inference", made_there)):
            parts = [run.untwinned(given[n : n + most], mode) for n in range(0, count, most)]
            with torch.no_grad(), sound_kernels():
                logits = within_rounding(problem, run, torch.cat(parts).double(), logits, what)
    return logits
