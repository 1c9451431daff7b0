"""Projected sign-gradient ascent inside the relative box, the search that weight attack and AWP share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from thetabox.train.methods.disturbed import inside
from thetabox.train.methods.method import Weights


def relative_attack(
    loss: Callable[[Weights], Tensor], centre: Weights, start: Weights, size: float, steps: int
) -> Weights:
    r"""Offsets δ of the weights :math:`\theta + |\theta|\delta` that raise a loss.

    .. math::
        \delta_{i+1} = \Pi\!\left(\delta_i + \tfrac{s}{N}\,\mathrm{sign}\,\nabla L(\theta + |\theta|\delta_i)\right)

    Π clips to [−s, s] (and keeps neuron parameters positive).

    Args:
        loss: of the disturbed weights, by name.
        centre: θ, detached.
        start: δ₀; clipped too.
        size: s, relative to each weight's size.
        steps: N.
    """
    delta = {name: inside(name, start[name], size) for name in centre}
    for _ in range(steps):
        attacked = {name: moved(centre[name], delta[name]).requires_grad_() for name in centre}
        gradients = torch.autograd.grad(loss(attacked), list(attacked.values()), allow_unused=True)
        for name, gradient in zip(attacked, gradients, strict=True):
            if gradient is not None:
                delta[name] = inside(name, delta[name] + (size / steps) * gradient.sign(), size)
    return delta


def moved(theta: Tensor, delta: Tensor) -> Tensor:
    """θ + |θ|δ."""
    return torch.addcmul(theta, theta.abs(), delta)
