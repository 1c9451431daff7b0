"""Deep residual networks: what is verified at ε, in which domain, and what it costs.

    python benchmarks/deep.py growth --model resnet18 --width 8          # what a layer does to an interval, and a ball
    python benchmarks/deep.py train --model resnet18 --width 8 --seconds 120 --data-dir DATA --out resnet18-w8.pt
    python benchmarks/deep.py table --model resnet18 --width 8 --weights resnet18-w8.pt --samples 20 --out results/

Inputs are CIFAR-10's, from a folder or the lossy copy that ``--data-dir`` holds; without ``--weights`` the weights are
random, the statistics of batch norm those of random inputs, and labels the network's own answers. One thread,
processor time; a forward pass is that of the same samples in float64, in the same run.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from resnet18 import ResNet18
from torch import Tensor, nn

import thetabox as tb
from thetabox.verify.arguments import settings
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.linear import Linear
from thetabox.verify.problem import Problem

EPSILON = [0.0, 1e-9, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3]


def network(name: str, width: int, weights: Path | None) -> nn.Module:
    """One of the networks, with weights from a file or random ones."""
    torch.manual_seed(0)
    makers: dict[str, Callable[[], nn.Module]] = {
        "resnet18": lambda: ResNet18(width),
        "resnet18-small-stem": lambda: ResNet18(width, small_stem=True),
        "resnet32": lambda: tb.models.ResNet32(width=width),
    }
    model = makers[name]()
    if weights is not None:
        model.load_state_dict(torch.load(weights, weights_only=True))
        return model.eval()
    with torch.no_grad():
        for _ in range(20):
            model.train()(torch.randn(32, 3, 32, 32))
    return model.eval()


def samples(args: argparse.Namespace, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Test samples; where weights are random, labels are what the network answers."""
    if args.weights is None:
        x = torch.randn(args.samples, 3, 32, 32)
        with torch.no_grad():
            return x, model(x).argmax(1)
    test = tb.data.load("cifar10", split="test", data_dir=args.data_dir)
    x, y = torch.as_tensor(test.x).float(), torch.as_tensor(test.y)
    places = torch.arange(args.samples) * (len(x) // args.samples)
    return x[places], y[places]


def spent(function: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds, and the answer."""
    started = time.process_time()
    answer = function()
    return time.process_time() - started, answer


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Standard training by the clock, with shifts and reflections."""
    model = network(args.model, args.width, None)
    data = tb.data.load("cifar10", split="train", data_dir=args.data_dir)
    x, y = torch.as_tensor(data.x).float(), torch.as_tensor(data.y)
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    started, done = time.process_time(), 0.0
    while done < 1.0:
        for batch in torch.randperm(len(x)).split(64):
            done = (time.process_time() - started) / args.seconds
            shift = torch.randint(-3, 4, (2,)).tolist()
            part = torch.roll(x[batch], shift, (-2, -1))
            part = part.flip(-1) if torch.rand(()) < 0.5 else part
            for group in optimiser.param_groups:
                group["lr"] = 0.05 * max(1e-3, 1.0 - done)
            loss = nn.functional.cross_entropy(model.train()(part), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if done >= 1.0:
                break
    torch.save(model.eval().state_dict(), args.out)
    return {"loss": float(loss.detach())}


def growth(args: argparse.Namespace) -> dict[str, Any]:
    """Radius of each layer's values at ε = 0 in units of their spread, in bits: of intervals alone, and with balls."""
    model = network(args.model, args.width, args.weights)
    x, _ = samples(args, model)
    bound = Linear(
        Problem(model, settings("interval", None, "real", "float64", "cpu"), x), {"intermediate": "interval"}
    )
    epsilon = torch.full((len(x),), args.at, dtype=torch.float64)
    radii: dict[str, Any] = {"layers": []}
    norms, bound.norms = bound.norms, None
    with torch.no_grad(), sound_kernels():
        plain = bound.samples(x, epsilon)
        bound.norms = norms
        balls = bound.samples(x, epsilon)
    print("| layer | intervals | with balls | bits a layer |\n| --- | --- | --- | --- |")
    before = 0.0
    for operation in bound.graph.operations:
        if "conv" not in operation.operator or not plain.plain(operation.index):
            continue
        row = []
        for each in (plain, balls):
            value = each.interval(operation.index)
            spread = float(((balls.interval(operation.index).upper + balls.interval(operation.index).lower) / 2).std())
            row.append(math.log2(float((value.upper - value.lower).mean()) / 2.0 / spread + 1e-300))
        grown, before = row[0] - before, row[0]
        radii["layers"].append([operation.where or operation.name, *row])
        print(f"| {operation.where or operation.name} | {row[0]:.1f} | {row[1]:.1f} | {grown:.1f} |")
    return radii


def table(args: argparse.Namespace) -> dict[str, Any]:
    """Verified accuracy, seconds and passes by domain and effort."""
    model = network(args.model, args.width, args.weights)
    x, y = samples(args, model)
    double = network(args.model, args.width, args.weights).double()
    with torch.no_grad():
        double(x.double())
        forward = min(spent(lambda: double(x.double()))[0] for _ in range(3)) / len(x)
    right = float((double(x.double()).argmax(1) == y).double().mean())
    measurements: dict[str, Any] = {"right": right, "samples": len(x), "forward_seconds": forward, "rows": []}
    print(f"{args.model} width {args.width}: {len(x)} samples, {right:.2f} right, forward pass {1e3 * forward:.2f} ms")
    print("| domain | effort | " + " | ".join(f"{e:g}" for e in args.epsilon) + " | seconds | passes |")
    print("| --- " * (len(args.epsilon) + 4) + "|")
    # The comparison of module and graph is paid once a call, whatever the domain.
    before, _ = spent(lambda: tb.certify(model, x, y, 0.0, domain="interval"))
    ways = [("interval", None), ("linear", "interval"), *(("auto", e) for e in args.effort)]
    for name, how in ways:
        key = "intermediate" if name == "linear" else "effort"
        options = None if how is None else {key: how}
        took, cert = spent(lambda n=name, o=options: tb.certify(model, x, y, args.epsilon, domain=n, options=o))
        verified = cert.verified_accuracy.tolist()
        seconds = max(took - before, 0.0) / (len(x) * len(args.epsilon))
        row = " | ".join(f"{v:.2f}" for v in verified)
        print(f"| {name} | {how or ''} | {row} | {seconds:.3f} | {seconds / forward:.0f} |", flush=True)
        measurements["rows"].append({"domain": name, "how": how, "verified": verified, "seconds": seconds})
    return measurements


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"growth": growth, "train": train, "table": table}
    parser.add_argument("part", choices=parts)
    parser.add_argument("--model", default="resnet18", choices=["resnet18", "resnet18-small-stem", "resnet32"])
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--at", type=float, default=0.0, help="ε of growth")
    parser.add_argument("--epsilon", type=lambda s: [float(e) for e in s.split(",")], default=EPSILON)
    parser.add_argument("--effort", type=lambda s: [float(e) for e in s.split(",")], default=[300.0, 3000.0])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    measurements = parts[args.part](args)
    if args.out is not None and args.part != "train":
        args.out.mkdir(parents=True, exist_ok=True)
        name = f"deep-{args.part}-{args.model}-w{args.width}.json"
        (args.out / name).write_text(json.dumps(measurements, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
