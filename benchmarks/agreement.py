"""Cost of comparing the module with its graph, and false alarms of it.

    python -m benchmarks.agreement cost [FOLDER]      share of `tb.certify`, on the four networks of `thetabox demo`
    python -m benchmarks.agreement alarms [COUNT]     random honest networks that are refused: none should be

FOLDER is the demo's (default `demo`): its networks are read.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch

import thetabox as tb
from tests.verify.agreement.random_networks import random_network
from thetabox.verify import agreement, arguments
from thetabox.verify.agreement import compare as comparison
from thetabox.verify.histories import domain, leaky

EPSILON = [0, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2]
SAMPLES = 200
# Calls that are timed: a digit's takes half a second and scatters.
CALLS = {"digits-standard": 20, "digits-robust": 20, "vowels-standard": 1, "vowels-robust": 1}


def cost(folder: Path) -> None:
    """Processor seconds of the comparison (and of the proof that a spiking network is what it describes) within one
    call of `tb.certify` on a network that was just read, and their share: means of several calls after a first one.
    The last column is the share of the call that the demo makes, which measures a baseline and a profile besides.
    """
    torch.set_num_threads(1)
    print("| network | certify, s | comparison, s | share | share in the demo |\n| --- | --- | --- | --- | --- |")
    for name, calls in CALLS.items():
        test = tb.data.load(name.partition("-")[0], "test").subset(SAMPLES)
        spent: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        for as_demo in [False, True] * (1 + calls):
            model = tb.load(folder / f"{name}.safetensors")
            parts: list[float] = []
            with (
                mock.patch.object(comparison, "check", _timed(comparison.check, parts)),
                mock.patch.object(leaky, "check_description", _timed(leaky.check_description, parts)),
                mock.patch.object(domain, "check_description", _timed(domain.check_description, parts)),
            ):
                started = time.process_time()
                tb.certify(model, test.x, test.y, EPSILON, baseline=as_demo, profile=as_demo)
                spent[as_demo].append((time.process_time() - started, sum(parts)))
        (seconds, compared), demo = (map(sum, zip(*spent[as_demo][1:], strict=True)) for as_demo in (False, True))
        whole, part = demo
        row = f"{seconds / calls:.2f} | {compared / calls:.3f} | {compared / seconds:.1%} | {part / whole:.1%}"
        print(f"| {name} | {row} |", flush=True)


def _timed(function: Callable[..., object], spent: list[float]) -> Callable[..., object]:
    def timed(*given: object) -> object:
        started = time.process_time()
        returned = function(*given)
        spent.append(time.process_time() - started)
        return returned

    return timed


def alarms(count: int) -> None:
    """Every random network through the comparison."""
    outcomes: Counter[str] = Counter()
    for seed in range(count):
        net, x = random_network(seed)
        how = arguments.settings("interval", None, "real", "float64", "cpu")
        try:
            agreement.checked_problem(net, how, x, torch.tensor([0.0, 0.01], dtype=torch.float64), x)
            outcomes["passed"] += 1
        except tb.UnsupportedOperator:
            outcomes["operator without a rule"] += 1
        except tb.InputError as error:
            outcomes["refused"] += 1
            print(f"{seed}: {error}")
    print(dict(outcomes))


if __name__ == "__main__":
    what, rest = sys.argv[1], sys.argv[2:]
    if what == "cost":
        cost(Path(rest[0] if rest else "demo"))
    else:
        alarms(int(rest[0]) if rest else 2000)
