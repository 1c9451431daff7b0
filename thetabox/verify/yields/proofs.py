"""The proofs of yield, by name, and which of them fit a network and its noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor

from thetabox.errors import InputError
from thetabox.noise import Noise
from thetabox.verify.network import RecurrentNetwork
from thetabox.verify.problem import Problem
from thetabox.verify.yields.chained import Chained, chained
from thetabox.verify.yields.common import CommonFactor
from thetabox.verify.yields.failure import Failure
from thetabox.verify.yields.martingale import Martingale
from thetabox.verify.yields.spikes import Spikes
from thetabox.verify.yields.spikes_histories import SpikeHistories

AUTO = "auto"


class Proof(Protocol):
    """Bounds of the failure probability of samples.

    Attributes:
        name: as users give it.
        dear: whether a run takes much longer than one of the cheap proofs.
    """

    @property
    def name(self) -> str: ...

    @property
    def dear(self) -> bool: ...

    def failure(
        self,
        x: Tensor,
        y: Int[Tensor, " samples"],
        sigma: Float[Tensor, " samples"],
        spent: Float[Tensor, " samples"],
    ) -> Failure:
        """Upper bounds, where ``spent`` is about what all intermediate bounds may fail with together.

        What they do fail with is in the result (:attr:`~thetabox.verify.yields.failure.Failure.spent`).
        """
        ...


def _martingale(problem: Problem, sizes: Mapping[str, Tensor], noise: Noise) -> Proof:
    proof = Martingale(problem, sizes, noise)
    return CommonFactor(proof) if noise.correlated.get("chip") else proof


Make = Callable[[Problem, Mapping[str, Tensor], Noise], Proof]
MAKERS: dict[str, Make] = {
    "martingale": _martingale,
    "entropic": partial(chained, name="entropic"),
    "log-sobolev": partial(chained, name="log-sobolev"),
    "spikes": Spikes,
    "histories": SpikeHistories,
}
METHODS = tuple(MAKERS)
# Networks in time have proofs of their own.
IN_TIME = ("spikes", "histories")


def proofs(problem: Problem, sizes: Mapping[str, Tensor], noise: Noise, method: str = AUTO) -> list[Proof]:
    """The proofs that a method names: of ``auto``, all that fit, in the order in which they are tried.

    Raises:
        InputError: an unknown method, or one that does not fit.
    """
    if method not in (AUTO, *METHODS):
        raise InputError(f"unknown method {method!r}; choose one of {', '.join((AUTO, *METHODS))}")
    if method != AUTO:
        return [MAKERS[method](problem, sizes, noise)]
    in_time = isinstance(problem.network, RecurrentNetwork)
    names = [name for name in METHODS if (name in IN_TIME) == in_time]
    # What refuses a network that every proof of its kind must know says why.
    chosen = [MAKERS[names[0]](problem, sizes, noise)]
    for name in names[1:]:
        if name == "log-sobolev" and any(proof.name == "entropic" for proof in chosen):
            continue  # dense layers alone: as much is proven, at a tenth of the cost
        try:
            proof = MAKERS[name](problem, sizes, noise)
        except InputError:
            continue
        chosen.insert(0 if isinstance(proof, Chained) and proof.large else len(chosen), proof)
    return chosen
