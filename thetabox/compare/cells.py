"""One network of a comparison: what it is, and what of it is finished, each stage in a file of its own."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from thetabox import data
from thetabox.compare.config import Config, Variant
from thetabox.errors import InputError
from thetabox.json_text import json_text, parse
from thetabox.models import sha256
from thetabox.report.folder import write_file
from thetabox.train import recipe
from thetabox.train.methods import method
from thetabox.train.recipes import Recipe
from thetabox.version import __version__

STAGES = ("train", "mismatch", "attack", "shared", "certify", "yield", "landscape", "landscape_train", "pcm")
SCHEMA = "thetabox.compare/1"


@dataclass(frozen=True)
class Cell:
    """One network: a row of the comparison with one seed.

    Attributes:
        config, variant, seed: what it is.
        folder: where it is kept: ``model.safetensors`` and one JSON file a stage.
        data_dir: of the task's files.
        device: where it is trained and measured.
    """

    config: Config
    variant: Variant
    seed: int
    folder: Path
    data_dir: Path | None = None
    device: str = "cpu"

    @property
    def name(self) -> str:
        """For progress and tables."""
        return f"{self.variant.label}, seed {self.seed}"

    @property
    def model(self) -> Path:
        """The checkpoint."""
        return self.folder / "model.safetensors"

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that the configuration asks for."""
        c = self.config
        wanted = {
            "shared": c.shared_runs,
            "yield": c.yield_sigma,
            "landscape": c.directions,
            "landscape_train": c.directions and c.landscape_train_samples,
            "pcm": c.pcm_draws,
        }
        return tuple(stage for stage in STAGES if wanted.get(stage, 1))

    @cached_property
    def training(self) -> dict[str, Any]:
        """Arguments of ``fit``: the task's recipe with the comparison's changes.

        All methods train for equally many passes over the data; those whose inner loops descend too, for so many
        times fewer epochs, unless the configuration gives them a number of their own.
        """
        name = self.variant.method
        arguments = recipe_of(self).options(name, dict(self.variant.set)) | dict(self.variant.fit)
        if "epochs" not in self.config.only.get(name, {}):
            arguments["epochs"] = math.ceil(arguments["epochs"] / method(name, arguments["set"]).inner_loops)
        return arguments

    def read(self, stage: str) -> dict[str, Any] | None:
        """What the stage found, if it is finished and was made with these very settings."""
        try:
            content: dict[str, Any] = parse((self.folder / f"{stage}.json").read_text(encoding="utf-8"))
            matches = content["key"] == self._key(stage)
        except (OSError, ValueError, KeyError, InputError):
            return None
        return content if matches else None

    def missing(self) -> list[str]:
        """Stages that are not finished."""
        return [stage for stage in self.stages if self.read(stage) is None]

    def _key(self, stage: str) -> str:
        """What must be the same for a finished stage to stand."""
        c = self.config
        network = [c.model, dict(c.model_set)] if c.model or c.model_set else []
        settings: dict[str, Any] = {
            "train": [self.variant.method, self.training, self.seed, c.task, c.train_samples, *network],
            "mismatch": [c.level, c.draws, c.samples],
            "attack": [self.curve, c.attack_steps, c.attack_restarts, c.proof_samples],
            "shared": [self.curve, c.shared_steps, c.shared_runs, c.samples],
            "certify": [c.epsilon, c.proof_samples, c.domain, dict(c.options)],
            "yield": [c.yield_sigma, c.yield_delta, c.proof_samples],
            "landscape": [c.landscape, c.directions, c.samples],
            "landscape_train": [c.landscape, c.directions, c.landscape_train_samples, c.train_samples],
            "pcm": [c.pcm_times, c.pcm_draws, c.samples],
        }
        made_from = None if stage == "train" else sha256(self.model)
        text = json.dumps([SCHEMA, __version__, torch.__version__, stage, settings[stage], made_from], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def curve(self) -> list[float]:
        """ε of the attacks: their own and those of the certificates."""
        return sorted({*self.config.attack, *self.config.epsilon})

    def write(self, stage: str, result: Any, seconds: float) -> None:
        """Keep a finished stage, all or nothing."""
        content = {"key": self._key(stage), "result": result, "seconds": round(seconds, 2)}
        write_file(self.folder / f"{stage}.json", json_text(content))


def recipe_of(cell: Cell) -> Recipe:
    """The task's recipe, or one that fits the data of one's own, with the network that the comparison names."""
    c, validation = cell.config, data.load(cell.config.task, "validation", cell.data_dir)
    return recipe(c.task, validation.x.shape[1:], len(validation.classes)).with_network(c.model or None, c.model_set)
