"""The largest σ at which each sample is proven."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.noise import Noise
from thetabox.verify import arguments
from thetabox.verify.effort import Deadline
from thetabox.verify.problem import Progress
from thetabox.verify.search.largest_proven import largest_proven, searched_range
from thetabox.verify.yields.proofs import AUTO
from thetabox.verify.yields.question import Question, failure_probability
from thetabox.verify.yields.search import FIRST, PART

# Where the search starts, as a share of the largest σ.
START = 0.05


def proven_sigma(
    model: nn.Module,
    x: arguments.Inputs,
    y: arguments.Array,
    delta: float = 0.01,
    *,
    noise: Noise | None = None,
    box: Box | None = None,
    method: str = AUTO,
    max_sigma: float = 1.0,
    rtol: float = 1e-2,
    device: str = "auto",
    progress: Progress | None = None,
    timeout: float | None = None,
) -> Float[Tensor, " samples"]:
    """Largest σ at which each sample is proven to be right on at least 1 - δ of all chips.

    Each σ was itself proven; σ (1 + rtol) was tried and not proven, or σ is ``max_sigma``. 0 where the network is wrong
    or nothing at or above 1e-9 could be proven. Smaller σ are covered too where the proof is ``martingale``, which
    holds for every smaller error; an ``entropic`` or ``log-sobolev`` proof is about its own σ.

    Args:
        model, x, y, delta, noise, box, method, device: as for :func:`certify_yield`.
        max_sigma: where the search ends.
        rtol: relative resolution.
        progress: called with samples done and samples in all.
        timeout: seconds after which every search stops with what it has proven.

    Returns:
        ``[N]`` float64.

    Raises:
        InputError: anything wrong with what was given.

    Example:
        >>> import torch, thetabox as tb
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        >>> x, y = torch.eye(2), torch.tensor([0, 1])
        >>> tb.proven_sigma(model, x, y, rtol=1e-3).round(decimals=2)
        tensor([0.1900, 0.1900], dtype=torch.float64)
    """
    deadline = Deadline(arguments.seconds(timeout))
    arguments.check_progress(progress)
    asked = failure_probability(delta)
    top, step = searched_range("max_sigma", max_sigma, rtol)
    question = Question.of(model, x, y, torch.tensor([top * START], dtype=torch.float64), noise, box, method, device)
    largest = torch.zeros(len(question.y), dtype=torch.float64)
    members = question.right.nonzero().squeeze(1)
    done = len(largest) - len(members)
    for proof in question.proofs:
        for part in members.split(PART):

            def margins(open_: Tensor, sigma: Tensor) -> Tensor:
                deadline.check()
                which = part[open_]  # noqa: B023  # used before the next part
                spent = torch.full_like(sigma, FIRST * asked)
                failure = proof.failure(question.x[which], question.y[which], sigma, spent)  # noqa: B023  # as above
                # Positive where it is proven.
                return torch.where(failure.probability <= asked, 1.0, -1.0)

            before = largest[part]
            start = torch.where(before > 0, before * (1.0 + step), top * START)
            largest[part] = largest_proven(margins, start, before, top, step)
            if proof is question.proofs[-1] and progress is not None:
                done += len(part)
                progress(done, len(largest))
    if progress is not None:
        progress(len(largest), len(largest))
    return largest
