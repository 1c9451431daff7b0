"""After a proof: nothing that was claimed is contradicted by what the network itself returned on the way.

Whatever the domain, its rules, the workers that ran them and the files in which parts were kept: a lower bound of a
margin, over all weights of the box, is at most the margin at any of them. The network was run at its own weights (every
sample), in its own precision, and at points of the box (a few samples), so this costs no run more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.agreement.nearness import at_zero
from thetabox.verify.arguments import margins_of
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.problem import Problem


@dataclass(frozen=True)
class Answers:
    """What the network returned somewhere in the box.

    Attributes:
        epsilon: the least ε whose box holds the weights that it had.
        samples: places of the samples.
        logits: float64; what is no number is known of nothing, and must not be claimed.
        room: how far, relative to the largest logit of a sample, a logit may be off those that a claim speaks of.
        exact: a claim speaks of these very numbers; else bounds at ε = 0 tell how far rounding may go.
    """

    epsilon: float
    samples: Int[Tensor, " answered"]
    logits: Float[Tensor, "answered classes"]
    room: float
    exact: bool = False

    @property
    def rooms(self) -> Float[Tensor, "answered 1"]:
        """How far the logits may be off."""
        finite = self.logits.masked_fill(~self.logits.isfinite(), 0.0)
        return self.room * finite.abs().amax(1, keepdim=True)


@torch.no_grad()
def check_margins(
    problem: Problem,
    answers: list[Answers],
    labels: Int[Tensor, " samples"],
    epsilon: Float[Tensor, " levels"],
    margin: Float[Tensor, "levels samples"],
) -> None:
    """Hold lower bounds of margins against margins.

    Of a network whose last function is left out (a softmax), margins are of what stands in front of it, and what is
    compared is their sign.

    Raises:
        InputError: a bound is above a margin.
    """
    margin = margin.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    if problem.network.ending:
        margin = torch.where(margin > 0, 0.0, -torch.inf)
    for given in answers:
        levels = epsilon >= given.epsilon
        if not levels.any():
            continue
        at = labels[given.samples]
        claimed, level = margin[levels][:, given.samples].max(0)
        own = margins_of(given.logits, at)
        # Nothing is proven of what is no number: a claim of 0 stands for one that is above it.
        highest = torch.where(own.isnan(), -torch.finfo(own.dtype).tiny, own + 2.0 * given.rooms.squeeze(1))
        places = (claimed > highest).nonzero().squeeze(1)
        if not given.exact and len(places):
            ends = at_zero(problem, given.samples[places], {})
            limit = _highest_margin(ends, at[places])
            if given.epsilon > 0.0:  # at other weights rounding goes about as far
                limit = highest[places] + 4.0 * (ends.upper - ends.lower).amax(1)
            places = places[claimed[places] > limit]
        if len(places):
            first = places[0]
            _contradicted(
                problem,
                f"sample {int(given.samples[first])} at ε = {float(epsilon[levels][level[first]]):g} a margin of at "
                f"least {float(claimed[first]):.6g}",
                float(highest[first]),
            )


@torch.no_grad()
def check_logits(
    problem: Problem,
    answers: list[Answers],
    epsilon: Float[Tensor, "levels samples"],
    lower: Float[Tensor, "levels samples classes"],
    upper: Float[Tensor, "levels samples classes"],
) -> None:
    """Hold bounds of logits against logits.

    Raises:
        InputError: a logit lies outside.
    """
    for given in answers:
        in_box = (epsilon[:, given.samples] >= given.epsilon)[..., None]
        low = torch.where(in_box, lower[:, given.samples], -torch.inf).amax(0)
        high = torch.where(in_box, upper[:, given.samples], torch.inf).amin(0)
        places = _beyond(low, high, given.logits - given.rooms, given.logits + given.rooms)
        if not given.exact and len(places):
            ends = at_zero(problem, given.samples[places], {})
            lowest, highest = ends.lower, ends.upper
            if given.epsilon > 0.0:
                room = given.rooms[places] + 4.0 * (ends.upper - ends.lower).amax(1, keepdim=True)
                lowest, highest = given.logits[places] - room, given.logits[places] + room
            places = places[_beyond(low[places], high[places], lowest, highest)]
        if len(places):
            first = places[0]
            over = (given.logits[first] - high[first]).maximum(low[first] - given.logits[first]).argmax()
            _contradicted(
                problem,
                f"logit {int(over)} of sample {int(given.samples[first])} that it lies in "
                f"[{float(low[first, over]):.6g}, {float(high[first, over]):.6g}]",
                float(given.logits[first, over]),
            )


def _highest_margin(ends: Interval, labels: Tensor) -> Tensor:
    """Of logits in an interval."""
    others = ends.lower.scatter(1, labels[:, None], -torch.inf).amax(1)
    return ends.upper.gather(1, labels[:, None]).squeeze(1) - others


def _beyond(low: Tensor, high: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """Rows in which bounds and what they should hold are apart somewhere, or in which bounds hold what is no number."""
    gone = lowest.isnan() & (low.isfinite() | high.isfinite())
    apart: Bool[Tensor, "answered classes"] = (low > highest) | (high < lowest) | gone
    return apart.any(1).nonzero().squeeze(1)


def _contradicted(problem: Problem, claim: str, answer: float) -> None:
    raise InputError(
        f"domain {problem.settings.domain!r} says of {claim}, where the network itself has {answer:.6g}: the bounds "
        "are wrong, so there is no certificate; the fault is in a rule or a domain (one of your own, if you registered "
        "any), or in parts that an earlier run kept (resume=, --out); else please report it with the network"
    )
