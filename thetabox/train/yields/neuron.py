r"""Lines below a neuron's entropic bound, differentiable: :math:`f(h) = a h - \tfrac\lambda2 v h^2`, h = relu(μ + s n).

.. math:: g(\mu, s) = -\tfrac1\lambda \ln E\, e^{-\lambda f(\mathrm{relu}(\mu + s n))}, \qquad n \sim N(0, 1)

A line :math:`\alpha\mu + c \le g(\mu, s)` holds for every μ in [lower, upper] and s in [least, most]. These are losses:
they follow the proofs, and are not rounded outward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

THIN = 1e-7
"""Boxes of μ below this width have a horizontal line."""
FAR = -50.0
"""Below it Φ's relative slope is that of its tail."""
ROOM = 1e-2
"""How far λ²vs² must stay below 1 for a square's moment."""


@dataclass(frozen=True)
class PreActivations:
    """One layer's pre-activations μ + s n, given the layers before.

    Attributes:
        lower, upper: ends of μ, ``[samples, 1, units]``, as all of these.
        least, most: ends of s, above 0.
        largest: of the activation, on its event.
        nominal: μ at the weights as they are.
    """

    lower: Tensor
    upper: Tensor
    least: Tensor
    most: Tensor
    largest: Tensor
    nominal: Tensor


class _LogNdtr(torch.autograd.Function):
    """ln Φ; torch's own gradient is wrong for numbers below -1e4 in single precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        log_cdf = torch.special.log_ndtr(x)
        ctx.save_for_backward(x, log_cdf)
        return log_cdf

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, log_cdf = ctx.saved_tensors
        # φ/Φ tends to -x.
        ratio = torch.exp(-0.5 * x.square() - log_cdf) / math.sqrt(2 * math.pi)
        return grad * torch.where(x < FAR, -x, ratio)


def log_ndtr(x: Tensor) -> Tensor:
    """Ln Φ(x)."""
    log_cdf: Tensor = _LogNdtr.apply(x)
    return log_cdf


def mean_relu(mu: Tensor, s: Tensor) -> Tensor:
    r""":math:`E\,\mathrm{relu}(\mu + s n) = \mu\Phi(\mu/s) + s\varphi(\mu/s)`, s above 0."""
    return mu * torch.special.ndtr(mu / s) + s * torch.exp(-0.5 * (mu / s).square()) / math.sqrt(2 * math.pi)


def lines(
    a: Float[Tensor, "samples rows units"], v: Tensor | None, rate: Tensor, neurons: PreActivations
) -> tuple[Float[Tensor, "samples rows units"], Float[Tensor, "samples rows units"]]:
    """(slope, constant) for every coefficient.

    Args:
        a: coefficients of the activations.
        v: variance that the next layer's noise adds for each unit of h², or None.
        rate: λ, ``[samples, rows, 1]``.
        neurons: whose activations.
    """
    linear, quadratic = a, torch.zeros_like(a)
    if v is not None:
        # h^2 <= largest h; for a <= 0 the square itself has a moment, where it is finite.
        squared = (a <= 0) & (rate.square() * v * neurons.most.square() < 1 - ROOM)
        quadratic = torch.where(squared, v, 0.0)
        linear = torch.where(squared, a, a - rate / 2 * v * neurons.largest)
    nominal = torch.minimum(torch.maximum(neurons.nominal, neurons.lower), neurons.upper)
    slope, constant = _chord(linear.clamp(max=0.0), quadratic, rate, neurons)
    rising, there = _tangent(linear.clamp(min=0.0), rate, nominal, neurons)
    positive = linear > 0
    # h >= 0 as well
    useful = positive & (rising * nominal + there > 0)
    slope = torch.where(positive, torch.where(useful, rising, 0.0), slope)
    return slope, torch.where(positive, torch.where(useful, there, 0.0), constant)


def _chord(a: Tensor, v: Tensor, rate: Tensor, neurons: PreActivations) -> tuple[Tensor, Tensor]:
    """For a ≤ 0: g is concave in μ and falls with s, so that the chord at the largest s lies below."""
    first = _log_moment(a, v, rate, neurons.lower, neurons.most)
    if neurons.upper is neurons.lower:
        return torch.zeros_like(first), first
    last = _log_moment(a, v, rate, neurons.upper, neurons.most)
    width = neurons.upper - neurons.lower
    slope = torch.where(width < THIN, torch.zeros_like(first), (last - first) / width.clamp(min=THIN))
    return slope, torch.minimum(first - slope * neurons.lower, last - slope * neurons.upper)


def _log_moment(a: Tensor, v: Tensor, rate: Tensor, mu: Tensor, s: Tensor) -> Tensor:
    """g(μ, s), for λ²vs² < 1."""
    t, moved, lost = mu / s, rate * a * s, rate.square() * v * s.square()
    # The integral over z > 0 is one of a normal density of precision (1 - lost) / s^2 around centre.
    root = (1 - lost).sqrt()
    centre = (t - moved) / root
    # centre^2 - t^2, which may be a small difference of large numbers
    difference = (t * lost / (1 + root) - moved) / root * (centre + t)
    above = 0.5 * difference - root.log() + log_ndtr(centre)
    return -torch.logaddexp(log_ndtr(-t).expand_as(above), above) / rate


def _tangent(a: Tensor, rate: Tensor, at: Tensor, neurons: PreActivations) -> tuple[Tensor, Tensor]:
    """For a ≥ 0, v = 0: g is convex in μ, so its tangent at the least s lies below; more spread costs a square."""
    s = neurons.least
    t = at / s
    below = log_ndtr(-t).expand_as(a)
    above = -rate * a * at + 0.5 * (rate * a * s).square() + log_ndtr(t - rate * a * s)
    total = torch.logaddexp(below, above)
    slope = a * torch.exp(above - total)
    spread = rate / 2 * slope.square() * (neurons.most.square() - s.square())
    return slope, -total / rate - slope * at - spread
