"""A training between two epochs."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.models import logits
from thetabox.models.failure import needs_gradient
from thetabox.train.given import check_fits
from thetabox.train.history import Best, Epoch, copied
from thetabox.train.methods import Method, Step, run_step
from thetabox.train.settings import TrainingSettings

EVALUATION_BATCH = 1024
# What torch reports of a batch norm that is given one number a channel.
ALONE = "Expected more than 1 value per channel"


def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """(accuracy, mean cross entropy) in evaluation mode; the model's mode is left as it was."""
    mode = model.training
    model.eval()
    correct, loss = 0, 0.0
    with torch.no_grad():
        for first in range(0, len(x), EVALUATION_BATCH):
            labels = y[first : first + EVALUATION_BATCH]
            output = logits(model, x[first : first + EVALUATION_BATCH])
            correct += int((output.argmax(1) == labels).sum())
            loss += float(nn.functional.cross_entropy(output, labels, reduction="sum"))
    model.train(mode)
    return correct / len(y), loss / len(y)


class Training:
    """A training between two epochs: everything that a resumed one must find again."""

    def __init__(
        self,
        model: nn.Module,
        data: tuple[Tensor, Tensor],
        held_out: tuple[Tensor, Tensor],
        method: Method,
        settings: TrainingSettings,
        device: torch.device,
    ) -> None:
        self.model, self.method, self.settings, self.device = model, method, settings, device
        self.x, self.y = data
        self.held_out = held_out
        self.places = settings.places(self.y)
        self.batches = settings.batches(len(self.places))
        check_fits(model, self.x, self.y, held_out)
        torch.manual_seed(settings.seed)
        self.order = torch.Generator().manual_seed(settings.seed)
        self.noise = torch.Generator(device).manual_seed(settings.seed + 1)
        self.theta = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = settings.make_optimizer(self.theta.values())
        self.schedule = settings.make_schedule(self.optimizer)
        self.penalty = settings.output_penalty(model)
        self.best = Best()
        self.history: list[Epoch] = []
        self._started, self._earlier = time.perf_counter(), 0.0

    def epoch(self, advance: Callable[[], None]) -> Epoch:
        """One pass over the data and one over the validation data."""
        number = len(self.history) + 1
        self.model.train()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        order = self.places[torch.randperm(len(self.places), generator=self.order).to(self.device)]
        for index in range(self.batches):
            last = index == self.batches - 1
            rows = order[index * self.settings.batch_size :][: None if last else self.settings.batch_size]
            total += self._step(rows, (number - 1) * self.batches + index).double() * len(rows)
            advance()
        self.schedule.step()
        loss = float(total) / len(self.places)
        if not math.isfinite(loss):
            raise InputError(f"the training loss became {loss} in epoch {number}; lower lr (now {self.settings.lr:g})")
        with _as_stored(self.method, self.theta):
            record = Epoch(number, loss, *evaluate(self.model, *self.held_out))
            if number == self._settled_from():
                self.best = Best()
            self.best.improve(record, self.model)
        self.history.append(record)
        return record

    def _settled_from(self) -> int:
        """The first epoch whose weights count, if there is a ramp: the whole of it at its end, or else the last one."""
        return min(math.floor(self.method.settled_at * self.settings.epochs) + 1, self.settings.epochs)

    def seconds(self) -> float:
        """Time spent, earlier parts included."""
        return self._earlier + time.perf_counter() - self._started

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs, copied."""
        random = [self.order.get_state(), self.noise.get_state(), torch.get_rng_state()]
        if self.device.type == "cuda":
            random.append(torch.cuda.get_rng_state(self.device))
        return {
            "model": copied(self.model.state_dict()),
            "optimizer": copied(self.optimizer.state_dict()),
            "schedule": copied(self.schedule.state_dict()),
            "random": random,
            "best": asdict(self.best),
            "history": [asdict(record) for record in self.history],
            "seconds": self.seconds(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state` was taken."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        for target, value in zip((self.order, self.noise), state["random"], strict=False):
            target.set_state(value)
        torch.set_rng_state(state["random"][2])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"][3], self.device)
        self.best = Best(**state["best"])
        self.history = [Epoch(**record) for record in state["history"]]
        self._earlier = state["seconds"]

    def _step(self, rows: Tensor, index: int) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        theta: dict[str, Tensor] = dict(self.theta)
        x = self.settings.augment(self.x[rows], self.noise)
        done = index / self.batches / self.settings.epochs
        step = Step(self.model, x, self.y[rows], theta, self.noise, done, self.penalty, index, self._descend)
        try:
            with needs_gradient():
                loss = run_step(self.method, step)
        except ValueError as error:
            if ALONE not in str(error):
                raise
            raise InputError(
                f"batch norm cannot be trained on a batch of {len(rows)}; take a batch_size of 2 or more, and 2 samples"
            ) from None
        self._descend()
        return loss

    def _descend(self) -> None:
        if self.settings.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.theta.values(), self.settings.clip_norm)
        self.optimizer.step()
        self.settings.grow(self.theta.values(), self.optimizer)


@contextlib.contextmanager
def _as_stored(method: Method, theta: Mapping[str, Tensor]) -> Iterator[None]:
    """The parameters as the method's device would hold them, inside (those of quantised training: rounded)."""
    with torch.no_grad():
        before = {name: value.detach() for name, value in theta.items()}
        stored = method.stored(before)
        if stored is before:
            yield
            return
        before = {name: value.clone() for name, value in before.items()}
        for name, value in theta.items():
            value.copy_(stored[name])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in theta.items():
                value.copy_(before[name])
