"""Accuracy on the natural ECG test split, where nine of ten beats are normal; beside docs/results.md.

    python benchmarks/natural_split.py --data-dir DATA --out results/

Networks and linear classifier were trained on fewer normal beats than there are. Their answers are moved to the class
frequencies of the *training* patients, by adding log(natural share / share in training) to the logits (Saerens,
Latinne, Decaestecker, Neural Computation 14(1), 2002); nothing of the test split is used. Writes ``natural.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import thetabox as tb
from thetabox.data.ecg import AAMI, RECORDS
from thetabox.data.mitbih import read_record, record_files
from thetabox.train.recipes import recipe
from thetabox.train.settings import TrainingSettings


def natural_counts(data_dir: Path | None, classes: int) -> torch.Tensor:
    """Beats of each class of the training patients, all of them."""
    counts = torch.zeros(classes, dtype=torch.float64)
    for paths in record_files("ecg", [str(number) for number in RECORDS["train"]], data_dir).values():
        for symbol in read_record(*paths).symbol:
            if symbol in AAMI:
                counts[AAMI[symbol]] += 1
    return counts


def main() -> None:
    """The three networks, the linear classifier chosen by ``linear_baseline.py``, and always the largest class."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (tb.data.load("ecg", split=split, data_dir=args.data_dir) for split in ("train", "test"))
    classes = len(train.classes)
    natural = natural_counts(args.data_dir, classes)
    seen = train.y[TrainingSettings(**recipe("ecg").fit).places(train.y)].bincount(minlength=classes).double()

    def corrected(logits: torch.Tensor, shares: torch.Tensor) -> list[float]:
        move = (natural / natural.sum()).log() - (shares / shares.sum()).log()
        return [float(((logits + part).argmax(1) == test.y).double().mean()) for part in (0.0 * move, move)]

    accuracies: dict[str, list[float]] = {"majority": [float(test.y.bincount().max() / len(test))] * 2}
    for path in sorted(args.out.glob("ecg-*.safetensors")):
        model = tb.load(path)
        with torch.no_grad():
            logits = torch.cat([model(part) for part in test.x.split(1000)]).double()
        accuracies[path.stem] = corrected(logits, seen)
    chosen = json.loads((args.out / "linear.json").read_text())["ecg"]
    linear = make_pipeline(
        StandardScaler(), LogisticRegression(C=chosen["C"], max_iter=500, class_weight=chosen["weights"])
    ).fit(train.x.flatten(1).numpy(), train.y.numpy())
    logits = torch.from_numpy(np.asarray(linear.decision_function(test.x.flatten(1).numpy())))
    even = torch.ones(classes, dtype=torch.float64)
    accuracies["linear"] = corrected(logits, even if chosen["weights"] else train.y.bincount().double())
    for name, (plain, moved) in accuracies.items():
        print(f"{name}: {plain:.4f} as trained, {moved:.4f} at the natural shares", flush=True)
    (args.out / "natural.json").write_text(json.dumps(accuracies, indent=1))


if __name__ == "__main__":
    main()
