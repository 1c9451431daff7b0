"""Training for proven yield: the margins that most chips keep, as a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.train.methods.ibp import LAST
from thetabox.train.methods.method import Method, Step, check_range
from thetabox.train.yields import BOUNDS, yield_margins

PASSES = {"l2": 3, "means": 6, "rows": 16, "entropic": 26, "auto": 16}
"""Products with the weights that a bound takes, where a plain pass takes one: of ends, of variances, of rows."""


@dataclass(frozen=True)
class Yield(Method):
    r"""Adds the cross entropy of the margins that a chip keeps with probability 1 - δ, as a proof of yield finds them.

    .. math::
        L = (1 - \kappa)\,\mathrm{CE}(f_\theta(x), y) + \kappa\,\mathrm{CE}(-\underline m(x, \sigma_t), y), \qquad
        P\bigl(f_{\theta(1 + \sigma_t n)}(x)_y - f_{\theta(1 + \sigma_t n)}(x)_k \ge \underline m_k \;\forall k\bigr)
            \ge 1 - \delta

    σ_t rises in a straight line from 0 to ``sigma`` between ``warmup`` and ``warmup + ramp`` of the training, and κ
    beside it to ``kappa``; best weights are looked for in the last quarter behind it. With ``after``, methods that it
    is joined with train until ``warmup``, and it alone from there on: ``weight-attack+forward-noise+yield`` is yield
    after weight attack with forward noise then, and else all three at once. The bounds
    (:mod:`thetabox.train.yields`):

    * ``l2``: intervals, each layer's own noise in L2;
    * ``means``: means of the activations as intervals, their noise in L2;
    * ``rows``: the margin's rows backwards through smoothed ReLUs, between ends by forward moments;
    * ``entropic``: dense layers with ReLU: boxes as those of ``means``, the margin's row backwards;
    * ``auto``: entropic where it can be had, else rows (l2 where there is more than plain layers, ReLU, pools).
    """

    name: ClassVar[str] = "yield"
    summary: ClassVar[str] = "cross entropy of the margins that most chips keep, as a proof of yield finds them"
    source: ClassVar[str] = "this project (docs/yield.md)"
    meanings: ClassVar[dict[str, str]] = {
        "sigma": "standard deviation of the noise at the end, relative to each weight's size",
        "delta": "share of chips that may do worse, above 0 and below 1",
        "kappa": "share of these margins in the loss at the end, 0 to 1",
        "bound": f"how margins are bounded: {', '.join(BOUNDS)}",
        "warmup": "share of the training before the ramp",
        "ramp": "share of the training that the ramp takes",
        "after": "whether methods that it is joined with train before the ramp only, instead of all the time",
        "include": "parameters that have errors, patterns as of a Box",
        "exclude": "patterns that are left out again",
    }

    sigma: float = 0.1
    delta: float = 0.01
    kappa: float = 0.3
    bound: str = "auto"
    warmup: float = 0.1
    ramp: float = 0.5
    after: bool = False
    include: str = "*"
    exclude: str = ""

    def __post_init__(self) -> None:
        check_range("sigma", self.sigma, 0)
        check_range("delta", self.delta, 1e-12, 1 - 1e-12)
        check_range("kappa", self.kappa, 0, 1)
        check_range("warmup", self.warmup, 0, 1)
        check_range("ramp", self.ramp, 0, 1 - self.warmup)
        if self.bound not in BOUNDS:
            raise InputError(f"bound={self.bound!r} is unknown; choose one of {', '.join(BOUNDS)}")

    @property
    def gradients_per_step(self) -> float:
        return 1 + PASSES[self.bound] * (1 - self.warmup)

    @property
    def settled_at(self) -> float:
        # Behind the ramp margins still grow, where the accuracy by which weights are chosen does not.
        return 1 - LAST * (1 - self.warmup - self.ramp)

    @property
    def alone_from(self) -> float:
        return self.warmup if self.after else 1.0

    def extra(self, step: Step, logits: Tensor | None) -> Tensor | None:
        if step.progress < self.warmup:
            return None
        risen = min((step.progress - self.warmup) / self.ramp, 1.0) if self.ramp else 1.0
        margins = yield_margins(
            step.model,
            step.x,
            step.y,
            risen * self.sigma,
            delta=self.delta,
            bound=self.bound,
            box=Box(include=self.include, exclude=self.exclude),
            weights=step.theta,
        )
        is_label = torch.zeros_like(margins, dtype=torch.bool).scatter_(1, step.y[:, None], True)
        worst = nn.functional.cross_entropy((-margins).masked_fill(is_label, 0.0), step.y)
        clean = step.logits(step.theta) if logits is None else logits
        # The task loss stands outside with weight 1.
        return risen * self.kappa * (worst.to(clean.dtype) - nn.functional.cross_entropy(clean, step.y))
