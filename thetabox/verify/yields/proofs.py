"""The proofs of yield, by name, and which of them fit a network and its noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from jaxtyping import Float, Int
from torch import Tensor

from thetabox.errors import InputError
from thetabox.noise import Noise
from thetabox.verify.problem import Problem
from thetabox.verify.yields.common import CommonFactor
from thetabox.verify.yields.martingale import Failure, Martingale

AUTO = "auto"
METHODS = ("martingale",)


class Proof(Protocol):
    """Bounds of the failure probability of samples.

    Attributes:
        name: as users give it.
        dear: whether a run takes much longer than one of the cheap proofs.
    """

    name: ClassVar[str]
    dear: ClassVar[bool]

    def failure(
        self,
        x: Tensor,
        y: Int[Tensor, " samples"],
        sigma: Float[Tensor, " samples"],
        spent: Float[Tensor, " samples"],
    ) -> Failure:
        """Upper bounds, of which ``spent`` is what all intermediate bounds may fail with together."""
        ...


def proofs(problem: Problem, sizes: Mapping[str, Tensor], noise: Noise, method: str = AUTO) -> list[Proof]:
    """The proofs that a method names, the cheap ones first.

    Raises:
        InputError: an unknown method, or one that does not fit.
    """
    if method not in (AUTO, *METHODS):
        raise InputError(f"unknown method {method!r}; choose one of {', '.join((AUTO, *METHODS))}")
    martingale = Martingale(problem, sizes, noise)
    found: list[Proof] = [CommonFactor(martingale) if noise.correlated.get("chip") else martingale]
    return found
