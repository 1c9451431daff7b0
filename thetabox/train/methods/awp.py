"""Adversarial weight perturbation (Wu, Xia, Wang, NeurIPS 2020), in the relative box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from thetabox.train.methods.disturbed import BATCH_NORM, EXCLUDE_MEANING, INCLUDE_MEANING, disturbed
from thetabox.train.methods.method import Method, Objective, Step, Weights, check_range, gradient_at, set_gradient
from thetabox.train.methods.relative_attack import moved, relative_attack


@dataclass(frozen=True)
class Awp(Method):
    r"""The gradient at attacked inputs and attacked weights, taken for the gradient at the weights.

    .. math::
        x^* &= \text{sign-gradient ascent of } \mathrm{CE}(f(x; \theta), y) \text{ within } \|x^* - x\|_\infty \le
            \epsilon_{pga}, \quad \text{from } x + U(-\epsilon_{pga}, \epsilon_{pga}) \\
        \delta_0 &= \sigma n, \qquad \delta_{i+1} = \Pi\!\left(\delta_i + \tfrac{\zeta}{N}\,\mathrm{sign}\,
            \nabla \mathrm{CE}(f(x^*; \theta + |\theta|\delta_i), y)\right) \\
        \theta &\leftarrow \theta - \eta\,\nabla L(\theta + \gamma|\theta|\delta_N; x^*, y)

    Π clips to [−ζ, ζ], so the attack searches the relative box of size ζ, and the gradient is taken in that of size
    γζ. Wu et al. (arXiv 2004.05884) allow ‖v‖ ≤ γ‖w‖ for a layer. The code beside arXiv 2106.05009 adapts it so, with
    γ = 0.1, ζ = 0.2, N = 10 and 3 steps on the inputs; its attack on the weights sees the clean inputs, ours the
    attacked ones, as in Wu et al. ``eps_pga`` is in the unit of the inputs as the network sees them; 0 leaves them
    alone.
    """

    name: ClassVar[str] = "awp"
    summary: ClassVar[str] = "gradient at attacked weights (and inputs)"
    source: ClassVar[str] = "Wu, Xia, Wang, NeurIPS 2020; relative as in Büchel, Faber, Muir, ICLR 2022"
    meanings: ClassVar[dict[str, str]] = {
        "gamma": "share of the attack on the weights at which the gradient is taken",
        "zeta": "size of the attack on the weights, relative to each weight's size",
        "eps_pga": "size of the attack on the inputs, in their unit",
        "steps": "gradient steps of the attack on the weights",
        "input_steps": "gradient steps of the attack on the inputs",
        "sigma": "standard deviation of the random start, relative to each weight's size",
        "include": INCLUDE_MEANING,
        "exclude": EXCLUDE_MEANING,
    }
    searches: ClassVar[bool] = True

    gamma: float = 0.1
    zeta: float = 0.2
    eps_pga: float = 0.0
    steps: int = 10
    input_steps: int = 3
    sigma: float = 1e-3
    include: str = "*"
    exclude: str = BATCH_NORM

    def __post_init__(self) -> None:
        check_range("gamma", self.gamma, 0, 1)
        check_range("zeta", self.zeta, 0)
        check_range("eps_pga", self.eps_pga, 0)
        check_range("steps", self.steps, 1)
        check_range("input_steps", self.input_steps, 1)
        check_range("sigma", self.sigma, 0)

    @property
    def gradients_per_step(self) -> float:
        return 1.0 + self.steps + (self.input_steps if self.eps_pga > 0 else 0)

    def backward(self, step: Step, objective: Objective) -> Tensor:
        theta = {name: value.detach() for name, value in step.theta.items()}
        if self.eps_pga > 0:
            step.x = self.attacked_inputs(step, theta)
        centre = disturbed(step.model, theta, self.include, self.exclude)
        delta = self.attack(step, theta, centre)
        attacked = {name: moved(value, self.gamma * delta[name]) for name, value in centre.items()}
        loss, gradient = gradient_at(objective, {**theta, **attacked})
        set_gradient(step.theta, gradient)
        return loss

    def attack(self, step: Step, theta: Weights, centre: Weights) -> Weights:
        """Relative offsets δ of ``centre`` that raise the cross entropy."""
        start = {name: self.sigma * step.normal(value) for name, value in centre.items()}

        def damage(attacked: Weights) -> Tensor:
            return cross_entropy(step.logits({**theta, **attacked}), step.y)

        return relative_attack(damage, centre, start, self.zeta, self.steps)

    def attacked_inputs(self, step: Step, theta: Weights) -> Tensor:
        """Inputs within ``eps_pga`` of the batch that raise the cross entropy."""
        uniform = torch.rand(step.x.shape, generator=step.generator, dtype=step.x.dtype, device=step.x.device)
        offset = self.eps_pga * (2 * uniform - 1)
        for _ in range(self.input_steps):
            x = (step.x + offset).requires_grad_()
            (gradient,) = torch.autograd.grad(cross_entropy(step.logits(theta, x=x), step.y), x)
            offset = offset + self.eps_pga / self.input_steps * gradient.sign()
            offset = offset.clamp(-self.eps_pga, self.eps_pga)
        return step.x + offset
