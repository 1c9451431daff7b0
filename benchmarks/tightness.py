"""How much of what an attack leaves standing is proven, by domain and ε, and what that costs in forward passes.

    python benchmarks/tightness.py --model MODEL --data TASK --epsilon 0,1e-4,1e-3 --effort 1000 --out FILE.json

Plain intervals, ``auto`` with an effort, and the attack of ``tb.attack`` on the same samples. No sample may be both
verified and flipped: the script ends with an error if one is. One thread, processor time.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

import thetabox as tb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", required=True, help="task")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epsilon", default="0,1e-4,5e-4,1e-3,2e-3,5e-3,1e-2")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--effort", type=float, default=1000.0, help="forward passes for each sample and ε")
    parser.add_argument("--steps", type=int, default=20, help="of the attack, 0 for none")
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--radius", action="store_true", help="certified radii of plain intervals and auto as well")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = tb.load(args.model)
    test = tb.data.load(args.data, "test", args.data_dir).subset(args.samples)
    sweep = [float(e) for e in args.epsilon.split(",")]
    facts = {
        "data": args.data,
        "samples": len(test),
        "epsilon": sweep,
        "effort": args.effort,
        "machine": f"CPU, {platform.machine()}, torch {torch.__version__}, {datetime.now(UTC).date()}",
    }
    x = torch.as_tensor(test.x).double()
    double = tb.load(args.model).double().eval()
    with torch.no_grad():
        rounds = []
        for _ in range(4):
            started = time.process_time()
            double(x)
            rounds.append(time.process_time() - started)
    forward = min(rounds)
    facts["forward_seconds"] = forward
    rows, certificates = [], {}
    for name, options in (("interval", {}), ("auto", {"effort": args.effort})):
        started = time.process_time()
        cert = tb.certify(model, test.x, test.y, sweep, domain=name, options=options)
        passes = (time.process_time() - started) / forward
        certificates[name] = cert
        facts[name] = {
            "verified": cert.verified_accuracy.tolist(),
            "passes": passes,
            "proven_by": cert.options.get("proven_by"),
        }
        facts["clean"] = cert.clean_accuracy
        rows.append((f"{name} ({passes:.0f} passes)", cert.verified_accuracy.tolist()))
    if args.steps:
        attack = tb.attack(model, test.x, test.y, sweep, steps=args.steps, restarts=args.restarts, seed=0)
        facts["attacked"] = attack.accuracy.tolist()
        facts["attack"] = {"steps": args.steps, "restarts": args.restarts}
        rows.append((f"attack ({args.steps} steps, {args.restarts} starts)", attack.accuracy.tolist()))
        for cert in certificates.values():
            assert not (cert.verified & ~attack.correct).any(), "a sample is both verified and flipped"
    if args.radius:
        plain = tb.certified_radius(model, test.x, test.y, domain="interval")
        auto = tb.certified_radius(model, test.x, test.y, options={"effort": args.effort})
        both = plain > 0
        facts["radius"] = {
            "interval": plain.median().item(),
            "auto": auto.median().item(),
            "median_ratio": (auto[both] / plain[both]).median().item(),
        }
        print("median radius:", facts["radius"])
    print(f"{args.data}, {len(test)} samples, clean {facts['clean']:.3f}; one forward pass {1e3 * forward:.1f} ms")
    print("| ε | " + " | ".join(f"{e:g}" for e in sweep) + " |")
    print("| --- " * (len(sweep) + 1) + "|")
    for name, values in rows:
        print(f"| {name} | " + " | ".join(f"{v:.3f}" for v in values) + " |")
    print("proven by:", facts["auto"]["proven_by"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
