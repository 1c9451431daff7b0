"""The weight loss landscape: cross entropy along random directions, and how flat it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.device import choose_device
from thetabox.errors import InputError
from thetabox.measure.batched_draws import loss_sum
from thetabox.measure.inputs import boxed, checked, class_count, numbers_for, of_box
from thetabox.measure.stretches import OnSamples, stretches
from thetabox.workers import Pool, check_executor

WINDOW = 5


@dataclass(frozen=True)
class LandscapeResult:
    """Cross entropy around the weights.

    Attributes:
        alpha: [A], steps along each direction, rising.
        loss: [D, A], mean cross entropy over the samples, nats.
        zeta: length of a direction, relative to the box's unit.
    """

    alpha: Float[Tensor, " alpha"]
    loss: Float[Tensor, "direction alpha"]
    zeta: float
    seed: int
    box: Box
    seconds: float

    @property
    def mean(self) -> Float[Tensor, " alpha"]:
        """Mean over the directions."""
        return self.loss.mean(0)

    @property
    def flatness(self) -> float:
        r"""Mean absolute slope of the smoothed mean loss, nats per unit of α: 0 is flat.

        .. math::
            F = \frac{1}{A'-1} \sum_i \left| \frac{\tilde L_{i+1} - \tilde L_i}{\tilde\alpha_{i+1} -
            \tilde\alpha_i} \right|

        with :math:`\tilde L`, :math:`\tilde\alpha` the moving averages over 5 steps (fewer where there are fewer
        than 6). It is what the authors' published code computes from the same curves; figures compare only where α and
        ζ are the same.
        """
        window = min(WINDOW, len(self.alpha) - 1)
        smooth, where = (values.unfold(0, window, 1).mean(1) for values in (self.mean, self.alpha))
        return float((smooth.diff() / where.diff()).abs().mean())

    def to_json(self) -> dict[str, Any]:
        """The result, for a report or a file."""
        return {
            "zeta": self.zeta,
            "seed": self.seed,
            "box": self.box.describe(),
            "flatness": self.flatness,
            "alpha": self.alpha.tolist(),
            "mean": self.mean.tolist(),
            "loss": self.loss.tolist(),
            "seconds": self.seconds,
        }


@torch.no_grad()
def landscape(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    alpha: Tensor | np.ndarray | list[float] | None = None,
    directions: int = 5,
    *,
    zeta: float = 0.2,
    seed: int = 0,
    box: Box | None = None,
    device: str = "auto",
    chunk: int = 500,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    executor: Executor | None = None,
) -> LandscapeResult:
    r"""Cross entropy along random directions through the weights.

    .. math:: L_{cce}(\theta + \alpha\, \zeta\, f r \circ \xi), \qquad \xi \sim \mathcal{N}(0, 1)

    with r the box's unit radius (\|θ\| for a relative box) and f its factor.

    Args:
        model: any network; it stays as it is.
        x: inputs [N, ...].
        y: labels [N].
        alpha: steps along a direction, rising, two at least; 51 from −2 to 2 when omitted.
        directions: ξ.
        zeta: length of a direction.
        seed: of the directions.
        box: which tensors move and what their unit is; every weight and bias by relative error when omitted.
        device: "auto", "cpu" or "cuda".
        chunk: samples of the data in one forward pass.
        batch: points in one call; by default whatever is fastest.
        progress: called with (done, total) points.
        executor: whose workers take the points (:mod:`thetabox.workers`); this process where ``None``. Losses are the
            same bits on as many threads; a worker has one.

    Raises:
        InputError: anything wrong with the arguments.

    Source: Büchel, Faber, Muir (ICLR 2022), section 4 and Table S1, with ζ, the range of α and the number of directions
    of the authors' code.
    """
    started = time.perf_counter()
    check_executor(executor)
    steps = torch.linspace(-2, 2, 51, dtype=torch.float64) if alpha is None else _steps(alpha)
    if directions < 1 or chunk < 1:
        raise InputError(f"directions is {directions} and chunk is {chunk}; both must be at least 1")
    if not 0 <= zeta < float("inf"):
        raise InputError(f"zeta is {zeta}; it must be finite and at least 0")
    model, inputs, labels = checked(model, x, y)
    where, chosen = choose_device(device), box or Box()
    model = of_box(model, chosen, inputs, executor)
    points = _Points(model, inputs, labels, where, chunk, batch, chosen, zeta, seed, steps)
    class_count(points.many.network, numbers_for(inputs[:1], where, points.many.dtype), labels)
    total = directions * len(steps)
    with Pool(executor, points) as pool:
        if pool.several:
            sums = torch.empty(total, dtype=torch.float64)
            for some, own in stretches(pool, _some_points, total, progress):
                sums[some] = own
        else:
            sums = points.losses(0, total, None if progress is None else lambda done: progress(done, total))
    return LandscapeResult(
        alpha=steps,
        loss=(sums / len(labels)).reshape(directions, len(steps)),
        zeta=float(zeta),
        seed=seed,
        box=chosen,
        seconds=time.perf_counter() - started,
    )


@dataclass
class _Points(OnSamples):
    """Points of the landscape, by number: direction after direction, each at all steps."""

    zeta: float
    seed: int
    steps: Tensor

    @cached_property
    def tensors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """What moves, and its unit."""
        return boxed(self.model, self.box)

    @cached_property
    def direction(self) -> Callable[[int], dict[str, Tensor]]:
        """A direction by its number; the last one is kept, for its points come one after the other."""

        def drawn(index: int) -> dict[str, Tensor]:
            stream = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
            return {
                name: self.zeta * r * torch.randn(t.shape, generator=stream, dtype=torch.float32)
                for name, (t, r) in self.tensors.items()
            }

        return lru_cache(maxsize=1)(drawn)

    def losses(self, first: int, stop: int, progress: Callable[[int], None] | None = None) -> Float[Tensor, " point"]:
        """Cross entropy, summed over the samples, at points from ``first`` up to ``stop``."""

        def weights(index: int) -> dict[str, Tensor]:
            which, step = divmod(first + index, len(self.steps))
            far = float(self.steps[step])
            return {name: self.tensors[name][0] + far * d for name, d in self.direction(which).items()}

        return self.many.scores(weights, stop - first, loss_sum, progress)


def _some_points(points: _Points, which: tuple[int, int]) -> Tensor:
    return points.losses(*which)


def _steps(alpha: Tensor | np.ndarray | list[float]) -> Tensor:
    steps = torch.as_tensor(alpha, dtype=torch.float64).reshape(-1)
    if len(steps) < 2 or not torch.isfinite(steps).all() or not (steps.diff() > 0).all():
        raise InputError("alpha must hold at least two finite numbers, each larger than the one before")
    return steps
