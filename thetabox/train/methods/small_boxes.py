"""Certified training with small boxes: intervals around attacked weights, inside the box that is to be proven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy

from thetabox.box import Box
from thetabox.models.lsnn import Spike
from thetabox.train.methods.disturbed import disturbed
from thetabox.train.methods.ibp import Ibp
from thetabox.train.methods.method import Step, Weights, check_range
from thetabox.train.methods.relative_attack import moved, relative_attack
from thetabox.verify.worst_case import worst_margins


@dataclass(frozen=True)
class SmallBoxes(Ibp):
    r"""``ibp`` with the intervals of a smaller box, which stands around attacked weights inside the whole one.

    .. math::
        \theta^* = \theta + |\theta|\,\delta, \quad |\delta| \le s = \frac{(1 - \lambda)\,\varepsilon_t}
            {1 + \lambda\varepsilon_t}, \qquad
        L = (1 - \kappa)\,\mathrm{CE}(f_\theta(x), y) + \kappa\,\mathrm{CE}(-\underline m^*(x, \lambda\varepsilon_t), y)

    δ is found by sign-gradient ascent of the batch's cross entropy, ``steps`` steps from 0, and is held constant in the
    gradient; :math:`\underline m^*` bounds the margins over θ* ± λε_t|θ*|. s is the largest offset at which that box
    stays inside θ ± ε_t|θ|: s + λε_t(1 + s) = ε_t. λ = 1 is ``ibp`` to the last bit, λ = 0 the attack alone.

    Intervals of all of a large box bend a network to what intervals can prove; those of a small box less so, and dearer
    bounds (``domain="auto"``) prove the rest. After Müller, Eckert, Fischer, Vechev (SABR, ICLR 2023, arXiv
    2210.04871), from which it differs in: (1) the box is one of weights, and relative; (2) so the attack is one for
    the whole batch, where each input has its own; (3) the clean loss keeps the share 1 − κ.
    """

    name: ClassVar[str] = "small-boxes"
    summary: ClassVar[str] = "the interval worst case of a small box around attacked weights, inside the whole box"
    source: ClassVar[str] = "Müller, Eckert, Fischer, Vechev, ICLR 2023 (arXiv 2210.04871), there for inputs"
    meanings: ClassVar[dict[str, str]] = {
        **Ibp.meanings,
        "share": "λ, size of the small box beside the whole one, 0 to 1 (1: ibp)",
        "steps": "gradient steps of the attack",
    }
    searches: ClassVar[bool] = True

    epsilon: float = 5e-2
    start: float = 1e-3
    kappa: float = 0.9
    ramp: float = 0.5
    growth: str = "linear"
    share: float = 0.7
    steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("share", self.share, 0, 1)
        check_range("steps", self.steps, 1)

    @property
    def gradients_per_step(self) -> float:
        return super().gradients_per_step + self.steps * (1 - self.warmup)

    def worst(self, step: Step, epsilon: float) -> Tensor:
        small = self.share * epsilon
        size = (epsilon - small) / (1 + small)
        weights = self.attacked(step, size)
        return worst_margins(step.model, step.x, step.y, small, box=Box(), weights=weights, surrogate=Spike.apply)

    def attacked(self, step: Step, size: float) -> Weights:
        """θ + |θ|δ, a function of the parameters; δ, no larger than ``size``, raises the cross entropy."""
        boxed = disturbed(step.model, step.theta, "*", "")
        centre = {name: value.detach() for name, value in boxed.items()}
        others = {name: value.detach() for name, value in step.theta.items() if name not in centre}

        def damage(attacked: Weights) -> Tensor:
            return cross_entropy(step.logits({**others, **attacked}), step.y)

        delta = relative_attack(damage, centre, {n: w.new_zeros(w.shape) for n, w in centre.items()}, size, self.steps)
        return {**step.theta, **{name: moved(value, delta[name]) for name, value in boxed.items()}}
