r"""Upper bounds of spectral norms, rounding included.

That :math:`\lambda I - A A^T` is positive definite is shown by Cholesky's algorithm: where it runs to its end in
floating-point arithmetic, the least eigenvalue is at least :math:`-\gamma_{n+1} / (1 - \gamma_{n+1})` times the trace
(Demmel, On floating point errors in Cholesky, LAPACK Working Note 14, 1989; Higham, Accuracy and Stability of Numerical
Algorithms, theorems 10.3 and 10.5). So :math:`\lambda` need only be guessed, by power iteration.

A convolution with zeros around an image of height H is a part of one that is periodic, once the period is so long that
no kernel reaches around it; a Fourier transform makes that a matrix of channels for each frequency (Sedghi, Gupta,
Long, The Singular Values of Convolutional Layers, ICLR 2019), with a stride of all phases side by side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.arithmetic.rounding import ROUNDOFF, gamma

# More than all roundings of a norm of up to 2^26 numbers, and of a few operations on it.
ROUNDED_UP = 1.0 + 2.0**-26
# Up to here a convolution is written out as one matrix, which knows what the edges of the image cut off.
DENSE_SIDE, DENSE_NUMBERS = 768, 1 << 22
# Of the guess, which power iteration leaves a little short.
GUESSES = (1.01, 1.04, 1.16, 1.5, 2.5)
ITERATIONS = 60
# Error of a computed cosine of a rational angle.
TABLE = 2.0**-48


def frobenius(t: Tensor) -> float:
    """Upper bound of the Frobenius norm of everything in ``t``."""
    return float(torch.linalg.vector_norm(t)) * ROUNDED_UP


def spectral_norm(a: Float[Tensor, "matrices rows columns"], error: float = 0.0) -> float:
    """Upper bound of the largest spectral norm of matrices that are known up to ``error`` in the Frobenius norm."""
    largest = float(a.abs().max()) if a.numel() else 0.0
    if not math.isfinite(largest):
        return math.inf
    if largest < 1e-140:
        return frobenius(a) + 1e-138 + error
    scale = 2.0 ** round(math.log2(largest))
    a = a / scale
    a = a.transpose(-1, -2) if a.shape[-2] > a.shape[-1] else a
    side, terms = a.shape[-2], a.shape[-1]
    gram = a @ a.transpose(-1, -2)
    most = float(a.square().sum((-1, -2)).max()) * ROUNDED_UP
    square = _proven_above(gram, most)
    square += 8.0 * gamma(2 * side + 8, ROUNDOFF) * side * square + 2.0 * gamma(terms + 4, ROUNDOFF) * most + 1e-250
    return math.sqrt(square) * scale * ROUNDED_UP + error


def _proven_above(gram: Tensor, most: float) -> float:
    """A number that Cholesky's algorithm finds above all eigenvalues, or ``most``, their largest sum."""
    guess = _guessed(gram)
    one = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    for factor in GUESSES:
        bound = guess * factor
        if not 0.0 < bound < most:
            break
        root, wrong = torch.linalg.cholesky_ex(one * bound - gram)
        if not bool(wrong.any()) and bool(root.isfinite().all()):
            return bound
    return most


def _guessed(gram: Tensor) -> float:
    """About the largest eigenvalue."""
    vector = 1.0 + 0.5 * torch.arange(gram.shape[-1], dtype=gram.dtype, device=gram.device).sin()
    vector = vector.expand(*gram.shape[:-1])[..., None]
    for _ in range(ITERATIONS):
        vector = gram @ (vector / torch.linalg.vector_norm(vector, dim=-2, keepdim=True).clamp(min=1e-150))
    return float(torch.linalg.vector_norm(vector, dim=-2).max())


def convolution_norm(
    weight: Float[Tensor, "outputs inputs height width"],
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    uneven: tuple[int, int] = (0, 0),
) -> float:
    """Upper bound of the spectral norm of a convolution of images of a size, zeros around.

    Args:
        weight: the kernels; a dilated one with its zeros written out.
        size: height and width of the image.
        stride, padding: of the convolution.
        uneven: further zeros at the bottom and on the right.
    """
    inputs = weight.shape[1] * size[0] * size[1]
    out = [(size[d] + 2 * padding[d] + uneven[d] - weight.shape[2 + d]) // stride[d] + 1 for d in (0, 1)]
    outputs = weight.shape[0] * out[0] * out[1]
    if min(inputs, outputs) <= DENSE_SIDE and inputs * outputs <= DENSE_NUMBERS:
        images = torch.eye(inputs, dtype=weight.dtype, device=weight.device).view(inputs, -1, *size)
        top, left = padding
        images = F.pad(images, (left, left + uneven[1], top, top + uneven[0]))
        # Each number of the matrix is one weight or zero: nothing is rounded.
        return spectral_norm(F.conv2d(images, weight, None, stride).flatten(1)[None])
    period = []
    for d in (0, 1):
        least = max(size[d] + padding[d] + uneven[d], out[d] * stride[d], 1)
        period.append(-(-least // stride[d]))
    return _periodic_norm(weight, stride, (period[0], period[1]))


def _periodic_norm(weight: Tensor, stride: tuple[int, int], period: tuple[int, int]) -> float:
    """Of the convolution on a torus, of ``period`` outputs in each direction."""
    height, width = weight.shape[2:]
    device = weight.device
    taps = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    # A matrix and the one of the opposite frequency are each other's conjugate, so half of them will do.
    frequencies = torch.cartesian_prod(torch.arange(period[0]), torch.arange(period[1] // 2 + 1))
    turns = torch.zeros(len(frequencies), len(taps), dtype=torch.float64)
    for d in (0, 1):
        whole = frequencies[:, None, d] * (taps[None, :, d] // stride[d])
        turns += (whole % period[d]).double() / period[d]
    angle = (2.0 * math.pi * turns).to(device)
    phases = (taps[:, 0] % stride[0]) * stride[1] + taps[:, 1] % stride[1]
    flat = weight.flatten(2).double()
    parts, error = [], 0.0
    for phase in range(stride[0] * stride[1]):
        chosen = (phases == phase).nonzero().squeeze(1).to(device)
        if not len(chosen):
            continue
        kernel = flat[:, :, chosen]
        parts.append(_transformed(kernel, angle[:, chosen]))
        error += frobenius(kernel.abs().sum(2)) * (2.0 * gamma(len(chosen) + 4, ROUNDOFF) + 2.0 * TABLE)
    real, imaginary = (torch.cat([p[part] for p in parts], 2) for part in (0, 1))
    # A complex matrix as a real one of twice the size: the same norm, by ordinary sums.
    above, below = torch.cat([real, -imaginary], 2), torch.cat([imaginary, real], 2)
    return spectral_norm(torch.cat([above, below], 1), error * 2.0)


def _transformed(kernel: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts ``[frequencies, outputs, inputs]``."""
    real, imaginary = (torch.tensordot(turned, kernel, dims=([1], [2])) for turned in (angle.cos(), angle.sin()))
    return real, imaginary
