"""The largest σ at which each sample is proven."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

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
from thetabox.verify.yields.question import YieldQuestion, failure_probability
from thetabox.verify.yields.search import FIRST, PART
from thetabox.workers import Pool, check_executor

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
    executor: Executor | None = None,
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
        executor: whose workers search (:mod:`thetabox.workers`); this process where ``None``. The σ are the same.

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
    check_executor(executor)
    asked = failure_probability(delta)
    top, step = searched_range("max_sigma", max_sigma, rtol)
    question = YieldQuestion.of(
        model, x, y, torch.tensor([top * START], dtype=torch.float64), noise, box, method, device
    )
    largest = torch.zeros(len(question.y), dtype=torch.float64)
    members = question.right.nonzero().squeeze(1)
    done = len(largest) - len(members)
    with Pool(executor, question) as pool:
        for proof_index in range(len(question.proofs)):
            away = {}
            for part in members.split(PART):
                before = largest[part]
                start = torch.where(before > 0, before * (1.0 + step), top * START)
                away[
                    pool.add(search_sigmas, SigmaJob(proof_index, part, start, before, asked, top, step, deadline))
                ] = part
            for number, sigmas in pool.answers():
                part = away[number]
                largest[part] = sigmas
                if proof_index == len(question.proofs) - 1 and progress is not None:
                    done += len(part)
                    progress(done, len(largest))
    if progress is not None:
        progress(len(largest), len(largest))
    return largest


@dataclass(frozen=True)
class SigmaJob:
    """Samples whose largest σ are sought together.

    Attributes:
        proof: its place among the proofs of the question.
        members: indices of the samples.
        start, proven, top, rtol: of the search.
        asked: failure probability that counts as proven.
        deadline: when to stop.
    """

    proof: int
    members: Tensor
    start: Tensor
    proven: Tensor
    asked: float
    top: float
    rtol: float
    deadline: Deadline


def search_sigmas(question: YieldQuestion, job: SigmaJob) -> Float[Tensor, " part"]:
    """The largest σ that a proof gives of each sample."""
    proof = question.proofs[job.proof]

    def margins(open_: Tensor, sigma: Tensor) -> Tensor:
        job.deadline.check()
        which = job.members[open_]
        failure = proof.failure(question.x[which], question.y[which], sigma, torch.full_like(sigma, FIRST * job.asked))
        # Positive where it is proven.
        return torch.where(failure.probability <= job.asked, 1.0, -1.0)

    return largest_proven(margins, job.start, job.proven, job.top, job.rtol)
