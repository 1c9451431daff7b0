"""A parameter tensor and its box, as the rules see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.rounding import Rounding

# Up to here float64 holds every whole number.
EXACT = 1 << 53
# What is perturbed may become larger than it is.
FAR_FROM_OVERFLOW = 2.0**100


@dataclass(frozen=True)
class Parameter:
    r"""Stored values :math:`\theta` that may be off by :math:`f\varepsilon` times a unit radius.

    Attributes:
        theta: the values, in the dtype of the bounds.
        factor: factor :math:`f` on ε; 0 for a tensor that is exact.
        absolute: unit radius of an ``absolute`` or ``range`` box; ``None`` stands for :math:`|\theta|`.
        theta_error: relative error of ``theta`` itself (a float64 weight held in float32, or a rounded product).
        source: an exact tensor of whole numbers or truth values as torch holds it, where this is one.
    """

    theta: Tensor
    factor: float = 0.0
    absolute: Tensor | None = None
    theta_error: float = 0.0
    source: Tensor | None = None

    @property
    def relative(self) -> bool:
        """Whether the radius is proportional to the value, so that the two-product form holds."""
        return self.absolute is None or self.factor == 0.0

    @cached_property
    def magnitude(self) -> Tensor:
        """Elementwise absolute value."""
        return self.theta.abs()

    @property
    def unit_radius(self) -> Tensor:
        r"""Radius of the box at :math:`f\varepsilon = 1`."""
        return self.magnitude if self.absolute is None else self.absolute

    @cached_property
    def only_signs(self) -> bool:
        """Whether every value is 0, 1 or -1, so that multiplying by it never rounds."""
        return bool(((self.theta == 0) | (self.magnitude == 1)).all())

    def sums(self, *, last: bool) -> Tensor:
        """Σ|θ| of every output: over all but the first dimension (``last``), or over the last but one."""
        return self._sums_last if last else self._sums_before

    @cached_property
    def _sums_last(self) -> Tensor:
        return self.magnitude.flatten(1).sum(1)

    @cached_property
    def _sums_before(self) -> Tensor:
        return self.magnitude.sum(-2, keepdim=self.theta.dim() > 2)

    def moved(self, function: Callable[[Tensor], Tensor]) -> Parameter:
        """The same parameter under a function that only rearranges or selects values."""
        absolute, source = (None if t is None else function(t) for t in (self.absolute, self.source))
        return replace(self, theta=function(self.theta), absolute=absolute, source=source)

    def spread(self, outputs: int) -> Parameter:
        """A bias as one number an output: it may be stored as one for all of them, or with a dimension in front."""
        if self.theta.shape == (outputs,):
            return self
        return self.moved(lambda t: t.reshape(-1).expand(outputs))

    def masked(self, signs: Parameter) -> Parameter:
        """The product with an exact tensor of zeros and plus or minus ones: a box of the same kind, nothing rounded."""
        theta = self.theta * signs.theta
        absolute = None if self.absolute is None else (self.absolute * signs.magnitude).expand_as(theta)
        return Parameter(theta, self.factor, absolute, self.theta_error)


def stored(
    name: str, value: Tensor, rounding: Rounding, factor: float = 0.0, absolute: Tensor | None = None
) -> Parameter:
    """A tensor of the model in the dtype of the bounds; a network or bounds in float32 may hold it rounded.

    Of a perturbed one in float64, a network in float32 rounds every point of the box, also where it holds the middle.
    Rounding is increasing, so the ends err most: by half a unit in the last place, or half the smallest number, which
    is less than ``theta_error`` of any middle but 0 that is not below the normal numbers.

    Raises:
        InputError: float32 cannot hold the values, or what they may move to.
    """
    dtype, theta_error = rounding.dtype, 0.0
    wide = value.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.bool)
    if wide and (rounding.network or dtype == torch.float32):
        limits, moves = torch.finfo(torch.float32), bool(factor) and rounding.network > 0.0
        held = value.float().double() == value.double()
        rounded = value[(value != 0) if moves else ~held].double().abs()
        if rounded.numel():
            most = FAR_FROM_OVERFLOW if moves else limits.max
            if float(rounded.min()) < limits.smallest_normal or float(rounded.max()) > most:
                raise InputError(
                    f"{name} has values that float32 cannot hold; use precision float64 and real arithmetic"
                )
        theta_error = limits.eps if moves or not bool(held.all()) else 0.0
    whole = not value.dtype.is_floating_point
    if whole and value.dtype.itemsize == 8 and bool(((value > EXACT) | (value < -EXACT)).any()):
        theta_error = max(theta_error, torch.finfo(torch.float64).eps)
    absolute = None if absolute is None else absolute.to(dtype)
    return Parameter(value.to(dtype), factor, absolute, theta_error, value if whole and not factor else None)
