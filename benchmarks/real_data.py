"""Train, measure and certify the three methods on real data: the table of docs/results.md.

    python benchmarks/real_data.py run --task ecg --method standard --out results/   # one cell; any order, any machine
    python benchmarks/real_data.py table --out results/                               # the table, as Markdown

``run`` leaves ``TASK-METHOD.safetensors`` and ``TASK-METHOD.json``; a checkpoint that is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

import thetabox as tb
from thetabox.train.recipes import recipe

TASKS = ("fashion-mnist", "ecg", "speech")
METHODS = ("standard", "forward-noise", "weight-attack")
EPSILON = [0.0, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2]
SAMPLES = 500
MISMATCH = 0.3
DRAWS = 100
# Epochs of this run, shortened for a CPU.
EPOCHS = {
    "fashion-mnist": {"standard": 4, "forward-noise": 4, "weight-attack": 1},
    "ecg": {"standard": 12, "forward-noise": 12, "weight-attack": 12},
    "speech": {"standard": 12, "forward-noise": 12, "weight-attack": 12},
}
# Steps of the attack in training; the paper takes 10.
ATTACK_STEPS = 3
# Trained from the standard network instead of from the start.
FROM_STANDARD = {("fashion-mnist", "weight-attack")}


def train(task: str, method: str, path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Train by the task's recipe and keep the best epoch by validation accuracy."""
    chosen = recipe(task)
    model = chosen.model(args.seed)
    if (task, method) in FROM_STANDARD:
        model = tb.load(args.out / f"{task}-standard.safetensors")
    hard = {"steps": ATTACK_STEPS} if method == "weight-attack" else {}
    options = {**chosen.options(method, hard), "epochs": EPOCHS[task][method]}
    data, validation = (tb.data.load(task, split=s, data_dir=args.data_dir) for s in ("train", "validation"))
    started = time.perf_counter()
    result = tb.train.fit(
        model,
        data,
        validation,
        method,
        seed=args.seed,
        device=args.train_device,
        threads=1,
        progress=args.progress,
        **options,
    )
    info = {"task": task, "method": method, "seed": args.seed, "epochs": options["epochs"]}
    tb.save(model.cpu(), path, info=info)
    return {
        "epochs": options["epochs"],
        "training_seconds": time.perf_counter() - started,
        "validation_accuracy": float(result.best_validation_accuracy),
    }


def measure(path: Path, task: str, args: argparse.Namespace) -> dict[str, Any]:
    """Clean, mismatched, attacked and verified accuracy of the fixed test samples."""
    model = tb.load(path)
    whole = tb.data.load(task, split="test", data_dir=args.data_dir)
    test = whole.subset(SAMPLES)
    measurements: dict[str, Any] = {"samples": len(test.y), "epsilon": EPSILON}
    with torch.no_grad():
        predicted = torch.cat([model(part).argmax(1) for part in whole.x.split(500)])
    measurements["clean_whole_test"] = float((predicted == whole.y).double().mean())
    measurements["majority"] = float(whole.y.bincount().max() / len(whole.y))
    certificate = tb.certify(model, test.x, test.y, EPSILON, device=args.device, baseline=True)
    measurements["clean"] = certificate.clean_accuracy
    measurements["verified"] = certificate.verified_accuracy.tolist()
    measurements["baseline"] = certificate.baseline.tolist()
    measurements["certify_seconds"] = certificate.seconds
    radii = tb.certified_radius(model, test.x, test.y, device=args.device)
    measurements["median_radius"] = float(radii.median())
    drawn = tb.mismatch(model, test.x, test.y, level=[MISMATCH], samples=DRAWS, device=args.device)
    measurements["mismatch_mean"], measurements["mismatch_std"] = float(drawn.mean[0]), float(drawn.std[0])
    started = time.perf_counter()
    attacked = tb.attack(
        model, test.x, test.y, epsilon=EPSILON, steps=args.steps, restarts=args.restarts, device=args.device
    )
    measurements["attacked"] = attacked.accuracy.tolist()
    measurements["attack_seconds"] = time.perf_counter() - started
    measurements["attack"] = {"steps": args.steps, "restarts": args.restarts}
    contradictions = (certificate.verified & ~attacked.correct).sum()
    assert contradictions == 0, f"{int(contradictions)} samples are both verified and flipped"
    return measurements


def run(args: argparse.Namespace) -> None:
    """One cell of the table."""
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    stem = f"{args.task}-{args.method}"
    checkpoint, answer = args.out / f"{stem}.safetensors", args.out / f"{stem}.json"
    cell: dict[str, Any] = json.loads(answer.read_text()) if answer.exists() else {}
    if not checkpoint.exists():
        cell = train(args.task, args.method, checkpoint, args)
        answer.write_text(json.dumps(cell, indent=1))
    if not args.only_train:
        cell |= measure(checkpoint, args.task, args)
        cell["machine"] = machine(args.device)
        answer.write_text(json.dumps(cell, indent=1))
    print(stem, json.dumps({k: v for k, v in cell.items() if k != "epsilon"}), flush=True)


def machine(device: str) -> str:
    """What ran this, and when."""
    gpu = torch.cuda.get_device_name() if device != "cpu" and torch.cuda.is_available() else "CPU"
    return f"{gpu}, {platform.machine()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"


def table(args: argparse.Namespace) -> None:
    """Print the table."""
    head = ["task", "method", "clean", f"mismatch {MISMATCH}", "", *(f"{e:g}" for e in EPSILON[1:])]
    print("| " + " | ".join(head) + " |\n" + "| --- " * len(head) + "|")
    for task in TASKS:
        for method in METHODS:
            path = args.out / f"{task}-{method}.json"
            r = json.loads(path.read_text()) if path.exists() else {}
            if "clean" not in r:
                continue
            first = [task, method, f"{r['clean']:.3f}", f"{r['mismatch_mean']:.3f} ± {r['mismatch_std']:.3f}"]
            for name, values in (
                ("attacked", r["attacked"]),
                ("verified", r["verified"]),
                ("paper's criterion", r["baseline"]),
            ):
                cells = [*(first if name == "attacked" else [""] * 4), name, *(f"{v:.3f}" for v in values[1:])]
                print("| " + " | ".join(cells) + " |")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--device", default="auto", help="for measuring")
    parser.add_argument("--train-device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--only-train", action="store_true")
    parser.add_argument("--progress", action="store_true")
    args = parser.parse_args()
    if args.action == "table":
        table(args)
    else:
        run(args)


if __name__ == "__main__":
    main()
