r"""Twice the digits, for networks of which nothing but rounding is to be bounded: numbers as unevaluated sums of two.

Sums and products of two numbers keep what they lose (Dekker, A floating-point technique for extending the available
precision, Numerische Mathematik 18, 1971). Operands of a product of matrices are cut into parts of so few digits that
nothing is lost in whatever order they are summed (Ozaki, Ogita, Oishi, Rump, Error-free transformations of matrix
multiplication by using fast routines of matrix multiplication and its applications, Numerical Algorithms 59, 2012).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from thetabox.verify.arithmetic.rounding import ROUNDOFF, gamma

# Of a few operations on such pairs, relative to all that is added up.
TWICE = 64.0 * ROUNDOFF**2
# Below and above, cutting might underflow or overflow.
LEAST, MOST = 2.0**-300, 2.0**300
_SPLITTER = 2.0**27 + 1.0


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The rounded sum and what it lost, exactly (Knuth)."""
    total = a + b
    there = total - a
    return total, (a - (total - there)) + (b - there)


def pair_sum(high: Tensor, low: Tensor | None, other: Tensor) -> tuple[Tensor, Tensor | None]:
    """``high + low + other``, in as many digits."""
    if low is None:
        return high + other, None
    high, lost = two_sum(high, other.expand_as(high))
    return two_sum(high, low + lost)


def two_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The rounded product and what it lost, exactly but for underflow (Dekker, Veltkamp)."""
    total = a * b
    (ah, al), (bh, bl) = _halves(a), _halves(b)
    return total, ((ah * bh - total) + ah * bl + al * bh) + al * bl


def _halves(a: Tensor) -> tuple[Tensor, Tensor]:
    c = a * _SPLITTER
    high = c - (c - a)
    return high, a - high


def accurate(
    product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, terms: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """A product as a sum of two numbers, and what that is off by at most; ``None`` where values are out of range.

    Args:
        product: linear in both, sums of ``terms`` products of a number of a sample and one of an output's weights.
        x: ``[samples, ...]``.
        weight: ``[outputs, ...]``.
        terms: that each number is a sum of.
    """
    digits = (53 - math.ceil(math.log2(max(terms, 2)))) // 2
    top, high = (t.abs().flatten(1).amax(1) for t in (x, weight))
    held = torch.cat([top[top > 0], high[high > 0]])
    if not len(held) or not bool(((held > LEAST) & (held < MOST)).all()):
        return None
    first, second, rest = _cut(x, top, digits)
    one, two, left = _cut(weight, high, digits)
    total, low = product(first, one), torch.zeros(())
    for a, b in ((first, two), (second, one), (second, two)):
        total, lost = two_sum(total, product(a, b))
        low = low + lost
    # What is left over is 2^(2 - 2 digits) of the largest number at most: ordinary products are good enough.
    total, low = two_sum(total, low + (product(x, left) + product(rest, weight - left)))
    scale = top.view(-1, *[1] * (total.dim() - 1)) * high.view(1, -1, *[1] * (total.dim() - 2))
    small = 16.0 * (gamma(terms + 8, ROUNDOFF) * 2.0 ** (2 - 2 * digits) + TWICE) * terms
    return total, low, (scale * small).expand_as(total)


def _cut(t: Tensor, top: Tensor, digits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two parts of ``digits`` digits below the largest number of each row, and the rest: ``t`` is their sum."""
    exponent = torch.frexp(top).exponent.double().view(-1, *[1] * (t.dim() - 1))
    parts = []
    for part in (1, 2):
        # Adding and taking off 3/2 of a power of two rounds to a multiple of 2^(exponent - part digits + 1).
        sigma = 1.5 * torch.exp2(exponent + (53 - part * digits))
        parts.append((t + sigma) - sigma)
        t = t - parts[-1]
    return parts[0], parts[1], t
