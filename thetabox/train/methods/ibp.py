"""Certified training: the worst case that intervals prove, as a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.models.lsnn import Spike
from thetabox.train.methods.method import Method, Step, check_range
from thetabox.verify.worst_case import worst_margins

LAST = 0.25
"""Share of the training behind the ramp in which the best weights are looked for."""
GROWTHS: dict[str, Callable[[float, float, float], float]] = {
    "geometric": lambda start, end, risen: start * (end / start) ** risen,
    "linear": lambda start, end, risen: start + (end - start) * risen,
}
"""Name → size of the box where a share ``risen`` of its ramp is done."""


@dataclass(frozen=True)
class Ibp(Method):
    r"""Adds the cross entropy of the worst case that intervals prove for the weights' box.

    .. math::
        L = (1 - \kappa)\,\mathrm{CE}(f_\theta(x), y) + \kappa\,\mathrm{CE}(-\underline m(x, \varepsilon_t), y), \qquad
        \underline m_k \le \min_{|\delta| \le \varepsilon_t |\theta|} f_{\theta+\delta}(x)_y - f_{\theta+\delta}(x)_k

    ε_t grows from ``start`` to ``epsilon`` between ``warmup`` and ``warmup + ramp`` of the training, geometrically or
    in a straight line (``growth``), and κ in a straight line from 0 to ``kappa`` beside it. From 1e-3 to 5e-2 a
    geometric ramp brings half of the box in its last fifth: ``linear`` is better where most samples are to bear a large
    box. Best weights are looked for in the last quarter behind the ramp.

    Interval bound propagation (Gowal et al. 2018, arXiv 1810.12715), there for boxes of inputs, here for the relative
    box of the weights; with 0 < κ < 1 and the clean loss for an attacked one it is the MTL-IBP of De Palma et al. (ICLR
    2024, arXiv 2305.13991). Where another method changes the weights of the task's loss (``forward-noise+ibp``), that
    loss keeps weight 1 and κ weighs what the box adds to the clean one. Spikes have the surrogate gradient of the
    network at both ends of their interval.
    """

    name: ClassVar[str] = "ibp"
    summary: ClassVar[str] = "cross entropy of the worst case that intervals prove, with a growing box"
    source: ClassVar[str] = "Gowal et al. 2018 (arXiv 1810.12715)"
    meanings: ClassVar[dict[str, str]] = {
        "epsilon": "size of the box at the end, relative to each weight's size",
        "start": "size of the box where the ramp begins",
        "kappa": "share of the worst case in the loss at the end, 0 to 1",
        "warmup": "share of the training before the ramp",
        "ramp": "share of the training that the ramp takes",
        "growth": f"how the box grows on the ramp: {' or '.join(GROWTHS)}",
    }

    epsilon: float = 1e-2
    start: float = 1e-5
    kappa: float = 0.5
    warmup: float = 0.1
    ramp: float = 0.6
    growth: str = "geometric"

    def __post_init__(self) -> None:
        check_range("epsilon", self.epsilon, 1e-12)
        check_range("start", self.start, 1e-12, self.epsilon)
        check_range("kappa", self.kappa, 0, 1)
        check_range("warmup", self.warmup, 0, 1)
        check_range("ramp", self.ramp, 0, 1 - self.warmup)
        if self.growth not in GROWTHS:
            raise InputError(f"growth={self.growth!r} is unknown; choose one of {', '.join(GROWTHS)}")

    @property
    def gradients_per_step(self) -> float:
        return 1 + 2 * (1 - self.warmup)  # two products where a plain pass has one

    @property
    def settled_at(self) -> float:
        # Behind the ramp margins still grow, where the accuracy by which weights are chosen does not.
        return 1 - LAST * (1 - self.warmup - self.ramp)

    def extra(self, step: Step, logits: Tensor | None) -> Tensor | None:
        if step.progress < self.warmup:
            return None
        risen = min((step.progress - self.warmup) / self.ramp, 1.0) if self.ramp else 1.0
        margins = self.worst(step, GROWTHS[self.growth](self.start, self.epsilon, risen))
        is_label = torch.zeros_like(margins, dtype=torch.bool).scatter_(1, step.y[:, None], True)
        worst = nn.functional.cross_entropy((-margins).masked_fill(is_label, 0.0), step.y)
        clean = step.logits(step.theta) if logits is None else logits
        kappa = self.kappa * risen
        # The task loss stands outside with weight 1.
        return kappa * (worst.to(clean.dtype) - nn.functional.cross_entropy(clean, step.y))

    def worst(self, step: Step, epsilon: float) -> Tensor:
        """Margins ``[samples, classes]`` that the box of size ``epsilon`` leaves."""
        return worst_margins(step.model, step.x, step.y, epsilon, box=Box(), weights=step.theta, surrogate=Spike.apply)
