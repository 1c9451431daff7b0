r"""Floating-point rounding as every rule accounts for it.

A computed dot product of ``n`` terms lies within :math:`\gamma_n \sum |w_i||x_i|` of the true one, in any order of
summation, fused or not, with :math:`\gamma_k = ku / (1 - ku)` (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., ch. 3); underflow adds at most ``n`` times the smallest subnormal number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from thetabox.errors import InputError

ARITHMETICS = ("real", "float32")
PRECISIONS = {"float64": torch.float64, "float32": torch.float32}

# Unit roundoff of float64, in which everything is computed but bounds in ``precision="float32"``.
ROUNDOFF = 2.0**-53

_ROUNDOFF = {torch.float64: ROUNDOFF, torch.float32: 2.0**-24}
_SUBNORMAL = {torch.float64: 2.0**-1074, torch.float32: 2.0**-149}
_NORMAL = {torch.float64: 2.0**-1022, torch.float32: 2.0**-126}
# Large enough that |weight| * FLOOR stays normal (subnormal operands slow a processor down a hundredfold),
# small enough to be invisible in any bound.
_FLOOR = {torch.float64: 2.0**-980, torch.float32: 2.0**-100}
_FLOAT32_MAX = float(torch.finfo(torch.float32).max)

# Scalars of the error analysis are themselves computed in double precision: this factor covers their rounding.
SAFETY = 1.0 + 2.0**-44


def gamma(terms: int, roundoff: float) -> float:
    """Higham's γ: relative error of ``terms`` roundings in unit roundoff ``roundoff``."""
    product = terms * roundoff
    if product >= 0.01:
        raise InputError(f"a sum of {terms} terms is too long for bounds in this precision; use precision='float64'")
    return product / (1.0 - product) * SAFETY


@dataclass(frozen=True)
class Rounding:
    """Errors of two evaluations: that of the bounds, and that of the network itself.

    Args:
        dtype: in which the bounds are computed.
        arithmetic: ``real`` when the network is a real function, ``float32`` when the claim covers every IEEE
            binary32 evaluation by ordinary sums.
    """

    dtype: torch.dtype
    arithmetic: str = "real"

    @property
    def roundoff(self) -> float:
        """Unit roundoff of the bounds."""
        return _ROUNDOFF[self.dtype]

    @property
    def network(self) -> float:
        """Unit roundoff of the network: 0 in real arithmetic."""
        return 0.0 if self.arithmetic == "real" else _ROUNDOFF[torch.float32]

    @property
    def subnormal(self) -> float:
        """Absolute error of one product that underflows, of both evaluations together."""
        return 2 * _SUBNORMAL[self.dtype] + (0.0 if self.arithmetic == "real" else 2 * _SUBNORMAL[torch.float32])

    @property
    def underflow(self) -> float:
        """The network's part of :attr:`subnormal`: 0 in real arithmetic."""
        return 0.0 if self.arithmetic == "real" else 2 * _SUBNORMAL[torch.float32]

    @property
    def flushed(self) -> float:
        """Absolute error of a library function: its result, or a number on the way to it, may be flushed to zero."""
        return 2 * _NORMAL[self.dtype] + (0.0 if self.arithmetic == "real" else 2 * _NORMAL[torch.float32])

    @property
    def floor(self) -> float:
        """Added to a computed radius, which may have underflowed."""
        return _FLOOR[self.dtype]

    @property
    def overflow(self) -> float:
        """Magnitude beyond which the network's own evaluation may overflow."""
        return float("inf") if self.arithmetic == "real" else _FLOAT32_MAX

    def beyond(self, *sizes: float) -> float:
        """Slack for what may overflow, in the bounds' or the network's evaluation: infinite beyond the largest number.

        An end that overflowed to plus or minus infinity says nothing of the number it stands for.
        """
        return 0.0 if max(sizes) < self.largest else math.inf

    @cached_property
    def largest(self) -> float:
        """Largest number that neither evaluation overflows at."""
        return min(torch.finfo(self.dtype).max, self.overflow)

    def of_dot(self, terms: int) -> float:
        """Relative error of a dot product and of the few operations on its bounds, doubled for its own rounding."""
        error = 2.0 * gamma(terms + 16, self.roundoff)
        return error if self.network == 0.0 else error + 1.01 * gamma(terms + 4, self.network)

    def of_sum(self, terms: int) -> float:
        """Relative error of adding ``terms`` numbers, and of ends that are corrected for it."""
        error = gamma(terms + 4, self.roundoff)
        return error if self.network == 0.0 else error + gamma(terms + 4, self.network)

    def of_operation(self, roundings: int = 1) -> float:
        """Relative error of ``roundings`` elementary operations."""
        return roundings * (self.roundoff + self.network) * SAFETY
