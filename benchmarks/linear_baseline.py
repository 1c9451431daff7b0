"""What a linear classifier scores on the features of the real-data tasks; beside docs/results.md.

    python benchmarks/linear_baseline.py --data-dir DATA --out results/

Logistic regression on the standardised features of the whole training split. Its penalty, and whether classes weigh
alike, are chosen by the same score on the validation split as the networks' recipes (``choose_recipe.py``); the test
split is then read once. Writes ``linear.json``.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
from choose_recipe import score
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import thetabox as tb

TASKS = ("ecg", "speech", "fashion-mnist")
PENALTY = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse strength C
ITERATIONS = 500
TRAINING = 20_000  # samples at most, balanced
SAMPLES = 500


def counts(right: np.ndarray, labels: np.ndarray, classes: int) -> list[list[int]]:
    """Right answers and samples of every class."""
    return [np.bincount(labels[right], minlength=classes).tolist(), np.bincount(labels, minlength=classes).tolist()]


def fitted(task: str, data_dir: Path | None) -> dict[str, object]:
    """Fit on training data, choose on validation data, score on test data."""
    train, validation = (tb.data.load(task, split=split, data_dir=data_dir) for split in ("train", "validation"))
    classes = len(train.classes)
    train = train.subset(TRAINING)
    x, y = train.x.flatten(1).numpy(), train.y.numpy()
    held_x, held_y = validation.x.flatten(1).numpy(), validation.y.numpy()
    best: tuple[float, object, dict[str, object]] | None = None
    uneven = np.bincount(y).min() < 0.5 * np.bincount(y).max()
    for weight in (None, "balanced") if uneven else (None,):
        for penalty in PENALTY:
            model = make_pipeline(
                StandardScaler(), LogisticRegression(C=penalty, max_iter=ITERATIONS, class_weight=weight)
            ).fit(x, y)
            recall = score([counts(model.predict(held_x) == held_y, held_y, classes)])
            accuracy = float(model.score(held_x, held_y))
            print(
                f"{task}: C {penalty:g}, weights {weight}: validation {recall:.3f} (accuracy {accuracy:.3f})",
                flush=True,
            )
            if best is None or recall > best[0]:
                best = (recall, model, {"C": penalty, "weights": weight, "validation": recall, "accuracy": accuracy})
    assert best is not None
    test = tb.data.load(task, split="test", data_dir=data_dir)
    fixed = test.subset(SAMPLES)
    model = best[1]
    answer = best[2] | {
        f"test_{name}": float(model.score(part.x.flatten(1).numpy(), part.y.numpy()))
        for name, part in (("fixed", fixed), ("whole", test))
    }
    for name, part in (("fixed", fixed), ("whole", test)):
        answer[f"majority_{name}"] = float(part.y.bincount().max() / len(part))
    return answer


def main() -> None:
    """All tasks, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # the best on validation data is taken, converged or not
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "linear.json"
    baselines = json.loads(path.read_text()) if path.exists() else {}
    for task in [args.task] if args.task else TASKS:
        baselines[task] = fitted(task, args.data_dir)
        print(task, json.dumps(baselines[task]), flush=True)
        path.write_text(json.dumps(baselines, indent=1))


if __name__ == "__main__":
    main()
