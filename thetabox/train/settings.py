"""Numbers that a training runs by, whatever the method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.models import is_recurrent
from thetabox.train.warp import warped

SCHEDULES = ("constant", "cosine", "late-cosine", "steps")
LATE = 0.6
"""Share of the epochs before a late cosine falls."""
OPTIMIZERS = ("adam", "sgd")


@dataclass(frozen=True)
class TrainingSettings:
    """See :func:`thetabox.train.fit` for what each one means.

    Raises:
        InputError: a number out of range, an unknown optimiser or schedule.
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 0
    optimizer: str = "adam"
    schedule: str = "constant"
    weight_decay: float = 0.0
    inverse_weight_decay: float = 0.0
    clip_norm: float = 0.0
    rate_penalty: float = 0.0
    target_rate: float = 10.0
    input_noise: float = 0.0
    time_shift: int = 0
    warp: float = 0.0
    repeat_rare: int = 1

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise InputError(f"epochs and batch_size must be at least 1, not {self.epochs} and {self.batch_size}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"lr is {self.lr}; it must be positive and finite")
        for name in ("weight_decay", "inverse_weight_decay", "clip_norm", "rate_penalty", "input_noise", "time_shift"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name} is {value}; it must be finite and at least 0")
        if not 0 <= self.warp <= 1:
            raise InputError(f"warp is {self.warp}; it must lie in [0, 1], the share of the images")
        if self.repeat_rare < 1:
            raise InputError(f"repeat_rare is {self.repeat_rare}; it must be at least 1")
        if not (math.isfinite(self.target_rate) and self.target_rate > 0):
            raise InputError(f"target_rate is {self.target_rate}; it must be positive and finite")
        if self.schedule not in SCHEDULES:
            raise InputError(f"unknown schedule {self.schedule!r}; choose {', '.join(SCHEDULES)}")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"unknown optimizer {self.optimizer!r}; choose {', '.join(OPTIMIZERS)}")
        if not -(2**63) <= self.seed < 2**63 - 1:
            raise InputError(f"seed {self.seed} does not fit into 64 bits")

    def places(self, y: Tensor) -> Tensor:
        """The samples of one epoch, rare classes repeated."""
        counts = y.bincount()
        repeats = (counts.max() // counts.clamp(min=1)).clamp(1, self.repeat_rare)
        return torch.arange(len(y), device=y.device).repeat_interleave(repeats[y])

    def batches(self, samples: int) -> int:
        """Steps of an epoch. A last sample that would stand alone joins the batch before it: batch norm needs two."""
        whole, rest = divmod(samples, self.batch_size)
        return max(whole + (rest > (1 if self.batch_size > 1 else 0)), 1)

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam, or SGD with Nesterov momentum 0.9."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                list(parameters), self.lr, momentum=0.9, nesterov=True, weight_decay=self.weight_decay
            )
        return torch.optim.Adam(list(parameters), self.lr, weight_decay=self.weight_decay)

    def grow(self, parameters: Iterable[Tensor], optimizer: torch.optim.Optimizer) -> None:
        r"""Inverse weight decay, in place and apart from the gradient.

        .. math:: \theta \leftarrow (1 + \eta\lambda)\,\theta

        with η the rate of the moment.
        """
        if self.inverse_weight_decay > 0:
            factor = 1.0 + optimizer.param_groups[0]["lr"] * self.inverse_weight_decay
            with torch.no_grad():
                for value in parameters:
                    value.mul_(factor)

    def make_schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """Factor on the rate, by epoch."""
        return torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate_factor)

    def output_penalty(self, model: nn.Module) -> Callable[[Tensor], Tensor] | None:
        """Firing-rate regulariser of a recurrent network's outputs, None where it has none."""
        if self.rate_penalty == 0 or not is_recurrent(model):
            return None
        per_step = self.target_rate * float(getattr(model, "dt", 1.0)) / 1000
        return lambda outputs: self.rate_penalty * (outputs.mean((0, 1)) / per_step - 1).square().mean()

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Inputs with noise, sequences [N, T, inputs] moved in time (their ends repeated), images warped."""
        if self.time_shift > 0 and x.ndim == 3:
            shift = torch.randint(
                -self.time_shift, self.time_shift + 1, (len(x), 1), generator=generator, device=x.device
            )
            frames = (torch.arange(x.shape[1], device=x.device) + shift).clamp(0, x.shape[1] - 1)
            x = x.gather(1, frames[:, :, None].expand_as(x))
        if self.warp > 0 and x.ndim == 4:
            chosen = torch.rand(len(x), generator=generator, device=x.device) < self.warp
            x = torch.where(chosen[:, None, None, None], warped(x, generator), x)
        if self.input_noise > 0:
            x = x + self.input_noise * torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return x

    def _rate_factor(self, epoch: int) -> float:
        done = epoch / self.epochs
        if self.schedule == "late-cosine":
            done = max(done - LATE, 0.0) / (1 - LATE)
        if self.schedule in ("cosine", "late-cosine"):
            return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        if self.schedule == "steps":
            return float(0.2 ** sum(done >= at for at in (60 / 300, 120 / 300, 160 / 300)))
        return 1.0
