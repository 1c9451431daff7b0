"""Proven yield: which samples at least 99 % of all chips classify right, by proof, beside draws; and what it costs.

    python benchmarks/proven_yield.py digits --out results/ [--samples N] [--networks NAMES] [--models FOLDER]
    python benchmarks/proven_yield.py fashion --models FOLDER --data-dir DATA --out results/ [--samples 200]
        [--sigmas 0.02,0.05,0.1] [--minutes M] [--resume FOLDER]
    python benchmarks/proven_yield.py spiking --models FOLDER --data-dir DATA --out results/ [--proofs 32]
    python benchmarks/proven_yield.py cost

``digits`` trains its networks (a minute or so each) or reads them from ``--models``; ``fashion`` is the paper's CNN, of
files of ``thetabox train --task fashion-mnist`` (``--epochs 6 --seed 0`` on the page), and keeps what it has finished
in the folder of ``--resume``.
One thread, processor time. Draws: 1,000 chips a σ, the same for all networks.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from scipy.stats import norm
from torch import Tensor, nn

import thetabox as tb
from thetabox.measure.mismatch import PAPER_LEVELS
from thetabox.train import fit

DELTA = 0.01
DRAWS = 1000
Make = Callable[[], nn.Module]


def mlp(*sizes: int) -> nn.Module:
    """Dense layers with ReLU between."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn(*, average: bool = False) -> nn.Module:
    """Two convolutions and three dense layers; with average pools, they stand in front of the ReLU."""

    def part(before: int, after: int) -> list[nn.Module]:
        conv = nn.Conv2d(before, after, 4, padding=2)
        return [conv, nn.AvgPool2d(2), nn.ReLU()] if average else [conv, nn.ReLU(), nn.MaxPool2d(2)]

    head = [nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)]
    return nn.Sequential(*part(1, 16), *part(16, 32), *head)


DIGITS: dict[str, tuple[Make, str, tuple[float, ...]]] = {
    "deep-standard": (lambda: mlp(64, 128, 64, 32, 10), "standard", (0.02, 0.05, 0.1, 0.15)),
    "deep-noise": (lambda: mlp(64, 128, 64, 32, 10), "forward-noise", (0.05, 0.1, 0.15, 0.2)),
    "cnn-standard": (cnn, "standard", (0.02, 0.05, 0.1)),
    "cnn-noise": (cnn, "forward-noise", (0.02, 0.05, 0.1, 0.15)),
    "cnn-noise-100": (cnn, "forward-noise", (0.05, 0.1)),
}
EPOCHS = {"cnn-noise-100": 100}


def trained(name: str, make: Make, method: str, models: Path | None) -> nn.Module:
    """A network of the table, from its file or trained now."""
    torch.manual_seed(0)
    model = make()
    path = None if models is None else models / f"{name}.pt"
    if path is not None and path.is_file():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    train, held = tb.data.load("digits", "train"), tb.data.load("digits", "validation")
    level = {"forward-noise.noise": 0.3} if method == "forward-noise" else {}
    fit(
        model,
        train,
        held,
        method,
        epochs=EPOCHS.get(name, 40),
        lr=2e-3,
        weight_decay=1e-4,
        set=level,
        threads=1,
        progress=False,
    )
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    return model.eval()


def measured(name: str, model: nn.Module, x: Tensor, y: Tensor, sigmas: tuple[float, ...], **how: Any) -> list[dict]:
    """Rows of the table: what is proven, and what draws show."""
    started = time.process_time()
    proof = tb.certify_yield(model, x, y, list(sigmas), DELTA, **how)
    seconds = (time.process_time() - started) / (len(y) * len(sigmas))
    drawn = tb.sampled_yield(model, x, y, list(sigmas), draws=DRAWS)
    often = (drawn.correct / DRAWS >= 1.0 - DELTA).double().mean(1)
    rows = []
    for s, sigma in enumerate(sigmas):
        by = [b for b, p in zip(proof.proven_by[s], proof.proven[s].tolist(), strict=True) if p]
        rows.append(
            {
                "network": name,
                "clean": proof.clean_accuracy,
                "sigma": sigma,
                "proven_share": float(proof.proven_share[s]),
                "draws_share": float(often[s]),
                "mean_accuracy": float(proof.mean_accuracy[s]),
                "draws_mean": float(drawn.accuracies[s].mean()),
                "chips_99": float(proof.chips(0.99)[s]),
                "draws_99": float(drawn.accuracies[s].quantile(0.01)),
                "by": {b: by.count(b) for b in sorted(set(by))},
                "contradicted": int((proof.proven[s] & (drawn.correct[s] / DRAWS < 1.0 - 2.0 * DELTA)).sum()),
                "seconds_a_sample": seconds,
            }
        )
        print(line(rows[-1]), flush=True)
    return rows


HEAD = (
    "| network (clean) | σ | proven share | draws: share | proven mean | draws: mean | 99 % of chips, proven | "
    "draws: 1 % quantile | by | s a sample |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    numbers = (row[k] for k in ("proven_share", "draws_share", "mean_accuracy", "draws_mean", "chips_99", "draws_99"))
    by = ", ".join(f"{name} {count}" for name, count in row["by"].items()) or "–"
    cells = " | ".join(f"{n:.3f}" for n in numbers)
    return (
        f"| {row['network']} ({row['clean']:.3f}) | {row['sigma']:g} | {cells} | {by} | {row['seconds_a_sample']:.2f} |"
    )


def digits(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The digits table."""
    test = tb.data.load("digits", "test")
    x, y = torch.as_tensor(test.x).float()[: args.samples], torch.as_tensor(test.y)[: args.samples]
    rows: list[dict[str, Any]] = []
    for name, (make, method, sigmas) in DIGITS.items():
        if args.networks is None or name in args.networks.split(","):
            rows += measured(name, trained(name, make, method, args.models), x, y, sigmas)
    for path in sorted(args.models.glob("*.safetensors")) if args.models else []:
        if args.networks is None or path.stem in args.networks.split(","):
            rows += measured(path.stem, tb.load(path), x, y, (0.05, 0.1, 0.15, 0.2, 0.3))
    return rows


def fashion(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The paper's CNN on Fashion-MNIST: checkpoints of ``--models``."""
    test = tb.data.load("fashion-mnist", "test", data_dir=args.data_dir).subset(args.samples)
    rows: list[dict[str, Any]] = []
    for path in sorted(args.models.glob("*.safetensors")):
        if args.networks is None or path.stem in args.networks.split(","):
            limit = None if args.minutes is None else 60.0 * args.minutes
            kept = None if args.resume is None else args.resume / path.stem
            sigmas = tuple(float(sigma) for sigma in args.sigmas.split(","))
            rows += measured(path.stem, tb.load(path), test.x, test.y, sigmas, timeout=limit, resume=kept)
    return rows


def spiking(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Networks with spikes, files ``TASK-METHOD.safetensors`` of ``--models``: sampled yield at the paper's levels, and
    medians of the largest σ proven, without and with a box that holds all of the weights' errors with 1 - δ.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted(args.models.glob("*.safetensors")):
        if args.networks is not None and path.stem not in args.networks.split(","):
            continue
        task, _, method = path.stem.partition("-")
        test = tb.data.load(task, "test", data_dir=args.data_dir)
        many = test.subset(args.samples or 200)
        model = tb.load(path)
        drawn = tb.sampled_yield(model, many.x, many.y, PAPER_LEVELS[1:])
        row: dict[str, Any] = {"task": task, "method": method, "clean": drawn.clean_accuracy, "samples": len(many.y)}
        row |= {"mean": drawn.mean.tolist(), "chips_99": drawn.accuracy.tolist(), "proofs": args.proofs}
        if args.proofs:
            few = test.subset(args.proofs)
            row["sigma"] = float(tb.proven_sigma(model, few.x, few.y, DELTA).median())
            row["box"] = float(tb.certified_radius(model, few.x, few.y).median()) / widest(model)
        rows.append(row)
        cells = [f"{mean:.3f} / {least:.3f}" for mean, least in zip(row["mean"], row["chips_99"], strict=True)]
        cells += [f"{row[key]:.1e}" if key in row else "–" for key in ("sigma", "box")]
        print(f"| {task} | {method} | {row['clean']:.3f} | {' | '.join(cells)} |", flush=True)
    return rows


def widest(model: nn.Module) -> float:
    """Deviations k within which all n weights' errors lie with probability 1 - δ: (2Φ(k) - 1)^n."""
    held = dict(model.named_parameters()) | dict(model.named_buffers())
    count = sum(held[name].numel() for name in tb.Box().factors(model))
    return float(norm.isf(-math.expm1(math.log1p(-DELTA) / count) / 2.0))


def cost(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Forward passes of the same samples that a call of ``tb.certify_yield`` takes, by depth, width, samples and σ."""
    rows = []
    table = ((1, 64, 32), (2, 64, 32), (4, 64, 32), (8, 64, 32), (2, 128, 32), (2, 256, 32), (2, 64, 128))
    cases = [(*case, 0.05) for case in table]
    for depth, width, count, sigma in [*cases, (2, 64, 32, 0.02), (2, 64, 32, 0.2)]:
        torch.manual_seed(0)
        model = mlp(64, *[width] * depth, 10).eval()
        x = torch.rand(count, 64)
        y = model(x).argmax(1)
        started = time.process_time()
        tb.certify_yield(model, x, y, sigma, DELTA)
        spent = time.process_time() - started
        started = time.process_time()
        for _ in range(200):
            with torch.no_grad():
                model.double()(x.double())
        passes = spent / ((time.process_time() - started) / 200)
        model.float()
        rows.append({"depth": depth, "width": width, "samples": count, "sigma": sigma, "passes": passes})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("digits", "fashion", "spiking", "cost"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--samples", type=int, default=None)
    parser.add_argument("--networks")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--data-dir")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--sigmas", default="0.02,0.05,0.1")
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--proofs", type=int, default=0, help="samples of spiking networks whose largest σ is searched")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what in ("digits", "fashion"):
        print(HEAD)
    rows = {"digits": digits, "fashion": fashion, "spiking": spiking, "cost": cost}[args.what](args)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        facts = {
            "machine": platform.platform(),
            "torch": torch.__version__,
            "draws": DRAWS,
            "delta": DELTA,
            "rows": rows,
        }
        (args.out / f"yield-{args.what}.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
