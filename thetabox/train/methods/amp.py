"""Adversarial model perturbation (Zheng, Zhang, Mao, CVPR 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thetabox.train.methods.method import Method, Objective, Step, Weights, check_range, gradient_at, set_gradient
from thetabox.train.methods.sharpness import joint_norm


@dataclass(frozen=True)
class Amp(Method):
    r"""The gradient at the worst weights of a Euclidean ball, found by plain gradient ascent.

    .. math::
        \Delta_0 = 0, \qquad \Delta_{i+1} = \Pi_\epsilon(\Delta_i + \zeta \nabla L(\theta + \Delta_i)), \qquad
        \theta \leftarrow \theta - \eta\,\nabla L(\theta + \Delta_N)

    :math:`\Pi_\epsilon` shortens Δ, all parameters together, to length ε where it is longer; Δ is held constant in the
    gradient, noise and masks are the same in all of them. Not adapted to the relative box: the ball is absolute, as
    in the paper (arXiv 2010.04925, Algorithm 1; N = 1, ζ = 1, ε = 0.5 for CIFAR-10 there). Its code clips tensor by
    tensor.
    """

    name: ClassVar[str] = "amp"
    summary: ClassVar[str] = "gradient at the worst weights of a Euclidean ball"
    source: ClassVar[str] = "Zheng, Zhang, Mao, CVPR 2021"
    meanings: ClassVar[dict[str, str]] = {
        "epsilon": "radius of the ball",
        "rate": "rate of the ascent",
        "steps": "gradient steps of the ascent",
    }
    searches: ClassVar[bool] = True

    epsilon: float = 0.5
    rate: float = 1.0
    steps: int = 1

    def __post_init__(self) -> None:
        check_range("epsilon", self.epsilon, 0)
        check_range("rate", self.rate, 0)
        check_range("steps", self.steps, 1)

    @property
    def gradients_per_step(self) -> float:
        return 1.0 + self.steps

    def backward(self, step: Step, objective: Objective) -> Tensor:
        noise = step.generator.get_state()
        theta = {name: value.detach() for name, value in step.theta.items()}
        loss, gradient = gradient_at(objective, theta)
        first = loss
        delta = {name: torch.zeros_like(value) for name, value in theta.items()}
        for _ in range(self.steps):
            delta = self._shortened({name: delta[name] + self.rate * gradient[name] for name in theta})
            step.generator.set_state(noise)
            gradient = gradient_at(objective, {name: theta[name] + delta[name] for name in theta})[1]
        set_gradient(step.theta, gradient)
        return first

    def _shortened(self, delta: Weights) -> Weights:
        length = joint_norm(delta)
        factor = self.epsilon / length if length > self.epsilon else 1.0
        return {name: factor * value for name, value in delta.items()}
