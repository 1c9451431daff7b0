"""Cost of the domain ``histories`` in forward passes, and how it grows with K, samples, time steps, units and ε.

    python benchmarks/histories.py --model MODEL --data vowels --out FILE.json

A forward pass is the network's own, same batch, float64, one thread; processor time, least of three rounds in turns.
Growth with time steps and units is of untrained LSNNs on noise, at an ε at which half of the neurons fork.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.verify import request
from thetabox.verify.engine import Engine
from thetabox.verify.histories import Histories


def seconds(function: Callable[[], Any]) -> float:
    """Processor time of one call."""
    started = time.process_time()
    function()
    return time.process_time() - started


def cost(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, options: dict[str, int]) -> dict[str, float]:
    """Passes that one ε takes, and the share that is verified."""
    settings = request.settings("interval", None, "real", "float64", "cpu")
    domain = Histories(Engine(model, settings, x), options)
    rows = torch.full((1, len(x)), epsilon, dtype=torch.float64)
    double = model.double().eval()
    found: dict[str, Tensor] = {}

    def forward() -> None:
        with torch.no_grad():
            double(x.double())

    def prove() -> None:
        found["margin"] = domain.margins(slice(0, len(x)), rows, y)

    rounds = [(seconds(forward), seconds(prove)) for _ in range(3)]
    forward_s, prove_s = (min(column) for column in zip(*rounds, strict=True))
    verified = (found["margin"] > 0).double().mean().item()
    return {"passes": prove_s / forward_s, "forward_ms": 1e3 * forward_s, "verified": verified}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", required=True, help="task")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    test = tb.data.load(args.data, "test", args.data_dir).subset(args.samples)
    x, y = torch.as_tensor(test.x), torch.as_tensor(test.y)
    facts: dict[str, Any] = {
        "machine": f"CPU, {platform.machine()}, torch {torch.__version__}, {datetime.now(UTC).date()}"
    }

    def note(group: str, key: str, value: dict[str, float]) -> None:
        facts.setdefault(group, {})[key] = value
        print(f"{group} {key}: {value['passes']:.1f} passes, verified {value['verified']:.2f}", flush=True)

    for k in (1, 2, 4, 8, 16):
        for epsilon in (1e-4, 1e-3, 1e-2):
            note("K", f"{k} at {epsilon:g}", cost(tb.load(args.model), x, y, epsilon, {"histories": k}))
    for n in (10, 30, 100):
        note("samples", str(n), cost(tb.load(args.model), x[:n], y[:n], 1e-3, {"histories": 4}))
    for units in (64, 128, 256):
        for steps in (30, 60, 120):
            torch.manual_seed(0)
            model = tb.models.LSNN(12, units, 9)
            noise = torch.randn(50, steps, 12)
            label = model(noise).argmax(1)
            note("growth", f"{units} units, {steps} steps", cost(model, noise, label, 1e-3, {"histories": 4}))
    facts["peak_MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the process {facts['peak_MiB']:.0f} MiB")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
