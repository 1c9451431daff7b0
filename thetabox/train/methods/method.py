"""What a training method is: a few hooks around one optimiser step, and how methods combine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

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
        index: steps before this one, since the training began.
        descend: takes an optimiser step with the gradients at hand, for methods that take several in one step;
            the last of them is the training loop's.
        statistics: whether the next task loss moves batch norm's running statistics; once a step.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    theta: Weights
    generator: torch.Generator
    progress: float
    output_penalty: Callable[[Tensor], Tensor] | None = None
    index: int = 0
    descend: Callable[[], None] = lambda: None
    statistics: bool = True

    def logits(self, weights: Mapping[str, Tensor], *, x: Tensor | None = None) -> Tensor:
        """Logits under other weights; batch norm's running statistics stay as they are."""
        return self._run(weights, self.x if x is None else x, statistics=False, outputs=False)[0]

    def logits_and_outputs(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits of a recurrent network under other weights, and its outputs ``[batch, time, units]``."""
        logits, outputs = self._run(weights, self.x, statistics=False, outputs=True)
        assert outputs is not None
        return logits, outputs

    def task(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(cross entropy plus the task's penalty, logits) of the batch under ``weights``."""
        wanted = self.output_penalty is not None
        logits, outputs = self._run(weights, self.x, statistics=self.statistics, outputs=wanted)
        self.statistics = False
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
        tensors: Weights = {}
        if not statistics:
            tensors = {f"model.{name}": value.clone() for name, value in self.model.named_buffers()}
        # Weights may name buffers too (neuron parameters), so they come last.
        tensors |= {f"model.{name}": value for name, value in weights.items()}
        result: tuple[Tensor, Tensor | None] = functional_call(_Runner(self.model), tensors, (x, outputs))
        return result


class _Runner(nn.Module):
    """Any model behind one forward: (logits, outputs of every step or None)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, x: Tensor, outputs: bool) -> tuple[Tensor, Tensor | None]:
        if outputs:
            logits, spikes = self.model(x.clone(), return_outputs=True)
            return logits, spikes
        return model_logits(self.model, x), None


class Objective(Protocol):
    """What one step minimises, as a function of the parameters (those of the step when omitted)."""

    def __call__(self, theta: Weights | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Method:
    """A training method; its dataclass fields are its hyper-parameters. Override the hooks that it needs.

    A step minimises ``task(weights(stored(theta))) + Σ extra``. A new method is one frozen dataclass: in a file
    of ``thetabox.train.methods`` and its table, or anywhere, named ``package.module:Class`` (docs/write-a-method.md).
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    meanings: ClassVar[dict[str, str]] = {}
    """Hyper-parameter → what it means, one line each (with unit)."""
    searches: ClassVar[bool] = False
    """Whether it looks for other weights by gradients of its own; only one method in a combination may."""

    @property
    def gradients_per_step(self) -> float:
        """Forward and backward passes over a batch that one batch costs (mean over the training); 1 for the task."""
        return 1.0

    @property
    def inner_loops(self) -> int:
        """Descents (of the optimiser, or of a walk) that are made on one batch.

        Where methods train for equal epochs, one with inner loops has its epochs divided by this: arXiv 2106.05009
        counts the loops of Entropy-SGD and ABCD.
        """
        return 1

    @property
    def settled_at(self) -> float:
        """Share of the training after which the best weights are looked for: where a ramp has reached its end."""
        return 0.0

    @property
    def alone_from(self) -> float:
        """Share of the training after which the methods that it is joined with rest (their ``stored`` aside)."""
        return 1.0

    def at(self, progress: float) -> Method:
        """What trains there: the method itself, or one of several that are joined."""
        return self

    def stored(self, weights: Weights) -> Weights:
        """Weights as a device would hold them (quantised, …), a differentiable function of the parameters."""
        return weights

    def weights(self, step: Step, weights: Weights) -> Weights:
        """Weights at which the task loss is taken, a differentiable function of ``weights``; may add buffers."""
        return weights

    def extra(self, step: Step, logits: Tensor | None) -> Tensor | None:
        """A term to add to the loss; ``logits`` are those at ``step.theta``, as stored, where they are at hand."""
        return None

    def backward(self, step: Step, objective: Objective) -> Tensor:
        """Leave the gradient in ``theta[...].grad`` and return the loss; sharpness-aware methods override this."""
        loss = objective()
        loss.backward()
        return loss.detach()


@dataclass(frozen=True)
class Combined(Method):
    """Several methods at once: weight changes in turn, extra terms summed, at most one with a backward of its own.

    Behind ``alone_from`` of one of them, that one trains alone.
    """

    parts: tuple[Method, ...] = ()

    @property
    def gradients_per_step(self) -> float:
        last = self._last()
        if last is not None:
            before = Combined(tuple(part for part in self.parts if part is not last)).gradients_per_step
            return last.alone_from * (before - 1) + last.gradients_per_step
        own = self._own()
        passes = 1 + sum(part.gradients_per_step - 1 for part in self.parts if part is not own)
        if self._overridden("extra") and self._overridden("weights"):
            passes += 1  # the outputs at the unchanged weights are no by-product of the task loss then
        return passes if own is None else passes * own.gradients_per_step

    @property
    def inner_loops(self) -> int:
        return max(part.inner_loops for part in self.parts)

    @property
    def settled_at(self) -> float:
        return max(part.settled_at for part in self.parts)

    def at(self, progress: float) -> Method:
        last = self._last()
        return self if last is None or progress < last.alone_from else last

    def stored(self, weights: Weights) -> Weights:
        for part in self.parts:
            weights = part.stored(weights)
        return weights

    def weights(self, step: Step, weights: Weights) -> Weights:
        for part in self.parts:
            weights = part.weights(step, weights)
        return weights

    def extra(self, step: Step, logits: Tensor | None) -> Tensor | None:
        terms = [term for part in self.parts if (term := part.extra(step, logits)) is not None]
        return torch.stack(terms).sum() if terms else None

    def backward(self, step: Step, objective: Objective) -> Tensor:
        own = self._own()
        return super().backward(step, objective) if own is None else own.backward(step, objective)

    def _last(self) -> Method | None:
        return next((part for part in self.parts if part.alone_from < 1), None)

    def _own(self) -> Method | None:
        return next((part for part in self.parts if type(part).backward is not Method.backward), None)

    def _overridden(self, hook: str) -> bool:
        return any(getattr(type(part), hook) is not getattr(Method, hook) for part in self.parts)


def run_step(method: Method, step: Step) -> Tensor:
    """Gradient of one step by a method; returns the loss."""
    now = method.at(step.progress)

    def objective(theta: Weights | None = None) -> Tensor:
        here = replace(step, theta=method.stored(step.theta if theta is None else theta))
        weights = now.weights(here, here.theta)
        loss, logits = here.task(weights)
        step.statistics = here.statistics
        extra = now.extra(here, logits if weights is here.theta else None)
        return loss if extra is None else loss + extra

    return now.backward(step, objective)


def gradient_at(objective: Objective, weights: Weights) -> tuple[Tensor, Weights]:
    """(loss, gradient by every tensor) at any weights; zeros where the loss does not depend on one."""
    leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
    loss = objective(leaves)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return loss.detach(), dict(zip(leaves, gradients, strict=True))


def set_gradient(theta: Weights, gradient: Weights) -> None:
    """Leave a gradient where the optimiser finds it."""
    for name, value in theta.items():
        value.grad = gradient[name]


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
