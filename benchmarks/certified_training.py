"""Networks trained for the proof: the small CNN on digits by the interval worst case (``ibp``), whole test split.

    python benchmarks/certified_training.py

Verified accuracy by plain intervals; one thread.
"""

from __future__ import annotations

import torch

import thetabox as tb
from thetabox.train import fit, recipe

EPSILON = [1e-3, 1e-2, 2e-2, 5e-2, 0.1]
# Box at the end and where its ramp begins.
RAMPS = [(0.01, 1e-4), (0.05, 1e-3), (0.1, 1e-3)]


def main() -> None:
    torch.set_num_threads(1)
    train, validation, test = (tb.data.load("digits", split) for split in ("train", "validation", "test"))
    chosen = recipe("digits")
    print("| box at the end | clean | " + " | ".join(f"{e:g}" for e in EPSILON) + " |")
    for epsilon, start in RAMPS:
        options = chosen.options("ibp", {"epsilon": epsilon, "start": start})
        model = chosen.model(0)
        fit(model, train, validation, "ibp", seed=0, threads=1, progress=False, **options)
        cert = tb.certify(model, test.x, test.y, EPSILON, domain="interval")
        values = " | ".join(f"{v:.3f}" for v in cert.verified_accuracy.tolist())
        print(f"| {epsilon:g} | {cert.clean_accuracy:.3f} | {values} |", flush=True)


if __name__ == "__main__":
    main()
