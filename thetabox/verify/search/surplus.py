"""Effort that samples leave, for those whose proofs promise most.

``effort`` is what a sample may cost on average. Each has that much for itself, so what is proven of it alone is proven
of it in any company. Most need less: intervals prove them, or a first walk. What they leave is given to open proofs by
branch and bound that can go on, those first of which the largest share stands; each is offered a multiple of what it
would take in all if it went on as it began, and what it leaves of that is offered to the next. Shares of trees are a
usual guess of their sizes (Knuth 1975, Estimating the efficiency of backtrack programs).
"""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from thetabox.verify.search.cascade import part_size
from thetabox.verify.search.parts import Part, Parts, Request
from thetabox.verify.search.rounds import Line

# How many times its guessed size a proof is offered: of 40 on vowels, nine in ten took less than four times the guess.
OFFERED = 4.0
# Share that counts as proven of a proof of which nothing is yet.
LEAST_SHARE = 1.0 / 16.0
# Open proofs of a stage that are kept in memory.
MOST_KEPT = 4096


def spent(parts: Parts, todo: Tensor, all_: Tensor) -> Line:
    """A stage on the samples that are open, and with what is left at this ε of all effort on those that promise most.

    Args:
        parts: the stage.
        todo: the samples that are open, the most promising ones first.
        all_: every sample that has an effort of its own.
    """
    first = yield parts.over(todo)
    if parts.resumes:
        yield from _more(parts, first, all_)


def _more(parts: Parts, first: list[Part], all_: Tensor) -> Line:
    """What is left, in waves: to as many open proofs as it offers enough, in the order of their promise."""
    pool = float(parts.left[all_].sum())
    waiting = _by_promise(parts, first)
    if not math.isfinite(pool) or not waiting:
        return
    parts.left[all_] = 0.0
    wave = 0
    while waiting and pool >= parts.least:
        offers: list[tuple[int, float]] = []
        while waiting and pool >= parts.least:
            sample, wanted = waiting.popleft()
            offers.append((sample, min(wanted, pool)))
            pool -= offers[-1][1]
        members = torch.tensor([sample for sample, _ in offers])
        parts.left[members] = torch.tensor([offer for _, offer in offers], dtype=torch.float64)
        wanted_parts = [
            Request(f"more-{wave}-{number}", some, parts.left[some], 0.0, more=True)
            for number, some in enumerate(members.split(part_size(parts.stage)))
        ]
        for some in _batches(wanted_parts):
            yield from _at_hand(parts, first, [request for request in some if parts.held(request) is None])
            yield some
        pool += float(parts.left[members].sum())
        parts.left[members] = 0.0
        wave += 1


def _by_promise(parts: Parts, first: list[Part]) -> deque[tuple[int, float]]:
    """Open proofs that can go on, the best first, each with what it is offered."""
    ranked: list[tuple[float, int, float]] = []
    for part in first:
        if part.bounds is None or part.promise is None:
            continue
        used = part.effort - parts.left[part.members]
        for sample, margin, promise, cost in zip(
            part.members.tolist(), part.bounds.tolist(), part.promise.tolist(), used.tolist(), strict=True
        ):
            if not margin > 0 and promise >= 0:
                ranked.append((promise, sample, OFFERED * cost / max(promise, LEAST_SHARE)))
    ranked.sort(key=lambda entry: -entry[0])
    return deque((sample, wanted) for _, sample, wanted in ranked)


def _batches(wanted: list[Request]) -> list[list[Request]]:
    """So many at a time that their open proofs fit memory."""
    size = max(1, MOST_KEPT // max(len(request.members) for request in wanted))
    return [wanted[number : number + size] for number in range(0, len(wanted), size)]


def _at_hand(parts: Parts, first: list[Part], wanted: list[Request]) -> Line:
    """Make anew what a run before this one kept in memory, or what was too much to keep."""
    members = [n for request in wanted for n in request.members.tolist()]
    parts.kept.needed = frozenset((n, parts.epsilon) for n in members)
    gone = torch.tensor([n for n in members if not parts.kept.holds((n, parts.epsilon))])
    again = [parts.again(part) for part in first if bool(torch.isin(part.members, gone).any())]
    if again:
        yield again
