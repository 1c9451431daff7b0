"""What the domain of histories proves of a spiking network, stage by stage, and what that costs in forward passes.

    python benchmarks/histories.py model.safetensors --data vowels --samples 100 --epsilon 1e-4,5e-4,1e-3,2e-3

Each stage sees what the stages before it left open; costs add up, in plain forward passes of the same samples in
float64 on one thread, by processor time. ``--growth`` adds the cost of one stage over K, T, units, samples and classes
on untrained networks. Prints tables, and writes all of it as json with ``--out``.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox import data
from thetabox.verify.arguments import settings
from thetabox.verify.histories import Histories
from thetabox.verify.problem import Problem


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of one call, and its answer."""
    started = time.process_time()
    answer = function()
    return time.process_time() - started, answer


def forward_seconds(model: nn.Module, x: Tensor, rounds: int = 5) -> float:
    """Least processor time of a plain pass in float64."""
    plain, x = copy.deepcopy(model).double().eval(), x.double()
    with torch.no_grad():
        return min(seconds(lambda: plain(x))[0] for _ in range(rounds + 1))


def answers(model: nn.Module, x: Tensor) -> Tensor:
    """Classes, in float64."""
    with torch.no_grad():
        answered: Tensor = copy.deepcopy(model).double().eval()(x.double()).argmax(1)
    return answered


def margins(domain: Any, which: Tensor, epsilon: float, y: Tensor) -> Tensor:
    """Margins of some samples at one ε, in chunks that fit memory."""
    parts = which.split(domain.samples_at_once(1))
    return torch.cat([domain.margins(p, torch.full((1, len(p)), epsilon, dtype=torch.float64), y)[0] for p in parts])


def cascade(
    problem: Problem, y: Tensor, sweep: list[float], stages: list[Mapping[str, Any]], forward: float
) -> list[dict[str, Any]]:
    """Verified share and cost up to each stage, for every ε."""
    correct = answers(problem.model, problem.x) == y
    rows = []
    for epsilon in sweep:
        open_ = correct.clone()
        spent, verified = 0.0, 0
        for options in stages:
            which = open_.nonzero().squeeze(1)
            domain = Histories(problem, options)
            took, margin = seconds(
                lambda d=domain, w=which, e=epsilon: margins(d, w, e, y) if len(w) else torch.empty(0)
            )
            spent += took
            open_[which[margin > 0]] = False
            verified = int(correct.sum() - open_.sum())
            rows.append(
                {
                    "epsilon": epsilon,
                    "options": dict(options),
                    "verified": verified / len(y),
                    "forward_passes": spent / forward,
                    "seconds": spent,
                }
            )
            print(f"{epsilon:8.0e}  {options!s:36}  {verified / len(y):.3f}  {spent / forward:8.0f} passes", flush=True)
    return rows


def walks(problem: Problem, model: nn.Module, x: Tensor, y: Tensor, sweep: list[float]) -> list[dict[str, Any]]:
    """Cost of one walk of all samples for K = 4 and 8: in turns with the forward pass, least and median of five."""
    costs = []
    for histories in (4, 8):
        domain = Histories(problem, {"histories": histories})
        for epsilon in sweep:
            turns = [
                (
                    forward_seconds(model, x, 2),
                    seconds(lambda d=domain, e=epsilon: margins(d, torch.arange(len(x)), e, y))[0],
                )
                for _ in range(5)
            ]
            least = min(b for _, b in turns) / min(a for a, _ in turns)
            median = statistics.median(b / a for a, b in turns)
            costs.append({"epsilon": epsilon, "histories": histories, "least": least, "median": median})
            print(
                f"{epsilon:8.0e}  K = {histories} on all samples: {least:.0f} passes (median {median:.0f})", flush=True
            )
    return costs


def as_called(model: nn.Module, x: Tensor, y: Tensor, sweep: list[float], forward: float) -> list[dict[str, Any]]:
    """``tb.certify`` with its own effort, one ε a call: what is verified, by which stage, and the cost of the call."""
    calls = []
    for epsilon in sweep:
        took, cert = seconds(lambda e=epsilon: tb.certify(model, x, y, e))
        by = {name: counts[0] for name, counts in cert.options["proven_by"].items()}
        verified = float(cert.verified_accuracy[0])
        calls.append({"epsilon": epsilon, "verified": verified, "by": by, "forward_passes": took / forward})
        print(f"{epsilon:8.0e}  tb.certify: {verified:.3f}  {took:.1f} s  {by}", flush=True)
    return calls


def growth(epsilon: float) -> list[dict[str, Any]]:
    """Cost of one walk over K, T, units, samples and classes, each alone moved from the middle."""
    middle = {"histories": 4, "steps": 60, "units": 128, "samples": 64, "classes": 9}
    moves = {
        "histories": [1, 2, 4, 8, 16],
        "steps": [30, 60, 120],
        "units": [64, 128, 256],
        "samples": [16, 64, 256],
        "classes": [9, 36, 144],
    }
    costs = []
    for name, values in moves.items():
        for value in values:
            case = {**middle, name: value}
            torch.manual_seed(0)
            model = tb.models.LSNN(12, case["units"], case["classes"]).eval()
            x = torch.randn(case["samples"], case["steps"], 12)
            problem = Problem(model, settings("interval", None, "real", "float64", "cpu"), x)
            y = answers(model, x)
            domain = Histories(problem, {"histories": case["histories"]})
            everyone = torch.arange(len(x))
            took, _ = seconds(lambda d=domain, w=everyone, y=y: margins(d, w, epsilon, y))
            passes = took / forward_seconds(model, x)
            costs.append({**case, "moved": name, "epsilon": epsilon, "seconds": took, "forward_passes": passes})
            print(f"{name:10} {value:5}  {took:7.2f} s  {passes:6.1f} passes", flush=True)
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="vowels")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--epsilon", default="1e-4,5e-4,1e-3,2e-3")
    parser.add_argument("--stages", type=int, default=len(Histories.cascade), help="how many stages of the cascade")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = tb.load(given.model)
    test = data.load(given.data, "test").subset(given.samples)
    x, y = torch.as_tensor(test.x), torch.as_tensor(test.y)
    problem = Problem(model, settings("interval", None, "real", "float64", "cpu"), x)
    forward = forward_seconds(model, x)
    sweep = [float(e) for e in given.epsilon.split(",")]
    clean = float((answers(model, x) == y).double().mean())
    print(f"clean {clean:.3f}; one forward pass of {len(x)} samples {1e3 * forward:.1f} ms")
    result = {
        "model": given.model.name,
        "data": given.data,
        "samples": len(x),
        "clean": clean,
        "forward_seconds": forward,
        "certify": as_called(model, x, y, sweep, forward),
        "walks": walks(problem, model, x, y, sweep),
        "stages": cascade(problem, y, sweep, list(Histories.cascade[: given.stages]), forward),
    }
    domain = Histories(problem, Histories.cascade[0])
    rows = torch.tensor(sweep, dtype=torch.float64)[:, None].expand(-1, len(x))
    result["uncertain"] = domain.uncertain(slice(0, len(x)), rows).tolist()
    for epsilon, share in zip(sweep, result["uncertain"], strict=True):
        print(f"{epsilon:8.0e}  neurons with several histories at T/4, T/2, T:", end="")
        print("".join(f" {share[len(share) * q // 4 - 1]:.3f}" for q in (1, 2, 4)))
    if given.growth:
        result["growth"] = growth(sweep[-1])
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory of the process {result['peak_bytes'] / 2**20:.0f} MiB")
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
