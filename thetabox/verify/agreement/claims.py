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
class Observed:
    """What the network returned somewhere in the box.

    Attributes:
        epsilon: the least ε whose box holds the weights that it had.
        samples: indices of the samples.
        logits: float64; what is no number is known of nothing, and must not be claimed.
        tolerance: relative to the largest logit of a sample: how far a logit may be off those that a claim speaks of.
        exact: a claim speaks of these very numbers; else bounds at ε = 0 tell how far rounding may go.
    """

    epsilon: float
    samples: Int[Tensor, " observed"]
    logits: Float[Tensor, "observed classes"]
    tolerance: float
    exact: bool = False

    @property
    def tolerances(self) -> Float[Tensor, "observed 1"]:
        """How far the logits may be off."""
        finite = self.logits.masked_fill(~self.logits.isfinite(), 0.0)
        return self.tolerance * finite.abs().amax(1, keepdim=True)


@torch.no_grad()
def check_margins(
    problem: Problem,
    observed: list[Observed],
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
    for seen in observed:
        levels = epsilon >= seen.epsilon
        if not levels.any():
            continue
        at = labels[seen.samples]
        claimed, level = margin[levels][:, seen.samples].max(0)
        margins = margins_of(seen.logits, at)
        # Nothing is proven of what is no number: a claim of 0 stands for one that is above it.
        highest = torch.where(
            margins.isnan(), -torch.finfo(margins.dtype).tiny, margins + 2.0 * seen.tolerances.squeeze(1)
        )
        indices = (claimed > highest).nonzero().squeeze(1)
        if not seen.exact and len(indices):
            ends = at_zero(problem, seen.samples[indices], {})
            limit = _highest_margin(ends, at[indices])
            if seen.epsilon > 0.0:  # at other weights rounding goes about as far
                limit = highest[indices] + 4.0 * (ends.upper - ends.lower).amax(1)
            indices = indices[claimed[indices] > limit]
        if len(indices):
            first = indices[0]
            _contradicted(
                problem,
                f"sample {int(seen.samples[first])} at ε = {float(epsilon[levels][level[first]]):g} a margin of at "
                f"least {float(claimed[first]):.6g}",
                float(highest[first]),
            )


@torch.no_grad()
def check_logits(
    problem: Problem,
    observed: list[Observed],
    epsilon: Float[Tensor, "levels samples"],
    lower: Float[Tensor, "levels samples classes"],
    upper: Float[Tensor, "levels samples classes"],
) -> None:
    """Hold bounds of logits against logits.

    Raises:
        InputError: a logit lies outside.
    """
    for seen in observed:
        in_box = (epsilon[:, seen.samples] >= seen.epsilon)[..., None]
        low = torch.where(in_box, lower[:, seen.samples], -torch.inf).amax(0)
        high = torch.where(in_box, upper[:, seen.samples], torch.inf).amin(0)
        indices = _beyond(low, high, seen.logits - seen.tolerances, seen.logits + seen.tolerances)
        if not seen.exact and len(indices):
            ends = at_zero(problem, seen.samples[indices], {})
            lowest, highest = ends.lower, ends.upper
            if seen.epsilon > 0.0:
                tolerance = seen.tolerances[indices] + 4.0 * (ends.upper - ends.lower).amax(1, keepdim=True)
                lowest, highest = seen.logits[indices] - tolerance, seen.logits[indices] + tolerance
            indices = indices[_beyond(low[indices], high[indices], lowest, highest)]
        if len(indices):
            first = indices[0]
            over = (seen.logits[first] - high[first]).maximum(low[first] - seen.logits[first]).argmax()
            _contradicted(
                problem,
                f"logit {int(over)} of sample {int(seen.samples[first])} that it lies in "
                f"[{float(low[first, over]):.6g}, {float(high[first, over]):.6g}]",
                float(seen.logits[first, over]),
            )


def _highest_margin(ends: Interval, labels: Tensor) -> Tensor:
    """Of logits in an interval."""
    others = ends.lower.scatter(1, labels[:, None], -torch.inf).amax(1)
    return ends.upper.gather(1, labels[:, None]).squeeze(1) - others


def _beyond(low: Tensor, high: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """Rows in which bounds and what they should hold are apart somewhere, or in which bounds hold what is no number."""
    gone = lowest.isnan() & (low.isfinite() | high.isfinite())
    apart: Bool[Tensor, "observed classes"] = (low > highest) | (high < lowest) | gone
    return apart.any(1).nonzero().squeeze(1)


def _contradicted(problem: Problem, claim: str, value: float) -> None:
    raise InputError(
        f"domain {problem.settings.domain!r} says of {claim}, where the network itself has {value:.6g}: the bounds "
        "are wrong, so there is no certificate; the fault is in a rule or a domain (one of your own, if you registered "
        "any), or in parts that an earlier run kept (resume=, --out); else please report it with the network"
    )
