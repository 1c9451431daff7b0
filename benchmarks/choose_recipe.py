"""Choose the recipes of ``ecg``, ``ecg-beats`` and ``speech`` on validation data alone; no test split is ever loaded.

    python benchmarks/choose_recipe.py --task ecg --data-dir DATA --out results/

Trains every candidate below by the method ``standard`` and prints its score: the mean recall over the classes with at
least ``FEWEST`` validation samples, at the epoch that ``fit`` keeps. ``ecg`` is validated on the five patients of its
validation split, ``ecg-beats`` on the beats of its own; ``speech``, whose validation split has 174 clips, on three
folds of the speakers of its training and validation splits, each fold held out once and only its unaltered clips
counted. Answers go to ``TASK-recipes.jsonl``, one line a training; what is there is not trained again. The best mean
over seeds among the candidates of most seeds is the choice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import thetabox as tb
from thetabox.data import Dataset
from thetabox.data.speech import COPIES
from thetabox.train.recipes import recipe

FEWEST = 10
FOLDS = 3
BASE = {"schedule": "cosine", "clip_norm": 1.0, "batch_size": 64}
AUGMENTED = {"input_noise": 0.3, "time_shift": 2}
CANDIDATES: dict[str, dict[str, dict[str, Any]]] = {
    "ecg": {
        "plain": {"lr": 5e-3, "epochs": 12},
        "noise": {"lr": 5e-3, "epochs": 12, "input_noise": 0.3},
        "shift": {"lr": 5e-3, "epochs": 12, "time_shift": 2},
        "noise, shift": {"lr": 5e-3, "epochs": 12, **AUGMENTED},
        "rate": {"lr": 5e-3, "epochs": 12, "rate_penalty": 0.01},
        "slow": {"lr": 2e-3, "epochs": 12},
        "fast": {"lr": 1e-2, "epochs": 12},
        "longer": {"lr": 5e-3, "epochs": 25},
        "repeat twice": {"lr": 5e-3, "epochs": 12, "repeat_rare": 2},
        "repeat": {"lr": 5e-3, "epochs": 8, "repeat_rare": 5},
        "repeat, rate": {"lr": 5e-3, "epochs": 8, "repeat_rare": 5, "rate_penalty": 0.01},
        "repeat, noise": {"lr": 5e-3, "epochs": 8, "repeat_rare": 5, "input_noise": 0.3},
        "repeat, shift": {"lr": 5e-3, "epochs": 8, "repeat_rare": 5, "time_shift": 2},
        "repeat, noise, shift": {"lr": 5e-3, "epochs": 8, "repeat_rare": 5, **AUGMENTED},
        "repeat, slow": {"lr": 2e-3, "epochs": 8, "repeat_rare": 5},
        "repeat, fast": {"lr": 1e-2, "epochs": 8, "repeat_rare": 5},
        "repeat, noise, shift, rate": {"lr": 5e-3, "epochs": 8, "repeat_rare": 5, "rate_penalty": 0.01, **AUGMENTED},
    },
    "ecg-beats": {
        "batches of 100": {"lr": 1e-2, "epochs": 4, "batch_size": 100},
        "batches of 50": {"lr": 1e-2, "epochs": 4, "batch_size": 50},
    },
    "speech": {
        "plain": {"lr": 5e-3, "epochs": 12, "batch_size": 32},
        "rate": {"lr": 5e-3, "epochs": 12, "batch_size": 32, "rate_penalty": 0.03},
        "noise": {"lr": 5e-3, "epochs": 12, "batch_size": 32, "input_noise": 0.3},
        "shift": {"lr": 5e-3, "epochs": 12, "batch_size": 32, "time_shift": 4},
        "noise, shift": {"lr": 5e-3, "epochs": 12, "batch_size": 32, "input_noise": 0.3, "time_shift": 4},
        "noise, shift, rate": {
            "lr": 5e-3, "epochs": 12, "batch_size": 32, "input_noise": 0.3, "time_shift": 4, "rate_penalty": 0.03,
        },
        "more noise, shift": {"lr": 5e-3, "epochs": 12, "batch_size": 32, "input_noise": 0.6, "time_shift": 4},
        "noise, shift, slow": {"lr": 2e-3, "epochs": 12, "batch_size": 32, "input_noise": 0.3, "time_shift": 4},
    },
}  # a table, a recipe a line  # fmt: skip


def held_out(task: str, data_dir: Path | None) -> Iterator[tuple[Dataset, Dataset]]:
    """Pairs of training and validation data; no patient or speaker is in both."""
    train, validation = (tb.data.load(task, split=split, data_dir=data_dir) for split in ("train", "validation"))
    if task != "speech":
        yield train, validation
        return
    assert train.groups is not None
    assert validation.groups is not None
    x, y = torch.cat([train.x, validation.x]), torch.cat([train.y, validation.y])
    groups = [*train.groups, *validation.groups]
    # A training clip comes with its renderings, the unaltered one first.
    unaltered = np.r_[np.arange(len(train)) % COPIES == 0, np.ones(len(validation), bool)]
    whole = Dataset(task, "train", x, y, train.classes, groups)
    fold = np.asarray([int(hashlib.sha256(f"fold:{group}".encode()).hexdigest()[:8], 16) % FOLDS for group in groups])
    for number in range(FOLDS):
        yield whole.take(np.flatnonzero(fold != number)), whole.take(np.flatnonzero((fold == number) & unaltered))


def recalls(model: torch.nn.Module, data: Dataset) -> list[list[int]]:
    """Right answers and samples of every class."""
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in data.x.split(500)]) == data.y
    classes = len(data.classes)
    return [data.y[right].bincount(minlength=classes).tolist(), data.y.bincount(minlength=classes).tolist()]


def score(counts: list[list[list[int]]]) -> float:
    """Mean recall over classes with enough samples, all folds pooled."""
    right, total = np.asarray(counts).sum(0)
    return float((right / total.clip(1))[total >= FEWEST].mean())


def main() -> None:
    """Train what is not there yet, then print the ranking."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted(CANDIDATES), required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--finalists", type=int, default=5, help="candidates trained with further seeds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.task}-recipes.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    runs = {(line["candidate"], line["seed"]): line for line in lines}
    folds = list(held_out(args.task, args.data_dir))
    candidates = CANDIDATES[args.task]
    for seed in range(args.seeds):
        if seed == 1:  # the best few by the first seed meet again
            names = sorted(candidates, key=lambda name: runs[name, 0]["score"], reverse=True)
            candidates = {name: candidates[name] for name in names[: args.finalists]}
        for name, options in candidates.items():
            if (name, seed) in runs:
                continue
            started, counts, epochs = time.perf_counter(), [], []
            for train, validation in folds:
                model = recipe(args.task).model(seed)
                result = tb.train.fit(model, train, validation, seed=seed, threads=1, progress=False, **BASE | options)
                counts.append(recalls(model, validation))
                epochs.append(result.best_epoch)
            line = {"candidate": name, "seed": seed, "score": score(counts), "best_epochs": epochs, "counts": counts}
            runs[name, seed] = line | {"options": options, "seconds": time.perf_counter() - started}
            with path.open("a") as file:
                file.write(json.dumps(runs[name, seed]) + "\n")
            print(json.dumps(runs[name, seed]), flush=True)
    for name in CANDIDATES[args.task]:
        scores = [runs[name, seed]["score"] for seed in range(args.seeds) if (name, seed) in runs]
        print(f"{name:30} {np.mean(scores):.3f}  ({', '.join(f'{s:.3f}' for s in scores)})")


if __name__ == "__main__":
    main()
