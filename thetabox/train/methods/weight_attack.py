"""Adversarial weight attack during training (Büchel, Faber, Muir, ICLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from thetabox.errors import InputError
from thetabox.train.methods.boundary import BOUNDARY_LOSSES
from thetabox.train.methods.disturbed import BATCH_NORM, EXCLUDE_MEANING, INCLUDE_MEANING, disturbed
from thetabox.train.methods.method import Method, Step, Weights, check_range
from thetabox.train.methods.relative_attack import moved, relative_attack


@dataclass(frozen=True)
class WeightAttack(Method):
    r"""Adds the damage that an attack on the weights does to the outputs.

    .. math::
        \theta^* = \theta + |\theta|\,\delta, \qquad
        \delta_0 = \sigma n, \quad n \sim N(0, 1), \qquad
        \delta_{i+1} = \Pi\!\left(\delta_i + \tfrac{\zeta}{N}\,\mathrm{sign}\,\nabla_{\theta^*}
            \mathrm{KL}(f(\theta), f(\theta^*))\right)

    loss = task loss + β_rob · KL(f(θ), f(θ*)), δ held constant in the gradient, so that ∂θ*/∂θ is the paper's
    diagonal Jacobian 1 + sign(θ) δ. Π clips δ to [−ζ, ζ]: θ* never leaves the relative box of size ζ (the authors'
    code does not project). Algorithm 1 of arXiv 2106.05009. ``loss`` puts another distance of the outputs in the
    place of KL, in the attack and in the loss (:mod:`thetabox.train.methods.boundary`, from the authors' code);
    ``warmup`` is the share of the training before the attack sets in (0 from a pretrained network). Neuron parameters
    are attacked where ``include`` names them: they are not trained, but the weights learn to do without their exact
    values.
    """

    name: ClassVar[str] = "weight-attack"
    summary: ClassVar[str] = "task loss plus the output change under an adversarial weight attack"
    source: ClassVar[str] = "Büchel, Faber, Muir, ICLR 2022, Algorithm 1"
    meanings: ClassVar[dict[str, str]] = {
        "beta_rob": "weight of the robustness term",
        "zeta": "size of the attack, relative to each weight's size",
        "steps": "gradient steps of the attack",
        "sigma": "standard deviation of the random start, relative to each weight's size",
        "loss": f"distance of the outputs: {', '.join(BOUNDARY_LOSSES)}",
        "warmup": "share of the training before the attack sets in, 0 to 1",
        "include": INCLUDE_MEANING,
        "exclude": EXCLUDE_MEANING,
    }
    searches: ClassVar[bool] = True

    beta_rob: float = 0.25
    zeta: float = 0.1
    steps: int = 10
    sigma: float = 1e-3
    loss: str = "kl"
    warmup: float = 0.0
    include: str = "*"
    exclude: str = BATCH_NORM

    def __post_init__(self) -> None:
        check_range("beta_rob", self.beta_rob, 0)
        check_range("zeta", self.zeta, 0)
        check_range("steps", self.steps, 1)
        check_range("sigma", self.sigma, 0)
        check_range("warmup", self.warmup, 0, 1)
        if self.loss not in BOUNDARY_LOSSES:
            raise InputError(f"loss={self.loss!r} is unknown; choose one of {', '.join(BOUNDARY_LOSSES)}")

    @property
    def gradients_per_step(self) -> float:
        return 1 + (1 - self.warmup) * (self.steps + 1)

    def attack(self, step: Step, clean: Tensor) -> Weights:
        """Relative offsets δ that move the outputs away from ``clean`` (the logits at θ, detached)."""
        centre = {
            name: value.detach()
            for name, value in disturbed(step.model, step.theta, self.include, self.exclude).items()
        }
        others = {name: value.detach() for name, value in step.theta.items() if name not in centre}
        start = {name: self.sigma * step.normal(value) for name, value in centre.items()}

        def damage(attacked: Weights) -> Tensor:
            return BOUNDARY_LOSSES[self.loss](clean, step.logits({**others, **attacked}))

        return relative_attack(damage, centre, start, self.zeta, self.steps)

    def extra(self, step: Step, logits: Tensor | None) -> Tensor | None:
        if step.progress < self.warmup:
            return None
        clean = step.logits(step.theta) if logits is None else logits
        delta = self.attack(step, clean.detach())
        centre = disturbed(step.model, step.theta, self.include, self.exclude)
        attacked = {name: moved(value, delta[name]) for name, value in centre.items()}
        return self.beta_rob * BOUNDARY_LOSSES[self.loss](clean, step.logits({**step.theta, **attacked}))
