"""The one table from ONNX operator to torch functions; own operators are added from outside with the same call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, signature
from typing import Any

from thetabox.models.program import Sized

Function = Callable[..., Any]

# Attributes that say how a result is computed or a state is updated, never what the result of an evaluation is.
IDLE = frozenset({"momentum", "stash_type", "consumed_inputs", "storage_order_of_indices"})
# What the builder knows and a function may ask for by a keyword of this name.
CONTEXT = ("opset", "outputs", "device")


@dataclass(frozen=True)
class Operator:
    """How to compute one operator.

    Attributes:
        function: takes the node's inputs by place (a tensor; a list or array of whole numbers; a number; ``None`` where
            one is left out) and its attributes by keyword; returns a result, or a tuple of several.
        weights: places of inputs that are weights and biases where they are tensors of the file.
        sized: what it does with a list of sizes, for files that were exported with a batch of one size.
        sizes: place of that list.
        factors: places of inputs that arrive as lists of numbers, which the file must hold.
        domain: of the operator; ``""`` is ONNX's own.
    """

    function: Function
    weights: tuple[int, ...] = ()
    sized: Sized = ""
    sizes: int = 1
    factors: tuple[int, ...] = ()
    domain: str = ""

    @cached_property
    def _named(self) -> dict[str, Parameter]:
        return {p.name: p for p in signature(self.function).parameters.values() if p.kind is Parameter.KEYWORD_ONLY}

    @property
    def attributes(self) -> list[str]:
        """Names of the attributes that the function honours."""
        return [name for name in self._named if name not in CONTEXT]

    @property
    def context(self) -> list[str]:
        """What the function asks of the builder."""
        return [name for name in self._named if name in CONTEXT]

    @cached_property
    def inputs(self) -> int | None:
        """The largest number of inputs that it takes; ``None`` for any."""
        parameters = signature(self.function).parameters.values()
        if any(p.kind is Parameter.VAR_POSITIONAL for p in parameters):
            return None
        return sum(p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for p in parameters)

    def unheard(self, parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> str | None:
        """The first attribute of a node that the function does not account for, and that is not at its default."""
        for name, value in parameters.items():
            if name in self._named or name in IDLE:
                continue
            if name not in defaults or defaults[name] != value:
                return name
        return None


OPERATORS: dict[tuple[str, str], Operator] = {}
"""(domain, name) → how it is computed."""


def onnx_operator(
    *names: str,
    weights: Iterable[int] = (),
    sized: Sized = "",
    sizes: int = 1,
    factors: Iterable[int] = (),
    domain: str = "",
) -> Callable[[Function], Function]:
    """Register a function as what ONNX operators such as ``"Celu"`` compute.

    A later registration replaces an earlier one. An attribute of a node that the function has no keyword for, and that
    is not at its default, is refused. Rules of the verifier for the torch operators that the function calls are another
    matter (``thetabox.verify.rule``).

    Args:
        names: of the operators.
        weights, sized, sizes, factors, domain: see :class:`Operator`.

    Example:
        >>> import torch
        >>> from thetabox.models.onnx import onnx_operator
        >>> @onnx_operator("Mine", domain="my.domain")
        ... def mine(x, *, alpha=1.0):
        ...     return alpha * torch.relu(x)
    """

    def register(function: Function) -> Function:
        for name in names:
            OPERATORS[domain, name] = Operator(function, tuple(weights), sized, sizes, tuple(factors), domain)
        return function

    return register
