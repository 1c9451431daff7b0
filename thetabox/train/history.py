"""What a training leaves behind: its epochs, its best weights, its result."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Epoch:
    """One line of the training history; ``loss`` is the mean over the training batches, as they were passed."""

    epoch: int
    loss: float
    validation_accuracy: float
    validation_loss: float


@dataclass
class TrainResult:
    """What a training gave: the model at its best epoch, by validation.

    Attributes:
        model: the same module that was passed in, holding the best weights, in evaluation mode, on its device.
        best_validation_accuracy: of these weights.
        best_epoch: the epoch that they are from, counted from 1 (0: none was finished).
        history: one entry an epoch.
        seconds: time spent, earlier parts of a resumed training included.
        interrupted: whether Ctrl-C ended it early.
    """

    model: nn.Module
    best_validation_accuracy: float
    best_epoch: int
    history: list[Epoch]
    seconds: float
    interrupted: bool = False


@dataclass
class Best:
    """The best weights so far: highest validation accuracy, then lowest validation loss."""

    accuracy: float = -1.0
    loss: float = math.inf
    epoch: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)

    def improve(self, record: Epoch, model: nn.Module) -> None:
        """Take the model's weights if the epoch was better than all before."""
        if (record.validation_accuracy, -record.validation_loss) > (self.accuracy, -self.loss):
            self.accuracy, self.loss, self.epoch = record.validation_accuracy, record.validation_loss, record.epoch
            self.state = copied(model.state_dict())


def copied(value: Any) -> Any:
    """Deep copy of nested dicts and lists of tensors, off the graph."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(item) for item in value)
    return value
