"""One network of a comparison: trained, measured and certified, each stage kept on disk when it is done."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thetabox import data
from thetabox.compare.config import Config, Variant
from thetabox.errors import InputError
from thetabox.measure import attack, landscape, mismatch, pcm, shared_attack
from thetabox.models import load, sha256
from thetabox.processes import Tell
from thetabox.report.folder import write_file
from thetabox.report.write import json_text
from thetabox.train import fit, recipe
from thetabox.train.methods import method
from thetabox.train.settings import TrainingSettings
from thetabox.verify import certify
from thetabox.version import __version__

STAGES = ("train", "mismatch", "attack", "shared", "certify", "landscape", "landscape_train", "pcm")
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
            content: dict[str, Any] = json.loads((self.folder / f"{stage}.json").read_text(encoding="utf-8"))
            known = content["key"] == self._key(stage)
        except (OSError, ValueError, KeyError, InputError):
            return None
        return content if known else None

    def missing(self) -> list[str]:
        """Stages that are not finished."""
        return [stage for stage in self.stages if self.read(stage) is None]

    def _key(self, stage: str) -> str:
        """What must be the same for a finished stage to stand."""
        c = self.config
        settings: dict[str, Any] = {
            "train": [self.variant.method, self.training, self.seed, c.task, c.train_samples],
            "mismatch": [c.level, c.draws, c.samples],
            "attack": [self.curve, c.attack_steps, c.attack_restarts, c.proof_samples],
            "shared": [self.curve, c.shared_steps, c.shared_runs, c.samples],
            "certify": [c.epsilon, c.proof_samples, c.domain, dict(c.options)],
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


def recipe_of(cell: Cell) -> Any:
    """The task's recipe, or one that fits the data of one's own."""
    validation = data.load(cell.config.task, "validation", cell.data_dir)
    return recipe(cell.config.task, validation.x.shape[1:], len(validation.classes))


def run_cell(cell: Cell, tell: Tell) -> None:
    """Do what is missing of a cell."""
    for stage in cell.stages:
        if cell.read(stage) is None:
            started = time.perf_counter()
            result = RUN[stage](cell, tell(stage))
            cell.write(stage, result, result.pop("seconds", time.perf_counter() - started))
    tell("done")(1, 1)


def _train(cell: Cell, progress: Callable[[int, int], None]) -> dict[str, Any]:
    cell.folder.mkdir(parents=True, exist_ok=True)
    train, validation = _trained_on(cell), data.load(cell.config.task, "validation", cell.data_dir)
    arguments = cell.training
    done = fit(
        recipe_of(cell).model(cell.seed),
        train,
        validation,
        cell.variant.method,
        seed=cell.seed,
        device=cell.device,
        threads=1,
        progress=False,
        on_epoch=lambda record: progress(record.epoch, arguments["epochs"]),
        out=cell.model,
        info={"task": cell.config.task},
        resume=True,
        **arguments,
    )
    if done.interrupted:
        raise KeyboardInterrupt
    settings = TrainingSettings(batch_size=arguments["batch_size"], repeat_rare=arguments.get("repeat_rare", 1))
    return {
        "seconds": done.seconds,
        "gradients_per_step": method(cell.variant.method, arguments["set"]).gradients_per_step,
        "batches": settings.batches(len(settings.places(train.y))),
        "best_epoch": done.best_epoch,
        "validation_accuracy": done.best_validation_accuracy,
        "epochs": len(done.history),
        "history": [[r.epoch, r.loss, r.validation_accuracy] for r in done.history],
    }


def _trained_on(cell: Cell) -> data.Dataset:
    whole = data.load(cell.config.task, "train", cell.data_dir)
    return whole.subset(cell.config.train_samples) if cell.config.train_samples else whole


def _network(cell: Cell) -> nn.Module:
    return load(cell.model)


def _test(cell: Cell, samples: int) -> data.Dataset:
    whole = data.load(cell.config.task, "test", cell.data_dir)
    return whole.subset(samples) if samples else whole


def _mismatch(cell: Cell, progress: Callable[[int, int], None]) -> dict[str, Any]:
    c, test = cell.config, _test(cell, cell.config.samples)
    result = mismatch(
        _network(cell), test.x, test.y, c.level, c.draws, seed=cell.seed, device=cell.device, progress=progress
    )
    return {"clean_accuracy": result.clean_accuracy, "accuracy": result.accuracy.tolist(), "samples": len(test)}


def _attack(cell: Cell, progress: Callable[[int, int], None]) -> dict[str, Any]:
    c, test = cell.config, _test(cell, cell.config.proof_samples)
    result = attack(
        _network(cell),
        test.x,
        test.y,
        cell.curve,
        steps=c.attack_steps,
        restarts=c.attack_restarts,
        seed=cell.seed,
        device=cell.device,
        progress=progress,
    )
    return {"epsilon": cell.curve, "accuracy": result.accuracy.tolist(), "correct": _rows(result.correct)}


def _shared(cell: Cell, progress: Callable[[int, int], None]) -> dict[str, Any]:
    c, test = cell.config, _test(cell, cell.config.samples)
    result = shared_attack(
        _network(cell),
        test.x,
        test.y,
        cell.curve,
        steps=c.shared_steps,
        restarts=c.shared_runs,
        seed=cell.seed,
        device=cell.device,
        progress=progress,
    )
    return {"epsilon": cell.curve, "accuracy": result.accuracy.tolist(), "samples": len(test)}


def _pcm(cell: Cell, progress: Callable[[int, int], None]) -> dict[str, Any]:
    c, test = cell.config, _test(cell, cell.config.samples)
    result = pcm(
        _network(cell), test.x, test.y, c.pcm_times, c.pcm_draws, seed=cell.seed, device=cell.device, progress=progress
    )
    return {"times": list(c.pcm_times), "accuracy": result.accuracy.tolist(), "samples": len(test)}


def _certify(cell: Cell, progress: Callable[[int, int], None]) -> dict[str, Any]:
    c, test = cell.config, _test(cell, cell.config.proof_samples)
    certificate = certify(
        _network(cell),
        test.x,
        test.y,
        list(c.epsilon),
        domain=c.domain,
        options=dict(c.options),
        device=cell.device,
        progress=progress,
    )
    return {
        "epsilon": list(c.epsilon),
        "clean_accuracy": certificate.clean_accuracy,
        "accuracy": certificate.verified_accuracy.tolist(),
        "verified": _rows(certificate.verified),
        "domain": certificate.domain,
        "sound": certificate.sound,
    }


def _rows(values: torch.Tensor) -> list[str]:
    """Truth values [E, N] as one string of 0 and 1 a row."""
    return ["".join("1" if v else "0" for v in row) for row in values.tolist()]


def _landscape(cell: Cell, progress: Callable[[int, int], None]) -> dict[str, Any]:
    return _landscape_of(cell, _test(cell, cell.config.samples), progress)


def _landscape_train(cell: Cell, progress: Callable[[int, int], None]) -> dict[str, Any]:
    return _landscape_of(cell, _trained_on(cell).subset(cell.config.landscape_train_samples), progress)


def _landscape_of(cell: Cell, samples: data.Dataset, progress: Callable[[int, int], None]) -> dict[str, Any]:
    return landscape(
        _network(cell),
        samples.x,
        samples.y,
        zeta=cell.config.landscape,
        directions=cell.config.directions,
        seed=cell.seed,
        device=cell.device,
        progress=progress,
    ).to_json()


RUN: dict[str, Callable[[Cell, Callable[[int, int], None]], dict[str, Any]]] = {
    "train": _train,
    "mismatch": _mismatch,
    "attack": _attack,
    "shared": _shared,
    "certify": _certify,
    "landscape": _landscape,
    "landscape_train": _landscape_train,
    "pcm": _pcm,
}
