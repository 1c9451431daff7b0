"""What a training writes while it goes on: the best weights, and where to go on after an interrupt."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thetabox.errors import InputError
from thetabox.models import save
from thetabox.train import resume_file
from thetabox.train.training import Training

SAVE_EVERY_SECONDS = 10.0


class Checkpointer:
    """Checkpoint and resume file of a training; does nothing without a path."""

    def __init__(self, training: Training, path: Path | None, facts: Mapping[str, Any], resume: bool) -> None:
        self.training, self.path, self.facts = training, path, facts
        self._written = time.perf_counter()
        self._state: dict[str, Any] | None = None
        if path is None:
            return
        if not path.parent.is_dir() or path.is_dir():
            raise InputError(f"cannot write {path}: " + ("it is a folder" if path.is_dir() else "no such folder"))
        data = resume_file.digest(training.x, training.y, *training.held_out)
        shapes = [[name, list(value.shape)] for name, value in training.model.state_dict().items()]
        self._identity = json.dumps([facts, str(training.device), data, shapes], sort_keys=True, default=str)
        self._side = resume_file.path_for(path)
        if resume and self._side.exists():
            training.restore(resume_file.read(self._side, self._identity))

    def epoch_done(self) -> None:
        """Remember where the epoch ended, and write it down every few seconds."""
        if self.path is None:
            return
        self._state = self.training.state()
        if time.perf_counter() - self._written > SAVE_EVERY_SECONDS:
            resume_file.write(self._side, self._identity, self._state)
            newest = self._state["model"]
            self.training.model.load_state_dict(self.training.best.state)
            self._save()
            self.training.model.load_state_dict(newest)
            self._written = time.perf_counter()

    def close(self, interrupted: bool) -> None:
        """The best weights, which the model holds now, into the checkpoint; the resume file goes unless interrupted."""
        if self.path is None:
            return
        if self.training.best.state:
            self._save()
        if not interrupted:
            self._side.unlink(missing_ok=True)
        elif self._state is not None:
            resume_file.write(self._side, self._identity, self._state)

    def _save(self) -> None:
        assert self.path is not None
        best = self.training.best
        facts = {**self.facts, "best_epoch": best.epoch, "best_validation_accuracy": best.accuracy}
        save(self.training.model, self.path, facts)
