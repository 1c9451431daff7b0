"""Norms of a network's layers: the spectral norm of the whole, and the Euclidean ones of its rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thetabox.verify.arithmetic.rounding import ROUNDOFF
from thetabox.verify.linear.norms.balls import Balls
from thetabox.verify.linear.norms.spectral import ROUNDED_UP, convolution_norm, frobenius, spectral_norm
from thetabox.verify.linear.rules import affine, convolution
from thetabox.verify.linear.samples import Samples
from thetabox.verify.network.graph import Operation
from thetabox.verify.network.operators import CONVOLUTIONS


def layer_norms(balls: Balls, samples: Samples, operation: Operation, scale: Tensor | None) -> tuple[float, Tensor]:
    """Spectral norm of a layer with its outputs scaled, and Euclidean norms of its rows without that."""
    conv = convolution.layer(samples, operation) if operation.operator in CONVOLUTIONS else None
    weight = conv.weight if conv is not None else affine.layer(samples, operation)[1]
    theta = weight.theta.double()

    def compute() -> float:
        scaled = theta if scale is None else theta * scale.view(-1, *[1] * (theta.dim() - 1))
        slack = frobenius(scaled) * (weight.theta_error * 2.0 + 32.0 * ROUNDOFF)
        if conv is None:
            return (spectral_norm(scaled[None]) + slack) * ROUNDED_UP
        full = _written_out(scaled, conv)
        size = samples.shape(conv.x)
        size = (1, size[-1]) if conv.flat else (size[-2], size[-1])
        # Each weight is read at no more positions than there are outputs.
        spots = math.prod(samples.shape(operation.index)[1:])
        norm = convolution_norm(full, size, conv.stride, conv.padding, conv.uneven)
        return (norm + slack * math.sqrt(spots)) * ROUNDED_UP

    rows = torch.linalg.vector_norm(theta.flatten(1), dim=1) * (ROUNDED_UP * (1.0 + 2.0 * weight.theta_error)) + 1e-150
    return balls.norms.once((operation.index, scale is not None), compute), rows


def _written_out(weight: Tensor, conv: convolution.Convolution) -> Tensor:
    """Kernels without groups and dilation: zeros stand for what they leave out."""
    outputs, inputs, height, width = weight.shape
    if conv.groups > 1:
        full = weight.new_zeros(conv.groups, outputs // conv.groups, conv.groups, inputs, height, width)
        for group in range(conv.groups):
            full[group, :, group] = weight.unflatten(0, (conv.groups, -1))[group]
        weight = full.flatten(2, 3).flatten(0, 1)
    if conv.dilation == (1, 1):
        return weight
    down, right = conv.dilation
    wide = weight.new_zeros(*weight.shape[:2], (height - 1) * down + 1, (width - 1) * right + 1)
    wide[..., ::down, ::right] = weight
    return wide
