"""What a training method is: up to three hooks around one optimiser step, and how methods combine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from thetabox.errors import InputError
from thetabox.models import logits as model_logits

Weights = dict[str, Tensor]
"""Parameter tensors by name."""


@dataclass
class Step:
    """One optimiser step as a method sees it.

    Attributes:
        model: the network being trained (training mode).
        x, y: the batch, inputs and labels.
        theta: the parameters, by name; differentiable leaves.
        generator: source of everything random, on the batch's device.
        progress: how much of the training is done, 0 to 1 (for ramps).
        output_penalty: what the task adds for a recurrent network's outputs (firing rates), or None.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    theta: Weights
    generator: torch.Generator
    progress: float
    output_penalty: Callable[[Tensor], Tensor] | None = None

    def logits(self, weights: Mapping[str, Tensor], *, x: Tensor | None = None, statistics: bool = False) -> Tensor:
        """Logits under other weights; batch norm's running statistics move only with ``statistics=True``."""
        return self._run(weights, self.x if x is None else x, statistics, outputs=False)[0]

    def task(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(cross entropy plus the task's penalty, logits) of the batch under ``weights``."""
        wanted = self.output_penalty is not None
        logits, outputs = self._run(weights, self.x, statistics=True, outputs=wanted)
        loss = nn.functional.cross_entropy(logits, self.y)
        if self.output_penalty is not None and outputs is not None:
            loss = loss + self.output_penalty(outputs)
        return loss, logits

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the same shape."""
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype, device=like.device)

    def _run(
        self, weights: Mapping[str, Tensor], x: Tensor, statistics: bool, outputs: bool
    ) -> tuple[Tensor, Tensor | None]:
        tensors = {f"model.{name}": value for name, value in weights.items()}
        if not statistics:
            tensors |= {f"model.{name}": value.clone() for name, value in self.model.named_buffers()}
        answer: tuple[Tensor, Tensor | None] = functional_call(_Runner(self.model), tensors, (x, outputs))
        return answer


class _Runner(nn.Module):
    """Any model behind one forward: (logits, outputs of every step or None)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, x: Tensor, outputs: bool) -> tuple[Tensor, Tensor | None]:
        if outputs:
            logits, spikes = self.model(x, return_outputs=True)
            return logits, spikes
        return model_logits(self.model, x), None


@dataclass(frozen=True)
class Method:
    """A training method; its dataclass fields are its hyper-parameters. Override the hooks that it needs.

    A step minimises ``task(weights) + Σ extra``. A new method is one file with one subclass, registered in
    ``thetabox.train.methods.METHODS``.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    meanings: ClassVar[dict[str, str]] = {}
    """Hyper-parameter → what it means, one line each (with unit)."""

    def weights(self, step: Step, weights: Weights) -> Weights:
        """Weights at which the task loss is taken, a differentiable function of ``weights``."""
        return weights

    def extra(self, step: Step, logits: Tensor | None) -> Tensor | None:
        """A term to add to the loss; ``logits`` are those at the unchanged weights where they are at hand."""
        return None

    def backward(self, step: Step, objective: Callable[[], Tensor]) -> Tensor:
        """Leave the gradient in ``theta[...].grad`` and answer the loss; sharpness-aware methods override this."""
        loss = objective()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss.detach()


@dataclass(frozen=True)
class Combined(Method):
    """Several methods at once: weight changes in turn, extra terms summed, at most one with a backward of its own."""

    parts: tuple[Method, ...] = ()

    def weights(self, step: Step, weights: Weights) -> Weights:
        for part in self.parts:
            weights = part.weights(step, weights)
        return weights

    def extra(self, step: Step, logits: Tensor | None) -> Tensor | None:
        terms = [term for part in self.parts if (term := part.extra(step, logits)) is not None]
        return torch.stack(terms).sum() if terms else None

    def backward(self, step: Step, objective: Callable[[], Tensor]) -> Tensor:
        own = [part for part in self.parts if type(part).backward is not Method.backward]
        return own[0].backward(step, objective) if own else super().backward(step, objective)


def run_step(method: Method, step: Step) -> Tensor:
    """Gradient of one step by a method; answers the loss."""

    def objective() -> Tensor:
        weights = method.weights(step, step.theta)
        loss, logits = step.task(weights)
        extra = method.extra(step, logits if weights is step.theta else None)
        return loss if extra is None else loss + extra

    return method.backward(step, objective)


def hyper_parameters(kind: type[Method]) -> dict[str, Any]:
    """Name → default of a method's hyper-parameters."""
    return {field.name: field.default for field in dataclasses.fields(kind)}


def parse_value(name: str, value: Any, default: Any) -> Any:
    """A hyper-parameter from what the user wrote, in the type of its default.

    Raises:
        InputError: not a value of that type.
    """
    if not isinstance(value, str):
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if type(value) is type(default):
            return value
        raise InputError(f"{name}={value!r} is not of type {type(default).__name__}")
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]
        return type(default)(value)
    except (ValueError, KeyError):
        raise InputError(f"{name}={value!r} is not a {type(default).__name__}") from None


def check_range(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise InputError unless low ≤ value ≤ high (NaN and infinity never pass)."""
    if not (low <= value <= high and value < float("inf")):
        raise InputError(f"{name}={value} is out of range; it must lie in [{low:g}, {high:g}]")
