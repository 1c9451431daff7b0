"""Adversarial weight attack during training (Büchel, Faber, Muir, ICLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from thetabox.train.methods.method import Method, Step, check_range


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
    code does not project). Algorithm 1 of arXiv 2106.05009.
    """

    name: ClassVar[str] = "weight-attack"
    summary: ClassVar[str] = "task loss plus the output change under an adversarial weight attack"
    source: ClassVar[str] = "Büchel, Faber, Muir, ICLR 2022, Algorithm 1"
    meanings: ClassVar[dict[str, str]] = {
        "beta_rob": "weight of the robustness term",
        "zeta": "size of the attack, relative to each weight's size",
        "steps": "gradient steps of the attack",
        "sigma": "standard deviation of the random start, relative to each weight's size",
    }

    beta_rob: float = 0.25
    zeta: float = 0.1
    steps: int = 10
    sigma: float = 1e-3

    def __post_init__(self) -> None:
        check_range("beta_rob", self.beta_rob, 0)
        check_range("zeta", self.zeta, 0)
        check_range("steps", self.steps, 1)
        check_range("sigma", self.sigma, 0)

    def attack(self, step: Step, target: Tensor) -> dict[str, Tensor]:
        """Relative offsets δ that move the outputs away from ``target`` (log-probabilities at θ)."""
        theta = {name: value.detach() for name, value in step.theta.items()}
        size = {name: value.abs() for name, value in theta.items()}
        delta = {name: self._inside(self.sigma * step.normal(value)) for name, value in theta.items()}
        for _ in range(self.steps):
            attacked = {name: torch.addcmul(theta[name], size[name], delta[name]).requires_grad_() for name in theta}
            divergence = _divergence(target, step.logits(attacked))
            gradients = torch.autograd.grad(divergence, list(attacked.values()), allow_unused=True)
            for name, gradient in zip(attacked, gradients, strict=True):
                if gradient is not None:
                    delta[name] = self._inside(delta[name] + (self.zeta / self.steps) * gradient.sign())
        return delta

    def extra(self, step: Step, logits: Tensor | None) -> Tensor:
        clean = log_softmax(step.logits(step.theta) if logits is None else logits, 1)
        delta = self.attack(step, clean.detach())
        attacked = {name: theta + theta.abs() * delta[name] for name, theta in step.theta.items()}
        return self.beta_rob * _divergence(clean, step.logits(attacked))

    def _inside(self, delta: Tensor) -> Tensor:
        return delta.clamp(-self.zeta, self.zeta)


def _divergence(log_p: Tensor, logits: Tensor) -> Tensor:
    """Mean over the batch of KL(p, softmax(logits)), in nats."""
    return kl_div(log_softmax(logits, 1), log_p, reduction="batchmean", log_target=True)
