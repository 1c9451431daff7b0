"""A parameter tensor and its box, as the rules see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from thetabox.errors import InputError


@dataclass(frozen=True)
class Parameter:
    r"""Stored values :math:`\theta` that may be off by :math:`f\varepsilon` times the unit radius.

    Attributes:
        theta: the values, in the dtype of the bounds.
        factor: factor :math:`f` on ε; 0 for a tensor that is exact.
        unit: unit radius of an ``absolute`` or ``range`` box; ``None`` stands for :math:`|\theta|`.
        blur: relative error of ``theta`` itself (a float64 weight held in float32, or a rounded product).
    """

    theta: Tensor
    factor: float = 0.0
    unit: Tensor | None = None
    blur: float = 0.0

    @property
    def relative(self) -> bool:
        """Whether the radius is proportional to the value, so that the two-product form holds."""
        return self.unit is None or self.factor == 0.0

    @cached_property
    def magnitude(self) -> Tensor:
        """Elementwise absolute value."""
        return self.theta.abs()

    @cached_property
    def only_signs(self) -> bool:
        """Whether every value is 0, 1 or -1, so that multiplying by it never rounds."""
        return bool(((self.theta == 0) | (self.magnitude == 1)).all())

    def moved(self, function: Callable[[Tensor], Tensor]) -> Parameter:
        """The same parameter under a function that only rearranges or selects values."""
        return replace(self, theta=function(self.theta), unit=None if self.unit is None else function(self.unit))

    def masked(self, signs: Parameter) -> Parameter:
        """The product with an exact tensor of zeros and plus or minus ones: a box of the same kind, nothing rounded."""
        theta = self.theta * signs.theta
        unit = None if self.unit is None else (self.unit * signs.magnitude).expand_as(theta)
        return Parameter(theta, self.factor, unit, self.blur)


def stored(name: str, value: Tensor, dtype: torch.dtype, factor: float = 0.0, unit: Tensor | None = None) -> Parameter:
    """A tensor of the model, converted to the dtype of the bounds."""
    theta = value.to(dtype)
    blur = 0.0
    if value.is_floating_point() and torch.finfo(value.dtype).eps < torch.finfo(dtype).eps:
        blur = float(torch.finfo(dtype).eps)
        size = value[value != 0].abs()
        limits = torch.finfo(dtype)
        if size.numel() and (float(size.min()) < limits.smallest_normal or float(size.max()) > limits.max):
            raise InputError(f"{name} has values outside the range of {dtype}; use precision='float64'")
    return Parameter(theta, factor, None if unit is None else unit.to(dtype), blur)
