"""Sharpness-aware minimisation: SAM, ASAM and SAMSON, which differ in how the step uphill is scaled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.train.methods.method import Method, Objective, Step, Weights, check_range, gradient_at, set_gradient

BIASES = "*bias,b_*"
UNSCALED = "tensors whose T is 1, name patterns separated by commas"


@dataclass(frozen=True)
class Sam(Method):
    r"""The gradient at the worst weights nearby, to first order.

    .. math:: e = \rho\,\frac{T^2 g}{\|T g\|_2}, \qquad g = \nabla L(\theta), \qquad
        \theta \leftarrow \theta - \eta\,\nabla L(\theta + e)

    with T = 1; the norm is over all parameters together, e held constant in the gradient. Noise and masks are the
    same in both gradients. Foret et al. 2021 (arXiv 2010.01412), equation 2; ρ = 0.05 there.
    """

    name: ClassVar[str] = "sam"
    summary: ClassVar[str] = "sharpness-aware minimisation"
    source: ClassVar[str] = "Foret et al., ICLR 2021"
    meanings: ClassVar[dict[str, str]] = {"rho": "length of the step uphill"}
    searches: ClassVar[bool] = True

    rho: float = 0.05

    def __post_init__(self) -> None:
        check_range("rho", self.rho, 0)

    @property
    def gradients_per_step(self) -> float:
        return 2.0

    def scale(self, name: str, theta: Tensor) -> Tensor:
        """T, elementwise, of one parameter tensor."""
        return torch.ones_like(theta)

    def backward(self, step: Step, objective: Objective) -> Tensor:
        noise = step.generator.get_state()
        loss, uphill = gradient_at(objective, step.theta)
        step.generator.set_state(noise)
        set_gradient(step.theta, gradient_at(objective, self.uphill(step.theta, uphill))[1])
        return loss

    @torch.no_grad()
    def uphill(self, theta: Weights, gradient: Weights) -> Weights:
        """θ + e."""
        scale = {name: self.scale(name, value) for name, value in theta.items()}
        length = joint_norm({name: scale[name] * gradient[name] for name in theta})
        step = self.rho / length if length > 0 else 0.0
        return {name: value + step * scale[name] ** 2 * gradient[name] for name, value in theta.items()}


@dataclass(frozen=True)
class Asam(Sam):
    r"""SAM with T = |θ| + η elementwise, so that rescaling the weights of a network changes nothing.

    Kwon et al. 2021 (arXiv 2102.11600), equations 7 and 9; ρ = 0.5, η = 0.01 there. Tensors that ``unscaled`` names
    have T = 1, as biases have in the code beside the paper (there all whose name lacks "weight").
    """

    name: ClassVar[str] = "asam"
    summary: ClassVar[str] = "sharpness-aware minimisation, relative to each weight's size"
    source: ClassVar[str] = "Kwon et al., ICML 2021"
    meanings: ClassVar[dict[str, str]] = {
        **Sam.meanings,
        "eta": "what is added to each weight's size",
        "unscaled": UNSCALED,
    }

    rho: float = 0.5
    eta: float = 0.01
    unscaled: str = BIASES

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("eta", self.eta, 0)

    def scale(self, name: str, theta: Tensor) -> Tensor:
        return torch.ones_like(theta) if _named(name, self.unscaled) else theta.abs() + self.eta


@dataclass(frozen=True)
class Samson(Sam):
    r"""SAM with T = |θ|/‖θ‖_p, the norm over one tensor: p = 2, or p = ∞, the largest weight (``p=inf``).

    Weights next to an outlier move less than in ASAM. A tensor of zeros stays where it is. Tensors that ``unscaled``
    names have T = 1; none by default, which is this project's choice, as ρ is. Mordido, Henwood, Chandar,
    Leduc-Primeau 2022 (arXiv 2211.11561). The step is built as ASAM's is.
    """

    name: ClassVar[str] = "samson"
    summary: ClassVar[str] = "sharpness-aware minimisation, relative to each weight's share of its tensor's norm"
    source: ClassVar[str] = "Mordido et al. 2022, arXiv 2211.11561"
    meanings: ClassVar[dict[str, str]] = {**Sam.meanings, "p": "order of the norm, 2 or inf", "unscaled": UNSCALED}

    rho: float = 0.2
    p: float = math.inf
    unscaled: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p not in (2, math.inf):
            raise InputError(f"p={self.p} is out of range; it must be 2 or inf")

    def scale(self, name: str, theta: Tensor) -> Tensor:
        if _named(name, self.unscaled):
            return torch.ones_like(theta)
        if not theta.numel():  # which has no largest weight
            return theta
        size = torch.linalg.vector_norm(theta, ord=self.p)
        return theta.abs() / torch.where(size > 0, size, 1)


def _named(name: str, patterns: str) -> bool:
    return any(fnmatchcase(name, pattern.strip()) for pattern in patterns.split(","))


def joint_norm(tensors: Weights) -> Tensor:
    """Euclidean norm over all tensors together."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(value) for value in tensors.values()]))
