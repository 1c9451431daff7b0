"""What a certificate costs, against one plain forward pass of the same batch in the same precision, in one run.

    python benchmarks/cost.py --out docs/figures

Prints the table of docs/performance.md and writes ``cost.json`` and ``growth.png``. One thread, processor time; what
is compared takes turns. Every ratio is printed twice, so that it says something on a shared machine too: the least time
of all rounds over the least time of all rounds, and the median over the rounds of the ratio within a round, with the
least and the largest of these.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import thetabox as tb
from thetabox.verify.arguments import settings
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.problem import Problem
from thetabox.verify.search import bounds

SWEEP = [0.0, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2]
EPSILON = 1e-3
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 784-256-256-10, batch 512": (lambda: tb.models.MLP([784, 256, 256, 10]), (512, 784)),
    "CNN of the paper, batch 64": (lambda: tb.models.ConvNet(), (64, 1, 28, 28)),
    "LSNN 40-256-4, T = 50, batch 256": (lambda: tb.models.LSNN(40, 256, 4), (256, 50, 40)),
}


class Case:
    """One network with its batch, random where only its shape is given, in float64, exported and warm."""

    def __init__(self, model: nn.Module, x: tuple[int, ...] | torch.Tensor) -> None:
        torch.manual_seed(0)
        self.model = model.double().eval()
        if isinstance(x, tuple):
            # Pixels are brightnesses from 0 to 1; what a recurrent network hears has both signs.
            x = (torch.randn if len(x) == 3 else torch.rand)(x, dtype=torch.float64)
        self.x = x.double()
        with torch.no_grad():
            self.y = self.model(self.x).argmax(1)
        # As certify does: samples of one class together.
        order = self.y.argsort(stable=True)
        self.x, self.y = self.x[order].contiguous(), self.y[order]
        self.problem = Problem(self.model, settings("interval", None, "real", "float64", "cpu"), self.x)

    def forward(self) -> None:
        """One plain pass."""
        with torch.no_grad():
            self.model(self.x)

    def certify(self, sweep: list[float]) -> None:
        """Margins of the whole batch at every ε."""
        epsilon = torch.tensor(sweep, dtype=torch.float64)[:, None].expand(-1, len(self.x))
        domain = PlainIntervals(self.problem)
        for part in torch.arange(len(self.x)).split(domain.samples_at_once(len(sweep))):
            bounds.margins(domain, part, epsilon[:, part], self.y)


def rounds_of(rounds: int, *functions: Callable[[], None]) -> list[list[float]]:
    """Seconds of each function in every round, in which they take turns; one round before that warms them up."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(rounds):
        for function, seconds in zip(functions, times, strict=True):
            started = time.process_time()
            function()
            seconds.append(time.process_time() - started)
    return times


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    """``above`` in units of ``below``: of their least times, and the median and range of the rounds' own ratios."""
    own = [a / b for a, b in zip(above, below, strict=True)]
    return {"least": min(above) / min(below), "median": statistics.median(own), "from": min(own), "to": max(own)}


def shown(quotient: dict[str, float]) -> str:
    """One ratio for the eye."""
    return f"{quotient['least']:6.2f} (median {quotient['median']:.2f}, {quotient['from']:.2f} to {quotient['to']:.2f})"


def cases(trained: Path | None, task: str) -> dict[str, Callable[[], Case]]:
    """The networks of the table, untrained; and a trained one on its task's test samples."""
    makers = {name: (lambda make=make, shape=shape: Case(make(), shape)) for name, (make, shape) in NETWORKS.items()}
    if trained is not None:
        x = tb.data.load(task, "test").x
        makers[f"trained on {task}, {len(x)} test samples"] = lambda: Case(tb.load(trained), x)
    return makers


def ratios(rounds: int, made: dict[str, Callable[[], Case]]) -> dict[str, dict[str, Any]]:
    """Cost of one ε and of a sweep of ten."""
    costs: dict[str, dict[str, Any]] = {}
    for name, make in made.items():
        case = make()
        forward, one, ten = rounds_of(
            rounds, case.forward, lambda c=case: c.certify([EPSILON]), lambda c=case: c.certify(SWEEP)
        )
        costs[name] = {
            "forward_s": min(forward),
            "one": ratio(one, forward),
            "sweep": ratio(ten, one),
            "sweep_passes": ratio(ten, forward),
        }
        print(f"{name}: forward {min(forward) * 1e3:.1f} ms")
        print(f"    one ε {shown(costs[name]['one'])} passes")
        print(f"    ten ε {shown(costs[name]['sweep'])} times one, {shown(costs[name]['sweep_passes'])} passes")
    return costs


def against_lirpa(rounds: int) -> dict[str, float] | None:
    """auto_LiRPA's IBP on the MLP, in units of our time."""
    from thetabox.verify.lirpa.bounds import lirpa_bounds

    model = tb.models.MLP([784, 256, 256, 10])
    x = torch.randn(512, 784)
    case = Case(tb.models.MLP([784, 256, 256, 10]), (512, 784))
    try:
        ours, theirs = rounds_of(
            rounds, lambda: case.certify([EPSILON]), lambda: lirpa_bounds(model, x, EPSILON, method="IBP")
        )
    except tb.InputError as error:
        print(error)
        return None
    quotient = ratio(theirs, ours)
    print(f"auto_LiRPA's IBP takes {shown(quotient)} times as long")
    print(f"    ({min(theirs):.2f} s; ours in float64, theirs in float32)")
    return quotient


def growth(rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds against samples, ε, width and time steps (LSNN; MLP for samples)."""
    curves: dict[str, list[tuple[float, float]]] = {"samples": [], "number of ε": [], "units": [], "time steps": []}
    for samples in (32, 64, 128, 256, 512):
        case = Case(tb.models.LSNN(12, 128, 9), (samples, 30, 12))
        curves["samples"].append((samples, min(rounds_of(rounds, lambda c=case: c.certify([EPSILON]))[0])))
    case = Case(tb.models.LSNN(12, 128, 9), (64, 30, 12))
    for count in (1, 2, 4, 8, 16):
        curves["number of ε"].append(
            (
                count,
                min(rounds_of(rounds, lambda n=count: case.certify([EPSILON * (1 + i / 100) for i in range(n)]))[0]),
            )
        )
    for units in (64, 128, 256, 512):
        case = Case(tb.models.LSNN(12, units, 9), (64, 30, 12))
        curves["units"].append((units, min(rounds_of(rounds, lambda c=case: c.certify([EPSILON]))[0])))
    for steps in (15, 30, 60, 120):
        case = Case(tb.models.LSNN(12, 128, 9), (64, steps, 12))
        curves["time steps"].append((steps, min(rounds_of(rounds, lambda c=case: c.certify([EPSILON]))[0])))
    return curves


MEMORY_PROBE = """
import re, sys, torch
import benchmarks.cost as cost
torch.set_num_threads(1)
make, shape = cost.NETWORKS[sys.argv[1]]
case = cost.Case(make(), shape)
def kib(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew: it would be that of the process that forked
before = kib("VmRSS")
case.certify(cost.SWEEP) if sys.argv[2] == "sweep" else case.forward()
print(kib("VmHWM") - before)
"""


def memory() -> dict[str, dict[str, float]]:
    """Peak memory above the loaded network, MiB, each in a process of its own."""
    peaks: dict[str, dict[str, float]] = {}
    for name in NETWORKS:
        peaks[name] = {}
        for what in ("forward", "sweep"):
            answer = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", MEMORY_PROBE, name, what],
                capture_output=True,
                text=True,
                check=True,
            )
            peaks[name][what] = int(answer.stdout.split()[-1]) / 1024
        print(
            f"{name:35} peak memory: forward {peaks[name]['forward']:6.0f} MiB, ten ε {peaks[name]['sweep']:6.0f} MiB"
        )
    return peaks


def draw(curves: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Four panels, log-log, with the line of linear growth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(13, 3.2), constrained_layout=True)
    for axis, (name, points) in zip(axes, curves.items(), strict=True):
        sizes, seconds = zip(*points, strict=True)
        axis.loglog(sizes, seconds, "o-", label="measured")
        axis.loglog(sizes, [seconds[-1] * s / sizes[-1] for s in sizes], ":", color="grey", label="linear")
        axis.set_xlabel(name)
        axis.set_xticks(sizes, [str(s) for s in sizes])
        axis.minorticks_off()
    axes[0].set_ylabel("seconds")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["ratios", "lirpa", "growth", "memory"])
    parser.add_argument("--trained", type=Path, help="a checkpoint to measure as well")
    parser.add_argument("--task", default="vowels", help="of that checkpoint")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    record = args.out / "cost.json"
    measurements = json.loads(record.read_text()) if record.exists() else {}
    measurements["machine"] = (
        f"{platform.machine()}, torch {torch.__version__}, one thread, {time.strftime('%Y-%m-%d')}"
    )
    if args.only in (None, "ratios"):
        measurements["ratios"] = ratios(args.rounds, cases(args.trained, args.task))
    if args.only in (None, "lirpa"):
        measurements["auto_lirpa"] = against_lirpa(min(args.rounds, 3))
    if args.only in (None, "memory"):
        measurements["memory_mib"] = memory()
    if args.only in (None, "growth"):
        measurements["growth_s"] = growth(args.rounds)
        draw(measurements["growth_s"], args.out / "growth.png")
    record.write_text(json.dumps(measurements, indent=1))


if __name__ == "__main__":
    main()
