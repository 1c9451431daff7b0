r"""The one table from operator to backward rule.

A backward rule takes the coefficients ``A [items, rows, *shape]`` on an operator's result and hands coefficients on
its operands to the walk, so that with every constant put aside

.. math:: \langle A, f(x) \rangle \ge \sum_i \langle A_i, x_i \rangle + c

for all operands inside their intervals and all parameters in their boxes, rounding included. A rule raises
:class:`Stop`, before it has handed on anything, where it does not apply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from thetabox.verify.linear.region import Region
    from thetabox.verify.linear.walk import Walk
    from thetabox.verify.network.graph import Operation

Backward = Callable[["Walk", "Operation", Tensor, "Region | None"], None]

BACKWARD: dict[str, Backward] = {}


class Stop(Exception):
    """The rule does not apply: the result's interval stands for the operator."""


def backward(*operators: str) -> Callable[[Backward], Backward]:
    """Register a function as the backward rule of operators such as ``"aten.relu.default"``."""

    def register(function: Backward) -> Backward:
        for operator in operators:
            BACKWARD[operator] = function
        return function

    return register
