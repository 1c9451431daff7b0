"""The stages of a comparison: one network is trained, measured and certified, each stage kept when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from thetabox import data
from thetabox.compare.cells import Cell, recipe_of
from thetabox.measure import attack, landscape, mismatch, pcm, shared_attack
from thetabox.models import load
from thetabox.processes import Tell
from thetabox.train import fit
from thetabox.train.methods import method
from thetabox.train.settings import TrainingSettings
from thetabox.verify import certify, certify_yield


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
    result = _attacked(attack, cell, test, progress, steps=c.attack_steps, restarts=c.attack_restarts)
    return {"epsilon": cell.curve, "accuracy": result.accuracy.tolist(), "correct": _rows(result.correct)}


def _shared(cell: Cell, progress: Callable[[int, int], None]) -> dict[str, Any]:
    c, test = cell.config, _test(cell, cell.config.samples)
    result = _attacked(shared_attack, cell, test, progress, steps=c.shared_steps, restarts=c.shared_runs)
    return {"epsilon": cell.curve, "accuracy": result.accuracy.tolist(), "samples": len(test)}


def _attacked(
    search: Callable[..., Any], cell: Cell, test: data.Dataset, progress: Callable[[int, int], None], **effort: int
) -> Any:
    """What one of the two attacks finds."""
    where = {"seed": cell.seed, "device": cell.device, "progress": progress}
    return search(_network(cell), test.x, test.y, cell.curve, **effort, **where)


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


def _yield(cell: Cell, progress: Callable[[int, int], None]) -> dict[str, Any]:
    c, test = cell.config, _test(cell, cell.config.proof_samples)
    certificate = certify_yield(
        _network(cell), test.x, test.y, list(c.yield_sigma), c.yield_delta, device=cell.device, progress=progress
    )
    return {
        "sigma": list(c.yield_sigma),
        "delta": c.yield_delta,
        "samples": len(test),
        "clean_accuracy": certificate.clean_accuracy,
        "proven_share": certificate.proven_share.tolist(),
        "mean_accuracy": certificate.mean_accuracy.tolist(),
        "proven": _rows(certificate.proven),
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
    "yield": _yield,
    "landscape": _landscape,
    "landscape_train": _landscape_train,
    "pcm": _pcm,
}
