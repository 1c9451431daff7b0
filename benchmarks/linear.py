"""What backward linear bounds prove and cost: the tables of docs/results.md and docs/performance.md.

    python benchmarks/linear.py digits --model digits.safetensors --out results/     # trains by the recipe if missing
    python benchmarks/linear.py radius --model fashion-mnist.safetensors --samples 100 --out results/
    python benchmarks/linear.py ladder --model fashion-mnist.safetensors --samples 100 --out results/
    python benchmarks/linear.py cost --out results/
    python benchmarks/linear.py lirpa --out results/

Each part prints its table and writes ``linear-PART.json``. One thread, processor time; a forward pass is that of the
same batch in float64, in the same run.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.models import logits
from thetabox.train.recipes import recipe
from thetabox.verify.arguments import settings
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.linear import Linear
from thetabox.verify.linear.domain import margin_rows
from thetabox.verify.problem import Problem

EPSILON = [1e-4, 1e-3, 2e-3, 5e-3, 7e-3, 1e-2, 2e-2]
Margins = Callable[[Tensor, Tensor], Tensor]


def problem(model: nn.Module, x: Tensor) -> Problem:
    """Traced once for all domains."""
    return Problem(model, settings("interval", None, "real", "float64", "cpu"), x)


# What the tables call the intermediate bounds, as the papers do.
OPTIONS = {"crown-ibp": {"intermediate": "interval"}, "crown": {"intermediate": "backward"}}


def right_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Samples that the network answers rightly at its own weights."""
    with torch.no_grad():
        return logits(model, x).argmax(1) == y


def bounds(name: str, made: Problem, y: Tensor) -> Margins:
    """``margins(places, ε of each)`` of the interval domain, or linear with one of its intermediate bounds."""
    domain = PlainIntervals(made) if name == "interval" else Linear(made, OPTIONS[name])

    def margins(places: Tensor, epsilon: Tensor) -> Tensor:
        return domain.margins(places, epsilon[None], y)[0]

    return margins


def spent(function: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds, and the answer."""
    started = time.process_time()
    answer = function()
    return time.process_time() - started, answer


def digits(args: argparse.Namespace) -> dict[str, Any]:
    """Verified accuracy of all test samples by domain."""
    if not args.model.exists():
        chosen = recipe("digits")
        model = chosen.model(args.seed)
        parts = [tb.data.load("digits", split=s) for s in ("train", "validation")]
        tb.train.fit(model, *parts, "standard", seed=args.seed, threads=1, progress=False, **chosen.options("standard"))
        tb.save(model, args.model)
    model, test = tb.load(args.model), tb.data.load("digits", split="test")
    x, y = torch.as_tensor(test.x)[: args.samples], torch.as_tensor(test.y)[: args.samples]
    made = problem(model, x)
    attack = tb.attack(model, x, y, epsilon=EPSILON, steps=args.steps, restarts=2)
    table: dict[str, Any] = {"samples": len(x), "epsilon": EPSILON, "attacked": attack.accuracy.tolist()}
    table["clean"] = float(right_of(model, x, y).double().mean())
    everything = torch.arange(len(x))
    for name in ("interval", "crown-ibp", "crown"):
        margins = bounds(name, made, y)
        seconds, proven = spent(
            lambda m=margins: torch.stack([m(everything, torch.full((len(x),), e).double()) for e in EPSILON])
        )
        assert not ((proven > 0) & ~attack.correct).any(), "a sample is both verified and flipped"
        table[name] = (proven > 0).double().mean(1).tolist()
        table[f"{name}_ms_a_sample"] = 1e3 * seconds / proven.numel()
    print(f"digits, {len(x)} samples, clean {table['clean']:.3f}")
    print("| ε | " + " | ".join(f"{e:g}" for e in EPSILON) + " | ms a sample |")
    print("| --- " * (len(EPSILON) + 2) + "|")
    for name in ("interval", "crown-ibp", "crown", "attacked"):
        cost = f"{table[f'{name}_ms_a_sample']:.1f}" if name != "attacked" else ""
        print(f"| {name} | " + " | ".join(f"{v:.3f}" for v in table[name]) + f" | {cost} |")
    domain = Linear(made, OPTIONS["crown"])
    layers, lost = domain.losses(slice(0, 60), torch.full((1, min(60, len(x))), 1e-2).double(), y)
    table["losses"] = dict(zip(layers, lost[0].tolist(), strict=True))
    print("lost at 0.01: " + ", ".join(f"{n} {v:.3f}" for n, v in table["losses"].items()))
    return table


def searched(margins: Margins, start: Tensor, rtol: float) -> Tensor:
    """A proven radius of each sample, all searched at once, from below and above a start."""
    low, high = torch.zeros_like(start), torch.full_like(start, torch.inf)
    at = start.clone()
    while True:
        open_ = (high > low * (1 + rtol)) & (at > 1e-9) & (at < 1.0)
        if not open_.any():
            return low
        places = open_.nonzero().squeeze(1)
        proven = margins(places, at[places]) > 0
        low[places[proven]], high[places[~proven]] = at[places[proven]], at[places[~proven]]
        middle = torch.where(low > 0, (low * high).sqrt(), high / 2)
        at = torch.where(high.isinf(), 2 * low, middle)


def radius(args: argparse.Namespace) -> dict[str, Any]:
    """Median certified radius by domain."""
    model = tb.load(args.model)
    test = tb.data.load(args.task, split="test", data_dir=args.data_dir).subset(100)
    x, y = torch.as_tensor(test.x)[: args.samples], torch.as_tensor(test.y)[: args.samples]
    made = problem(model, x)
    right = right_of(model, x, y)
    table: dict[str, Any] = {"samples": len(x), "clean": float(right.double().mean()), "rtol": args.rtol}
    start = torch.where(right, 2e-4, 0.0).double()
    for name, factor in (("interval", 1.0), ("crown-ibp", 4.0), ("crown", 5.0)):
        if name in args.domains:
            seconds, radii = spent(lambda n=name, s=start * factor: searched(bounds(n, made, y), s, args.rtol))
            start = torch.where(right, radii.clamp(min=1e-6), 0.0)
            table[name] = {"median": float(radii.median()), "seconds": seconds, "radii": radii.tolist()}
            ratio = table[name]["median"] / table["interval"]["median"]
            print(f"{name:9} median radius {table[name]['median']:.3e}   {ratio:5.1f} × interval   {seconds:6.0f} s")
    return table


# Multiples of the median interval radius, in the order in which they are tried.
LADDER = [20.0, 15.0, 27.0, 36.0]
IMAGES_TOGETHER = 4


def ladder(args: argparse.Namespace) -> dict[str, Any]:
    """How many images CROWN proves at multiples of the median interval radius: cheaper than bisecting them all."""
    model = tb.load(args.model)
    test = tb.data.load(args.task, split="test", data_dir=args.data_dir).subset(100)
    x, y = torch.as_tensor(test.x)[: args.samples], torch.as_tensor(test.y)[: args.samples]
    made = problem(model, x)
    right = right_of(model, x, y)
    plain = searched(bounds("interval", made, y), torch.where(right, 2e-4, 0.0).double(), args.rtol)
    unit = float(plain.median())
    margins = bounds("crown", made, y)
    radii = torch.zeros(len(x), dtype=torch.float64)
    beyond = torch.where(right, torch.inf, 0.0).double()
    table: dict[str, Any] = {"samples": len(x), "clean": float(right.double().mean()), "interval_median": unit}
    for multiple in LADDER:
        epsilon, seconds = multiple * unit, 0.0
        # Proven at a larger ε is proven here, and what is not proven at a smaller one is not asked for again.
        todo = ((radii < epsilon) & (beyond > epsilon)).nonzero().squeeze(1)
        for part in todo.split(IMAGES_TOGETHER):
            took, margin = spent(lambda p=part, e=epsilon: margins(p, torch.full((len(p),), e).double()))
            seconds += took
            proven = margin > 0
            radii[part[proven]], beyond[part[~proven]] = epsilon, epsilon
        share = float((radii >= epsilon).double().mean())
        table[f"{multiple:g}"] = {"proven": share, "seconds": seconds, "asked": len(todo)}
        print(f"{multiple:g} × {unit:.2e}: {share:.2f} proven ({len(todo)} images asked, {seconds:.0f} s)", flush=True)
        if share < 0.5:
            break
    ratio = radii[plain > 0] / plain[plain > 0]
    table["median_radius_at_least"] = float(radii.median())
    print(
        f"median radius at least {float(radii.median()) / unit:.0f} × interval,"
        f" median ratio {float(ratio.median()):.1f}"
    )
    return table


def case(samples: int, classes: int = 10) -> tuple[nn.Module, Tensor, Tensor]:
    """The paper's CNN with random weights, its inputs, its own answers as labels."""
    torch.manual_seed(0)
    model = tb.models.ConvNet(classes=classes).double().eval()
    x = torch.randn(samples, 1, 28, 28, dtype=torch.float64)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def cost(args: argparse.Namespace) -> dict[str, Any]:
    """Forward passes of the paper's CNN, growth with samples and classes, peak memory."""
    costs: dict[str, Any] = {}
    if args.model.exists():
        model = tb.load(args.model).double().eval()
        test = tb.data.load("fashion-mnist", split="test", data_dir=args.data_dir).subset(100)
        x, y = torch.as_tensor(test.x).double(), torch.as_tensor(test.y)
    else:
        model, x, y = case(64)

    def forward(count: int) -> float:
        with torch.no_grad():
            return min(spent(lambda: model(x[:count]))[0] for _ in range(5)) / count

    print("| bounds | ε | samples | forward passes of the batch |")
    print("| --- | --- | --- | --- |")
    for name, count, sweep in (("crown-ibp", 32, [1e-3]), ("crown", args.samples, [1e-3, 2e-3, 5e-3])):
        for epsilon in sweep:
            domain = Linear(problem(model, x[:count]), OPTIONS[name])
            one = seconds = float("inf")
            # The least of several in turns with the forward pass; CROWN once.
            for _ in range(5 if name == "crown-ibp" else 1):
                one = min(one, forward(count))
                took, proven = spent(
                    lambda d=domain, e=epsilon, n=count: d.margins(slice(None), torch.full((1, n), e).double(), y)
                )
                seconds = min(seconds, took)
            one = min(one, forward(count))
            costs[f"{name} at {epsilon:g}"] = seconds / count / one
            share = float((proven > 0).double().mean())
            print(f"| {name} | {epsilon:g} | {count} | {seconds / count / one:.0f} ({share:.2f} proven) |")
    costs["samples"], costs["classes"] = {}, {}
    for count in (8, 16, 32, 64):
        made = problem(model, x[:count])
        seconds, _ = spent(
            lambda m=made, n=count: Linear(m, OPTIONS["crown-ibp"]).margins(
                slice(None), torch.full((1, n), 1e-3).double(), y
            )
        )
        costs["samples"][count] = seconds
    for classes in (5, 10, 20, 40):
        wide, inputs, labels = case(8, classes)
        made = problem(wide, inputs)
        seconds, _ = spent(
            lambda m=made, t=labels: Linear(m, OPTIONS["crown-ibp"]).margins(
                slice(None), torch.full((1, 8), 1e-4).double(), t
            )
        )
        costs["classes"][classes] = seconds
    print("crown-ibp, seconds by samples:", {k: round(v, 2) for k, v in costs["samples"].items()})
    print("crown-ibp, 8 samples, seconds by classes:", {k: round(v, 2) for k, v in costs["classes"].items()})
    costs["memory_mib"] = {
        name: int(
            subprocess.run(
                [sys.executable, "-W", "ignore", "-c", MEMORY_PROBE, name, epsilon, count],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        / 1024
        for name, epsilon, count in (("forward", "0", "32"), ("crown-ibp", "1e-4", "32"), ("crown", "1e-3", "2"))
    }
    print("peak memory above the loaded network, MiB:", {k: round(v) for k, v in costs["memory_mib"].items()})
    return costs


MEMORY_PROBE = """
import re, sys, torch
from benchmarks.linear import OPTIONS, Linear, case, problem
torch.set_num_threads(1)
name, epsilon, count = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
model, x, y = case(count)
made = problem(model, x)
def kib(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew: it would be that of the process that forked
before = kib("VmRSS")
if name == "forward":
    with torch.no_grad():
        model(x)
else:
    Linear(made, OPTIONS[name]).margins(slice(None), torch.full((1, count), epsilon).double(), y)
print(kib("VmHWM") - before)
"""


def lirpa(args: argparse.Namespace) -> dict[str, Any]:
    """Our CROWN-IBP against auto_LiRPA's on an MLP: time and bounds, same batch, both in float64."""
    from thetabox.verify.lirpa.bounds import lirpa_bounds

    torch.manual_seed(0)
    model = tb.models.MLP([784, 256, 256, 10]).double()
    x = torch.randn(50, 784, dtype=torch.float64)
    with torch.no_grad():
        y = model(x).argmax(1)
    rows, comparison = margin_rows(y, 10), {}
    domain = Linear(problem(model, x), OPTIONS["crown-ibp"])
    for epsilon in (1e-4, 1e-3, 1e-2):
        values = torch.full((1, len(x)), epsilon).double()
        ours, mine = min(
            (spent(lambda v=values: domain.margins(slice(None), v, y)[0]) for _ in range(5)), key=lambda p: p[0]
        )
        theirs, other = min(
            (spent(lambda e=epsilon: lirpa_bounds(model, x, e, "CROWN-IBP", rows=rows)[0].amin(1)) for _ in range(2)),
            key=lambda p: p[0],
        )
        comparison[f"{epsilon:g}"] = {
            "ratio": theirs / ours,
            "ms": 1e3 * ours,
            "apart": float((mine - other).abs().max()),
        }
        print(
            f"ε {epsilon:g}: ours {1e3 * ours:.1f} ms, auto_LiRPA {1e3 * theirs:.0f} ms, {theirs / ours:.0f} times;"
            f" margins differ by at most {comparison[f'{epsilon:g}']['apart']:.1e}"
        )
    return comparison


def main() -> None:
    """One part, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["digits", "radius", "ladder", "cost", "lirpa"])
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--model", type=Path, default=Path("results/linear.safetensors"))
    parser.add_argument("--task", default="fashion-mnist")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--samples", type=int, default=None)
    parser.add_argument("--domains", default="interval,crown-ibp,crown", type=lambda text: text.split(","))
    parser.add_argument("--rtol", type=float, default=0.02)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.samples is None:
        args.samples = {"digits": 360, "radius": 100, "ladder": 100, "cost": 4, "lirpa": 50}[args.part]
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    table = {"digits": digits, "radius": radius, "ladder": ladder, "cost": cost, "lirpa": lirpa}[args.part](args)
    table["machine"] = f"{platform.machine()}, torch {torch.__version__}, one thread, {time.strftime('%Y-%m-%d')}"
    (args.out / f"linear-{args.part}.json").write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
