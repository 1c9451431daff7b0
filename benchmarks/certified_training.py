"""Networks trained for the proof: the small CNN on digits, all 360 test images, one thread.

    python benchmarks/certified_training.py train --out results/certified [--rows NAMES] [--seeds 0,1,2,3,4]
    python benchmarks/certified_training.py table --out results/certified

``train`` trains each row with each seed, proves it (``interval`` and ``auto``), draws random mismatch, and adds a line
to ``rows.jsonl``; what stands there already is not done again. ``table`` prints means and Student's 95 % intervals over
the seeds. Seconds are processor time of the training, gradients the passes forward and back over a batch.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

import thetabox as tb
from thetabox.measure import mismatch
from thetabox.train import fit, method, recipe

EPSILON = [1e-3, 1e-2, 2e-2, 5e-2, 0.1]
DOMAINS = ("interval", "auto")
LEVEL, DRAWS = 0.3, 100
LONG = {"epochs": 150, "schedule": "late-cosine"}
WARPED = {**LONG, "warp": 0.6}
FASHION = {"epochs": 15, "lr": 3e-3, "schedule": "late-cosine"}
LINEAR = {"start": 1e-3, "kappa": 0.9, "ramp": 0.5, "growth": "linear"}


@dataclass(frozen=True)
class Row:
    """A way to train: a method, its hyper-parameters, what else ``fit`` is told beside the recipe, and the task."""

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    task: str = "digits"
    domains: Sequence[str] = DOMAINS


ROWS = {
    "standard": Row("standard"),
    "standard, long, warped": Row("standard", fit=WARPED),
    "weight-attack": Row("weight-attack"),
    "weight-attack, long, warped": Row("weight-attack", fit=WARPED),
    **{
        f"ibp {e:g}, geometric": Row("ibp", {"epsilon": e, "start": s})
        for e, s in ((0.01, 1e-4), (0.05, 1e-3), (0.1, 1e-3))
    },
    "ibp 0.05, linear, long": Row("ibp", {"epsilon": 0.05, **LINEAR}, LONG),
    "ibp 0.05, linear, long, warped": Row("ibp", {"epsilon": 0.05, **LINEAR}, WARPED),
    "small-boxes 0.05, share 0.7": Row("small-boxes"),
    "forward-noise+ibp 0.05": Row("forward-noise+ibp", {"noise": 0.3, "epsilon": 0.05, **LINEAR}, WARPED),
    **{
        f"forward-noise+small-boxes {e:g}": Row("forward-noise+small-boxes", {"noise": 0.3, "epsilon": e}, WARPED)
        for e in (0.02, 0.05, 0.1, 0.2)
    },
    # Hours of branch and bound for 10,000 images: intervals alone.
    "Fashion-MNIST, ibp 0.05": Row("ibp", task="fashion-mnist", domains=("interval",)),
    "Fashion-MNIST, forward-noise+ibp 0.05": Row(
        "forward-noise+ibp", {"noise": 0.3}, FASHION, task="fashion-mnist", domains=("interval",)
    ),
    "Fashion-MNIST, forward-noise+ibp 0.05, noise 0.1": Row(
        "forward-noise+ibp", {"noise": 0.1}, FASHION, task="fashion-mnist", domains=("interval",)
    ),
}


def measured(row: Row, seed: int) -> dict[str, Any]:
    """One network: how it is trained, at what cost, and what is proven of it."""
    train, validation, test = (tb.data.load(row.task, split) for split in ("train", "validation", "test"))
    chosen = recipe(row.task)
    options = {**chosen.options(row.method, row.settings), **row.fit}
    model = chosen.model(seed)
    started = time.process_time()
    result = fit(model, train, validation, row.method, seed=seed, threads=1, progress=False, **options)
    seconds = time.process_time() - started
    batches = -(-len(train.y) // options["batch_size"])
    passes = options["epochs"] * batches * method(row.method, options["set"]).gradients_per_step
    measurements: dict[str, Any] = {
        "seed": seed,
        "best_epoch": result.best_epoch,
        "seconds": seconds,
        "gradients": passes,
    }
    for domain in row.domains:
        started = time.process_time()
        proof = tb.certify(model, test.x, test.y, EPSILON, domain=domain, device="cpu")
        measurements |= {"clean": proof.clean_accuracy, domain: proof.verified_accuracy.tolist()}
        measurements[f"{domain}_seconds"] = time.process_time() - started
    measurements["mismatch"] = float(mismatch(model, test.x, test.y, LEVEL, DRAWS, device="cpu").mean[0])
    return measurements


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """What has been measured."""
    if file.is_file():
        yield from (json.loads(line) for line in file.read_text().splitlines())


def train_rows(file: Path, names: list[str], seeds: list[int]) -> None:
    """Every row with every seed that is not in the file yet."""
    done = {(line["row"], line["seed"]) for line in lines(file)}
    file.parent.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for name in names:
            if (name, seed) in done:
                continue
            line = {
                "row": name,
                **measured(ROWS[name], seed),
                "machine": platform.platform(),
                "torch": torch.__version__,
            }
            with file.open("a") as out:
                out.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


def mean(values: list[float], digits: int = 3) -> str:
    """Mean and half of Student's 95 % interval."""
    middle = f"{np.mean(values):.{digits}f}"
    if len(values) < 2:
        return middle
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{middle} ± {half:.{digits}f}"


def print_table(file: Path) -> None:
    """Every row that stands in the file, over its seeds."""
    networks = list(lines(file))
    heads = [f"{e:g}" for e in EPSILON]
    print(
        "| training | seeds | clean | proven by | "
        + " | ".join(heads)
        + f" | mismatch {LEVEL:g} | seconds | gradients |"
    )
    print("|" + " --- |" * (len(heads) + 7))
    for name in ROWS:
        own = [line for line in networks if line["row"] == name]
        if not own:
            continue
        for domain in ROWS[name].domains:
            first = domain == ROWS[name].domains[0]
            proven = [mean([line[domain][i] for line in own]) for i in range(len(EPSILON))]
            before = [name, str(len(own)), mean([line["clean"] for line in own])] if first else [""] * 3
            after = [""] * 3
            if first:
                costs = (np.mean([line[what] for line in own]) for what in ("seconds", "gradients"))
                after = [mean([line["mismatch"] for line in own]), *(f"{cost:.0f}" for cost in costs)]
            print("| " + " | ".join([*before, domain, *proven, *after]) + " |")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "table"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", default=";".join(ROWS), help="names, separated by semicolons")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = args.out / "rows.jsonl"
    if args.what == "table":
        print_table(file)
        return
    names = args.rows.split(";")
    if strange := [name for name in names if name not in ROWS]:
        parser.error(f"no row {strange[0]!r}; there are {'; '.join(ROWS)}")
    train_rows(file, names, [int(seed) for seed in args.seeds.split(",")])


if __name__ == "__main__":
    main()
