"""Differences between the methods of a comparison, seed by seed: mean and 95 % interval (Student's t), in points.

    python benchmarks/paired_differences.py COMPARISON [--base METHOD] [--without METHOD:SEED,...]

COMPARISON is the folder that ``thetabox compare`` wrote. Accuracy at a level of mismatch is the mean over its draws.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path

import torch
from scipy.stats import t


def accuracies(folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Levels, and method → accuracy ``[seeds, levels]`` in percent, level 0 as its draws have it."""
    levels = tomllib.loads((folder / "config.toml").read_text())["level"]
    rows = json.loads((folder / "results.json").read_text())["rows"]
    found = {}
    for row in rows:
        seeds = [[sum(drawn) / len(drawn) for drawn in one["accuracy"]] for one in row["mismatch"]]
        found[row["label"]] = 100.0 * torch.tensor(seeds, dtype=torch.float64)
    return levels, found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", default="standard")
    parser.add_argument("--without", default="", help="networks that did not train, as METHOD:SEED")
    args = parser.parse_args()
    levels, found = accuracies(args.folder)
    left_out = {tuple(name.split(":")) for name in args.without.split(",") if name}
    networks = {(name, str(seed)) for name, values in found.items() for seed in range(len(values))}
    if args.base not in found or not left_out <= networks:
        parser.error(
            f"no such network; there are seeds 0 to {len(next(iter(found.values()))) - 1} of {', '.join(found)}"
        )
    print("| methods | seeds | " + " | ".join(f"mismatch {level:g}" for level in levels) + " |")
    print("| --- " * (2 + len(levels)) + "|")
    for name, values in found.items():
        if name == args.base:
            continue
        seeds = [s for s in range(len(values)) if not {(name, str(s)), (args.base, str(s))} & left_out]
        if len(seeds) < 2:
            parser.error(f"an interval needs two seeds of {name} and {args.base} or more")
        apart = values[seeds] - found[args.base][seeds]
        half = t.ppf(0.975, len(seeds) - 1) * apart.std(0) / len(seeds) ** 0.5
        cells = [f"{a:+.1f} ± {h:.1f}" for a, h in zip(apart.mean(0).tolist(), half.tolist(), strict=True)]
        print(f"| {name} - {args.base} | {len(seeds)} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
