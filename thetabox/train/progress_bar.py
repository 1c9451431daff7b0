"""The progress bar of a training."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from thetabox.train.history import Epoch


class TrainingBar:
    """Optimiser steps, loss and validation accuracy on the standard error stream; silent when not wanted."""

    def __init__(self, shown: bool) -> None:
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not shown)
        self._task = self._progress.add_task("training", total=None, state="")

    def __enter__(self) -> TrainingBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, completed: int, total: int) -> None:
        """How many optimiser steps there are, and how many lie behind."""
        self._progress.update(self._task, completed=completed, total=total)

    def advance(self) -> None:
        """One optimiser step more."""
        self._progress.advance(self._task)

    def show(self, record: Epoch, best: float) -> None:
        """Numbers of the epoch that has just ended."""
        state = f"loss {record.loss:.4f}  validation {record.validation_accuracy:.4f} (best {best:.4f})"
        self._progress.update(self._task, state=state)
