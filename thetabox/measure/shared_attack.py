"""The worst one perturbation for a whole set of samples: the attack in the paper's sense."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from thetabox.box import Box
from thetabox.device import choose_device
from thetabox.errors import InputError
from thetabox.measure.box_points import BoxEnds, Weights, inward_ends, placed
from thetabox.measure.correctness import Correctness
from thetabox.measure.inputs import Levels, Logits, checked, class_count, levels, numbers_for, of_box
from thetabox.measure.two_precisions import TwoPrecisions, margins
from thetabox.models.failure import needs_gradient

LOSSES = ("cross-entropy", "kl", "margin")
MOMENTUM = 0.75
START = 1e-3


@dataclass(frozen=True)
class SharedAttackResult(Correctness):
    """What one perturbation for all samples does: an upper bound of the accuracy a chip of this tolerance may have.

    Attributes:
        epsilon: [E], as given.
        correct: [E, N], right under the worst weights found at this ε (a sample wrong at ε = 0 may come right).
        cross_entropy: [E], mean over the samples under these weights, nats.
        label, predicted: [N], given and unperturbed (float64).
        weights: for each ε the worst weights found, float64; only when asked for.
    """

    epsilon: Float[Tensor, " epsilon"]
    correct: Bool[Tensor, "epsilon sample"]
    cross_entropy: Float[Tensor, " epsilon"]
    label: Int[Tensor, " sample"]
    predicted: Int[Tensor, " sample"]
    loss: str
    steps: int
    restarts: int
    seed: int
    box: Box
    seconds: float
    weights: list[Weights] | None = None

    def to_json(self) -> dict[str, Any]:
        """The result without its samples, for a report or a file."""
        rows = zip(self.epsilon, self.accuracy, self.cross_entropy, strict=True)
        return {
            "loss": self.loss,
            "steps": self.steps,
            "restarts": self.restarts,
            "seed": self.seed,
            "box": self.box.describe(),
            "clean_accuracy": self.clean_accuracy,
            "curve": [{"epsilon": float(e), "accuracy": float(a), "cross_entropy": float(c)} for e, a, c in rows],
            "seconds": self.seconds,
        }


@torch.no_grad()
def shared_attack(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    epsilon: Levels,
    *,
    loss: str = "cross-entropy",
    steps: int = 20,
    restarts: int = 2,
    box: Box | None = None,
    seed: int = 0,
    device: str = "auto",
    chunk: int = 500,
    progress: Callable[[int, int], None] | None = None,
    keep_weights: bool = False,
) -> SharedAttackResult:
    r"""Search the box for one set of weights that harms all samples together, as one chip would.

    Projected gradient with momentum on the mean loss L over the samples: with
    :math:`\theta' = \theta + \varepsilon f r \delta`, r the box's unit radius and f its factor,

    .. math::
        m \leftarrow \mu m + \nabla_{\theta'} L / \overline{|\nabla_{\theta'} L|}, \qquad
        \delta \leftarrow \mathrm{clip}(\delta + \eta_t\, \mathrm{sign}\, m, -1, 1)

    with :math:`\eta_t` falling from 1, a jump to a vertex of the box, to 1/steps, and µ = 0.75. The first run starts
    at δ = 1e-3·N(0, 1), the second at the worst δ of the next smaller ε, others at random. The losses:
    ``cross-entropy``; ``kl``, KL(f(θ), f(θ')), which asks for no labels; ``margin``, the mean of
    max(0, min over k of z_y − z_k), negated, which leaves samples alone once they are wrong.

    Of all weights passed on the way, those of least accuracy count (then of largest cross entropy), in float64, with
    weights inside the box rounded inward; never a higher accuracy than at a smaller ε. :func:`thetabox.attack` gives
    each sample weights of its own, and so finds at most this accuracy.

    Args:
        model: any network; it stays as it is.
        x: inputs [N, ...].
        y: labels [N].
        epsilon: one or several ε ≥ 0.
        loss: "cross-entropy", "kl" or "margin".
        steps: gradient steps of one run.
        restarts: runs an ε.
        box: which tensors move and how far; every weight and bias by relative error when omitted.
        seed: of the random starts.
        device: "auto", "cpu" or "cuda".
        chunk: samples of the data in one pass.
        progress: called with (done, total) runs.
        keep_weights: keep the worst weights of every ε.

    Raises:
        InputError: anything wrong with the arguments.

    Source: Büchel, Faber, Muir (ICLR 2022), Algorithm 1 and section 4 (worst-case attack on the test set); momentum
    after Dong et al. (2018).
    """
    started = time.perf_counter()
    epsilons = levels(epsilon, "epsilon")
    if steps < 1 or restarts < 1 or chunk < 1:
        raise InputError(f"steps is {steps}, restarts {restarts}, chunk {chunk}; all must be at least 1")
    if loss not in LOSSES:
        raise InputError(f"unknown loss {loss!r}; choose one of {', '.join(LOSSES)}")
    model, inputs, labels = checked(model, x, y)
    where = choose_device(device)
    chosen = box or Box()
    climb = _Climb(of_box(model, chosen, inputs), chosen, inputs, labels, where, chunk, loss, steps)
    clean = climb.judge({})
    points = _worst(climb, clean, epsilons, restarts, seed, progress)
    exact = {name: theta for name, (theta, _) in climb.tensors.items()}
    return SharedAttackResult(
        epsilon=torch.tensor(epsilons, dtype=torch.float64),
        correct=torch.stack([point.predicted == labels for point in points]),
        cross_entropy=torch.tensor([point.cross_entropy for point in points], dtype=torch.float64),
        label=labels,
        predicted=clean.predicted,
        loss=loss,
        steps=steps,
        restarts=restarts,
        seed=seed,
        box=chosen,
        seconds=time.perf_counter() - started,
        weights=[{n: v.cpu() for n, v in (exact | point.weights).items()} for point in points]
        if keep_weights
        else None,
    )


def _worst(
    climb: _Climb,
    clean: _Point,
    epsilons: list[float],
    restarts: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> list[_Point]:
    """The worst weights of each ε; those of a smaller one are inside the box of a larger one."""
    best, delta = clean, None
    worst: dict[int, _Point] = {}
    done = 0
    for index in sorted(range(len(epsilons)), key=epsilons.__getitem__):
        ends = inward_ends(climb.tensors, epsilons[index])
        for restart in range(restarts):
            if epsilons[index] > 0:
                start = delta if restart == 1 and delta is not None else climb.start(seed, restart)
                for candidate in climb.run(ends, start):
                    point = climb.judge(placed(ends, candidate, torch.float64))
                    if point.worse_than(best):
                        best, delta = point, candidate
            done += 1
            if progress is not None:
                progress(done, len(epsilons) * restarts)
        worst[index] = best
    return [worst[index] for index in range(len(epsilons))]


@dataclass(frozen=True)
class _Point:
    """Weights, and what they do to the set, in float64."""

    weights: Weights
    predicted: Tensor
    accuracy: float
    cross_entropy: float

    def worse_than(self, other: _Point) -> bool:
        return (-self.accuracy, self.cross_entropy) > (-other.accuracy, other.cross_entropy)


class _Climb(TwoPrecisions):
    """The network in two precisions, the data, and the loss."""

    def __init__(
        self,
        model: nn.Module,
        box: Box,
        x: Tensor,
        y: Tensor,
        device: torch.device,
        chunk: int,
        loss: str,
        steps: int,
    ) -> None:
        super().__init__(model, box, device)
        self.loss, self.steps = loss, steps
        class_count(self.precise, numbers_for(x[:1], device, torch.float64), y)
        self.parts = list(zip(x.split(chunk), y.split(chunk), strict=True))
        self.count = len(y)
        self.clean = [log_softmax(self._logits(self.fast, {}, part), 1) for part, _ in self.parts]

    def start(self, seed: int, restart: int) -> Weights:
        """Near the centre (at it the gradient of KL is zero) in the first run, anywhere in others."""
        stream = torch.Generator().manual_seed(seed * 1_000_003 + restart)
        if restart == 0:
            drawn = {
                n: START * torch.randn(t.shape, generator=stream, dtype=torch.float32)
                for n, (t, _) in self.tensors.items()
            }
        else:
            drawn = {
                n: 2 * torch.rand(t.shape, generator=stream, dtype=torch.float32) - 1
                for n, (t, _) in self.tensors.items()
            }
        return {n: d.to(self.device, self.dtype).clamp(-1, 1) for n, d in drawn.items()}

    def run(self, ends: BoxEnds, delta: Weights) -> list[Weights]:
        """One run: the δ of least accuracy on the way, the last one, and the vertices nearest to them."""
        momentum = {name: torch.zeros_like(d) for name, d in delta.items()}
        best, least = delta, (2.0, 0.0)
        for step in range(self.steps + 1):
            harm, accuracy, gradient = self._slope(placed(ends, delta, self.dtype))
            if (accuracy, -harm) < least:
                best, least = delta, (accuracy, -harm)
            if step == self.steps:
                break
            for name, value in gradient.items():
                momentum[name] = MOMENTUM * momentum[name] + value / value.abs().mean().clamp(min=1e-30)
            size = 1 - step / self.steps
            delta = {name: (d + size * momentum[name].sign()).clamp(-1, 1) for name, d in delta.items()}
        return [best, delta, _corner(best), _corner(delta)]

    def judge(self, weights: Weights) -> _Point:
        """Predictions and cross entropy in float64."""
        logits = torch.cat([self._logits(self.precise, weights, part) for part, _ in self.parts]).cpu()
        labels = torch.cat([y for _, y in self.parts])
        predicted = logits.argmax(1)
        accuracy = float((predicted == labels).double().mean())
        return _Point(weights, predicted, accuracy, float(cross_entropy(logits, labels)))

    def _slope(self, weights: Weights) -> tuple[float, float, Weights]:
        """(mean loss, accuracy, gradient) over the set, in the network's precision."""
        total, right = 0.0, 0
        gradient = {name: torch.zeros_like(value) for name, value in weights.items()}
        for (part, labels), clean in zip(self.parts, self.clean, strict=True):
            y = labels.to(self.device)
            with torch.enable_grad(), needs_gradient():
                leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
                logits = self._logits(self.fast, leaves, part)
                harm = self._harm(logits, y, clean)
                slopes = torch.autograd.grad(harm, list(leaves.values()), allow_unused=True, materialize_grads=True)
            total, right = total + float(harm), right + int((logits.argmax(1) == y).sum())
            for name, slope in zip(leaves, slopes, strict=True):
                gradient[name] += slope
        return total / self.count, right / self.count, gradient

    def _harm(self, logits: Tensor, y: Tensor, clean: Tensor) -> Tensor:
        """The loss, summed over the samples."""
        if self.loss == "cross-entropy":
            return cross_entropy(logits, y, reduction="sum")
        if self.loss == "kl":
            return kl_div(log_softmax(logits, 1), clean, reduction="sum", log_target=True)
        return -margins(logits, y).clamp(min=0).sum()

    def _logits(self, network: Logits, weights: Weights, x: Tensor) -> Tensor:
        return network.under(weights, numbers_for(x, self.device, network.dtype))


def _corner(delta: Weights) -> Weights:
    """The vertex of the box nearest to δ."""
    return {name: torch.where(d < 0, -1.0, 1.0).to(d) for name, d in delta.items()}
