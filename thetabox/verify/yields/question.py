"""What is asked of a proof of yield: a network, its samples and its noise, looked at before any proof."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from thetabox import checks
from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.noise import Noise
from thetabox.verify import agreement, arguments
from thetabox.verify.problem import Problem
from thetabox.verify.yields.proofs import Proof, proofs
from thetabox.verify.yields.sizes import sizes


def failure_probability(delta: Any) -> float:
    """A failure probability that is asked for.

    Raises:
        InputError: it is no number between 0 and 1.
    """
    value = checks.number(delta, "delta")
    if not 0.0 < value < 1.0:
        raise InputError(f"delta is {value:g}; it must lie above 0 and below 1")
    return value


@dataclass(frozen=True)
class YieldQuestion:
    """A network, its samples and its noise, looked at before any proof.

    Attributes:
        problem: the traced network.
        method: the proofs that were asked for.
        proofs: those that fit it.
        x, y: samples.
        logits: without errors.
        right: samples that the network classifies right, in real arithmetic and in its own precision.
        noise, box: as asked for.
        facts, checked: for the certificate.
    """

    problem: Problem
    method: str
    proofs: list[Proof]
    x: Tensor
    y: Int[Tensor, " samples"]
    logits: Float[Tensor, "samples classes"]
    right: Tensor
    noise: Noise
    box: Box
    facts: dict[str, Any]
    checked: dict[str, Any]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        x: arguments.Inputs,
        y: arguments.Array,
        sigmas: Float[Tensor, " levels"],
        noise: Noise | None,
        box: Box | None,
        method: str,
        device: str,
    ) -> YieldQuestion:
        """Checked and traced.

        Raises:
            InputError: anything wrong.
        """
        if noise is not None and not isinstance(noise, Noise):
            raise InputError(f"noise must be a thetabox.Noise, not {type(noise).__name__}")
        noise = noise or Noise()
        chosen = arguments.settings("interval", box, "real", "float64", device, None)
        asked = arguments.network(model, x, chosen)
        labels = arguments.labels(y, len(asked.x))
        problem, agreed = agreement.checked_problem(asked.model, chosen, asked.x, sigmas, asked.x_as_given)
        arguments.check_labels(labels, agreed.logits.shape[1])
        errors = noise.on(problem.model, chosen.box.factors(problem.model))
        known = proofs(problem, sizes(problem.model, chosen.box, errors), errors, method)
        margins = arguments.margins_of(agreed.logits, labels)
        return cls(
            problem,
            method,
            known,
            asked.x,
            labels,
            agreed.logits,
            margins > 0,
            noise,
            chosen.box,
            asked.facts,
            agreed.record,
        )

    # Proofs know tensors by their identity, and another process has others: it makes its own.
    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "proofs": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        problem, box = state["problem"], state["box"]
        errors = state["noise"].on(problem.model, box.factors(problem.model))
        known = proofs(problem, sizes(problem.model, box, errors), errors, state["method"])
        self.__dict__.update(state, proofs=known)
