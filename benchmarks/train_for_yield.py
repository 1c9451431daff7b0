"""Training for proven yield on digits: networks, and what is proven of them on all test images.

    python benchmarks/train_for_yield.py warp digits-warped.npz [--copies 7]
    python benchmarks/train_for_yield.py table --out results/ [--rows NAMES] [--models FOLDER]

``warp`` writes the images of digits' training and validation splits, each of them ``--copies`` times more under a small
random warp; ``groups`` is the image that one comes from, so that no warp of a validation image is trained on. The 360
test images are not in it. ``table`` trains each row (or takes the checkpoint that stands in ``--models``) and proves,
on all test images and with outward rounding: dense networks by the command of ``thetabox train`` that it prints, the
convolutional one, whose average pools stand in front of the ReLU, by :func:`thetabox.train.fit`. One thread; seconds
are processor time.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from proven_yield import cnn
from torch import nn

import thetabox as tb
from thetabox.train import fit
from thetabox.train.warp import warped

DELTA = 0.01
SHALLOW, DEEP = "64,256,10", "64,128,64,32,10"
# Forward noise for the first half, then yield alone.
CNN_SETTINGS = {
    "forward-noise.noise": 0.3,
    "yield.after": True,
    "yield.bound": "rows",
    "yield.sigma": 0.13,
    "yield.kappa": 0.5,
    "yield.warmup": 0.5,
    "yield.ramp": 0.1,
}


@dataclass(frozen=True)
class Run:
    """A row of the table: how a network is trained, and at which σ it is proven."""

    sizes: str
    copies: int
    options: str
    sigma: tuple[float, ...]

    def command(self, data: str, out: str) -> str:
        """What trains it."""
        return (
            f"thetabox train --data {data} --model mlp --model-set sizes=[{self.sizes}] {self.options} "
            f"--threads 1 --out {out}"
        )

    def train(self, folder: Path, out: Path) -> None:
        """Train it, with warped images in the folder."""
        data = "digits"
        if self.copies:
            data = str(folder / f"digits-warped-{self.copies}.npz")
            write_warped(Path(data), self.copies)
        subprocess.run([sys.executable, "-m", *shlex.split(self.command(data, str(out)))], check=True)

    def told(self, name: str) -> str:
        """How, in a line."""
        return self.command(f"digits-warped-{self.copies}.npz" if self.copies else "digits", f"{name}.safetensors")


@dataclass(frozen=True)
class Fit:
    """A row whose network the command line does not make: the convolutional one with average pools."""

    copies: int
    epochs: int
    lr: float
    method: str
    settings: dict[str, Any]
    sigma: tuple[float, ...]
    sizes: str = "CNN"

    def train(self, folder: Path, out: Path) -> None:
        """Train it on the training split and its warps."""
        split, held = tb.data.load("digits", "train"), tb.data.load("digits", "validation")
        generator = torch.Generator().manual_seed(0)
        x = torch.cat([split.x, *(warped(split.x, generator) for _ in range(self.copies))])
        torch.manual_seed(0)
        model, data = cnn(average=True), (x, split.y.repeat(self.copies + 1))
        rest: dict[str, Any] = {"weight_decay": 1e-4, "schedule": "cosine", "threads": 1, "progress": False}
        fit(model, data, held, self.method, epochs=self.epochs, lr=self.lr, set=self.settings, **rest)
        torch.save(model.state_dict(), out)

    def told(self, name: str) -> str:
        """How, in a line."""
        settings = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return (
            f"{name}: tb.train.fit, {self.method}, {settings}, {self.epochs} epochs, {self.copies} warps of each image"
        )


def options(sigma: float, kappa: float, warmup: float, rest: str) -> str:
    """The method's settings, and what else the command says."""
    settings = {"sigma": sigma, "kappa": kappa, "warmup": warmup, "ramp": 0.1}
    return " ".join(["--method yield", *(f"--set {name}={value}" for name, value in settings.items()), rest])


# Without warps an epoch is short: more of them.
RUNS: dict[str, Run | Fit] = {
    "shallow": Run(SHALLOW, 0, options(0.25, 0.8, 0.5, "--epochs 120 --lr 3e-3"), (0.1, 0.2, 0.3)),
    "shallow-warped": Run(SHALLOW, 7, options(0.25, 0.8, 0.5, "--epochs 30 --lr 3e-3"), (0.1, 0.2, 0.3)),
    "deep": Run(DEEP, 0, options(0.13, 0.5, 0.4, "--epochs 120 --batch-size 128 --lr 4e-3"), (0.1,)),
    "deep-warped": Run(DEEP, 15, options(0.13, 0.5, 0.4, "--epochs 40 --batch-size 128 --lr 4e-3"), (0.1, 0.2)),
    "cnn": Fit(7, 30, 3e-3, "forward-noise+yield", CNN_SETTINGS, (0.05, 0.1, 0.15)),
    "cnn-longer": Fit(15, 90, 4e-3, "forward-noise+yield", {**CNN_SETTINGS, "yield.sigma": 0.115}, (0.05, 0.1, 0.15)),
}


def write_warped(path: Path, copies: int) -> None:
    """The data file of digits' training and validation images and their warps."""
    parts = [tb.data.load("digits", split) for split in ("train", "validation")]
    x, y = torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])
    generator = torch.Generator().manual_seed(0)
    images = torch.cat([x, *(warped(x, generator) for _ in range(copies))])
    groups = np.tile([f"{image:04d}" for image in range(len(x))], copies + 1)
    np.savez_compressed(path, x=images.numpy(), y=y.repeat(copies + 1).numpy(), groups=groups)


def trained(name: str, run: Run | Fit, folder: Path) -> nn.Module:
    """Network of a row, trained now unless its checkpoint is there."""
    path = folder / f"{name}.{'pt' if isinstance(run, Fit) else 'safetensors'}"
    if not path.is_file():
        run.train(folder, path)
    if not isinstance(run, Fit):
        return tb.load(path)
    model = cnn(average=True)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def proven(name: str, run: Run | Fit, folder: Path) -> dict[str, object]:
    """What is proven of a row."""
    print(run.told(name), flush=True)
    model, test = trained(name, run, folder), tb.data.load("digits", "test")
    started = time.process_time()
    proof = tb.certify_yield(model, test.x, test.y, list(run.sigma), DELTA, device="cpu")
    row: dict[str, object] = {
        "network": name,
        "sizes": run.sizes,
        "clean": proof.clean_accuracy,
        "sigma": list(run.sigma),
        "proven_share": proof.proven_share.tolist(),
        "mean_accuracy": proof.mean_accuracy.tolist(),
        "chips_99": proof.chips(0.99).tolist(),
        "seconds_a_sample": (time.process_time() - started) / (len(test.y) * len(run.sigma)),
    }
    print(json.dumps(row), flush=True)
    return row


def table(out: Path, names: list[str], models: Path | None) -> None:
    """All rows, and the file that holds them."""
    folder = out if models is None else models
    for place in (out, folder):
        place.mkdir(parents=True, exist_ok=True)
    rows = [proven(name, RUNS[name], folder) for name in names]
    facts = {"machine": platform.platform(), "torch": torch.__version__, "delta": DELTA, "samples": 360, "rows": rows}
    (out / "train-for-yield.json").write_text(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    warp = commands.add_parser("warp")
    warp.add_argument("file", type=Path)
    warp.add_argument("--copies", type=int, default=7)
    rows = commands.add_parser("table")
    rows.add_argument("--out", type=Path, required=True)
    rows.add_argument("--rows", default=",".join(RUNS))
    rows.add_argument("--models", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "warp":
        write_warped(args.file, args.copies)
    else:
        names = args.rows.split(",")
        if strange := [name for name in names if name not in RUNS]:
            parser.error(f"no row {strange[0]!r}; there are {', '.join(RUNS)}")
        table(args.out, names, args.models)


if __name__ == "__main__":
    main()
