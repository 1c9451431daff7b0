"""Recurrent layers of torch: what is proven of an LSTM and a GRU, and what the public call costs in forward passes.

    python benchmarks/lstm.py --data vowels --out results/lstm-vowels.json     # trains for half a minute each
    python benchmarks/lstm.py --data digits --out results/lstm-digits.json     # the rows of an image are the steps

Each network is trained by plain cross-entropy (``standard``), and again from there on the bounds of plain intervals at
an ε that grows (``bounds``). A forward pass is that of the same batch in float64, in the same run; one thread,
processor time. No sample may be both verified and flipped by the attack: the script ends with an error if one is.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thetabox as tb
from thetabox.verify.arguments import settings
from thetabox.verify.interval.forward import run_problem
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.network import network
from thetabox.verify.problem import Problem

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU}
EPSILON = [1e-5, 1e-4, 1e-3, 1e-2]


class Classifier(nn.Module):
    """The last output of a recurrent layer, and a dense layer."""

    def __init__(self, layer: str, inputs: int, units: int, classes: int) -> None:
        super().__init__()
        self.recurrent = LAYERS[layer](inputs, units, batch_first=True)
        self.head = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


def read(name: str, split: str, samples: int | None) -> tuple[Tensor, Tensor]:
    """Sequences ``[N, T, F]`` and labels."""
    data = tb.data.load(name, split)
    data = data if samples is None else data.subset(samples)
    x, y = torch.as_tensor(data.x).float(), torch.as_tensor(data.y).long()
    return x.flatten(1, 2) if x.dim() == 4 else x, y


def trained(model: Classifier, x: Tensor, y: Tensor, seconds: float, decay: float) -> None:
    optimiser = torch.optim.Adam(model.parameters(), 3e-3, weight_decay=decay)
    end = time.process_time() + seconds
    while time.process_time() < end:
        chosen = torch.randint(len(x), (64,))
        optimiser.zero_grad()
        F.cross_entropy(model(x[chosen]), y[chosen]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()


def trained_on_bounds(model: Classifier, x: Tensor, y: Tensor, seconds: float, largest: float) -> None:
    """Half of the loss is that of the worst logits inside the bounds, at an ε that grows geometrically."""
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    how = settings("interval", None, "real", "float64", "cpu")
    start, traced = time.process_time(), network(model, x)
    while (part := (time.process_time() - start) / seconds) < 1:
        chosen = torch.randint(len(x), (64,))
        epsilon = largest * 1e-3 ** max(0.0, 1 - 1.5 * part)
        problem = Problem(model, how, x[chosen], traced=traced)
        with sound_kernels():
            final = run_problem(problem, slice(None), torch.full((1, 64), epsilon, dtype=torch.float64))
            margins = final.class_margins(y[chosen])
        worst = (-margins).scatter(1, y[chosen][:, None], 0.0).float()
        optimiser.zero_grad()
        (F.cross_entropy(model(x[chosen]), y[chosen]) + F.cross_entropy(worst, y[chosen])).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()


def measured(model: Classifier, x: Tensor, y: Tensor, domain: str, effort: float) -> dict[str, Any]:
    model.double()
    with torch.no_grad():
        rounds = []
        for _ in range(4):
            started = time.process_time()
            model(x.double())
            rounds.append(time.process_time() - started)
    model.float()
    options = {"effort": effort} if domain == "auto" else {}
    started = time.process_time()
    certificate = tb.certify(model, x, y, EPSILON, domain=domain, options=options)
    spent = time.process_time() - started
    problem = Problem(model, settings("interval", None, "real", "float64", "cpu"), x)
    started = time.process_time()
    with torch.no_grad(), sound_kernels():
        run_problem(problem, slice(None), torch.full((1, len(x)), 1e-3, dtype=torch.float64)).margins(y)
    bounds = time.process_time() - started
    attacked = tb.attack(model, x, y, epsilon=EPSILON, steps=10, restarts=1)
    assert not (certificate.verified & ~attacked.correct).any(), "a sample is both verified and flipped"
    return {
        "domain": domain,
        "clean": certificate.clean_accuracy,
        "verified": certificate.verified_accuracy.tolist(),
        "attacked": attacked.accuracy.tolist(),
        "call_seconds": spent,
        "call_passes": spent / min(rounds),
        "bounds_passes": bounds / min(rounds),
        "proven_by": certificate.options.get("proven_by"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", choices=["digits", "vowels"])
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each training")
    parser.add_argument("--effort", type=float, default=1000.0)
    parser.add_argument("--layers", default="lstm,gru")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, test = read(args.data, "train", None), read(args.data, "test", args.samples)
    rows, facts = [], {"data": args.data, "units": args.units, "epsilon": EPSILON, "samples": len(test[0])}
    for layer in args.layers.split(","):
        torch.manual_seed(0)
        model = Classifier(layer, train[0].shape[2], args.units, int(train[1].max()) + 1)
        for training in ("standard", "bounds"):
            if training == "standard":
                trained(model.train(), *train, args.seconds, 1e-4)
            else:
                trained_on_bounds(model.train(), *train, args.seconds, 1e-3)
            for domain in ("interval", "auto"):
                row = {"layer": layer, "training": training, **measured(model.eval(), *test, domain, args.effort)}
                rows.append(row)
                shown = " | ".join(f"{v:.2f}" for v in row["verified"])
                print(f"| {layer}, {training}, {domain} | {row['clean']:.3f} | {shown} | {row['call_passes']:.0f} |")
        shown = " | ".join(f"{v:.2f}" for v in row["attacked"])
        print(f"| {layer}, {training}, attack | | {shown} | |", flush=True)
    facts["rows"] = rows
    facts["machine"] = f"CPU, {platform.machine()}, torch {torch.__version__}, {datetime.now(UTC).date()}"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
