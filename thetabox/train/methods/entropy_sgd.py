"""Entropy-SGD (Chaudhari et al., ICLR 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thetabox.train.methods.method import Method, Objective, Step, check_range, gradient_at, set_gradient


@dataclass(frozen=True)
class EntropySgd(Method):
    r"""Descent on the local entropy: towards the mean of a Langevin walk that starts at the weights.

    .. math::
        g_i &= \nabla L(\theta_i), \qquad u_{i+1} = \mu u_i + g_i \\
        \theta_{i+1} &= \theta_i - \eta' \left(g_i + \mu u_{i+1} + \gamma(\theta_i - \theta)
            + \frac{\epsilon}{\sqrt{\eta'/2}}\, n_i\right), \qquad n_i \sim N(0, 1) \\
        \bar\theta_{i+1} &= \alpha \bar\theta_i + (1 - \alpha) \theta_{i+1}

    from θ₀ = θ̄₀ = θ, u₀ = 0, for i < N; then :math:`\theta - \bar\theta_N` is the gradient that the training's
    optimiser gets (for a rate of 1 and plain descent the weights become the walk's mean; the factor γ of the paper
    is in the rate). Scoping: γ = γ₀(1 + γ₁)^t with t the steps so far. All N gradients are of the same batch.
    Algorithm 1 of arXiv 1611.01838, with the momentum and the constants of the code beside it and beside arXiv
    2106.05009: N = 10, η' = 0.1, μ = 0.9, α = 0.75, ε = 1e-4, γ₀ = 0.01, γ₁ = 0.001 (the Python versions hold t at 0).
    γ stays at most 1/η'.
    """

    name: ClassVar[str] = "entropy-sgd"
    summary: ClassVar[str] = "descent towards the mean of a Langevin walk"
    source: ClassVar[str] = "Chaudhari et al., ICLR 2017"
    meanings: ClassVar[dict[str, str]] = {
        "steps": "steps of the walk",
        "rate": "rate of the walk",
        "momentum": "Nesterov momentum of the walk",
        "averaging": "share of the mean that is kept at every step of the walk",
        "noise": "strength of the walk's noise",
        "gamma": "how strongly the walk is drawn back to the weights, at the start of the training",
        "scoping": "growth of it a training step",
    }
    searches: ClassVar[bool] = True

    steps: int = 10
    rate: float = 0.1
    momentum: float = 0.9
    averaging: float = 0.75
    noise: float = 1e-4
    gamma: float = 0.01
    scoping: float = 1e-3

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1)
        check_range("rate", self.rate, 1e-12)
        check_range("momentum", self.momentum, 0, 1)
        check_range("averaging", self.averaging, 0, 1)
        check_range("noise", self.noise, 0)
        check_range("gamma", self.gamma, 0)
        check_range("scoping", self.scoping, 0)

    @property
    def gradients_per_step(self) -> float:
        return float(self.steps)

    @property
    def inner_loops(self) -> int:
        return self.steps

    def backward(self, step: Step, objective: Objective) -> Tensor:
        theta = {name: value.detach() for name, value in step.theta.items()}
        # Beyond 1/η' the pull would overshoot the weights themselves.
        growth = math.exp(min(step.index * math.log1p(self.scoping), 100.0))
        gamma = min(self.gamma * growth, 1 / self.rate)
        walk, mean = dict(theta), dict(theta)
        speed = {name: torch.zeros_like(value) for name, value in theta.items()}
        losses = []
        for _ in range(self.steps):
            loss, gradient = gradient_at(objective, walk)
            losses.append(loss)
            for name, g in gradient.items():
                speed[name] = self.momentum * speed[name] + g
                pull = gamma * (walk[name] - theta[name])
                jitter = self.noise / math.sqrt(self.rate / 2) * step.normal(g)
                walk[name] = walk[name] - self.rate * (g + self.momentum * speed[name] + pull + jitter)
                mean[name] = self.averaging * mean[name] + (1 - self.averaging) * walk[name]
        set_gradient(step.theta, {name: theta[name] - mean[name] for name in theta})
        return losses[0]
