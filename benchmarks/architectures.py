"""Four architectures on the digits, certified end to end: what is proven at each ε, and what a call costs.

    python -m benchmarks.architectures --out FILE.json

A Transformer encoder and an LSTM that read an image row by row, a network of inverted residuals as MobileNetV2's, and
a U-Net of two inputs (the image, and its halves of rows swapped). Trained briefly; ``tb.certify`` with plain intervals
and with ``auto``, and ``tb.attack`` on the same samples. No sample may be both verified and flipped: the script ends
with an error if one is. One thread, processor time of the whole call; a forward pass is that of all samples at once.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thetabox as tb
from benchmarks.transformer import DigitEncoder

Inputs = tuple[Tensor, ...]


class RowReader(nn.Module):
    """``nn.LSTM`` over rows, and a head on its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 24, batch_first=True), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Inverted(nn.Module):
    """Expansion, depthwise convolution and projection, added to what came in (Sandler et al., CVPR 2018)."""

    def __init__(self, channels: int, expansion: int = 4) -> None:
        super().__init__()
        wide = channels * expansion
        self.body = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class InvertedResiduals(nn.Module):
    """A strided convolution, two inverted residuals and a head."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()
        self.body = nn.Sequential(*first, Inverted(8), Inverted(8), nn.Flatten(), nn.Linear(128, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x[:, None])


class TwoInputUNet(nn.Module):
    """Two images down and up again, with a skip by concatenation, then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)
        self.bottom, self.up = nn.Conv2d(8, 12, 3, padding=1), nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.merge, self.head = nn.Conv2d(14, 6, 3, padding=1), nn.Linear(6 * 16, 10)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        down = F.relu(torch.cat([self.first(x[:, None]), self.second(other[:, None])], 1))
        up = F.relu(self.up(F.relu(self.bottom(F.max_pool2d(down, 2)))))
        merged = F.relu(self.merge(torch.cat([down, up], 1)))
        return self.head(F.avg_pool2d(merged, 2).flatten(1))


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "Transformer encoder": lambda: DigitEncoder(16, 2, 1, norm_first=False, activation="relu"),
    "LSTM": RowReader,
    "inverted residuals (MobileNetV2)": InvertedResiduals,
    "U-Net of two inputs": TwoInputUNet,
}


def images(split: str, name: str) -> tuple[Inputs, Tensor]:
    """What a network reads, and labels."""
    data = tb.data.load("digits", split)
    x = torch.as_tensor(data.x).float().reshape(-1, 8, 8)
    return (x, x.roll(4, 1)) if "two inputs" in name else (x,), torch.as_tensor(data.y).long()


def trained(model: nn.Module, x: Inputs, y: Tensor, epochs: int) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    for _ in range(epochs):
        for part in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(*(t[part] for t in x)), y[part]).backward()
            optimizer.step()
    return model.eval()


def spent(call: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds, and what was returned."""
    started = time.process_time()
    returned = call()
    return time.process_time() - started, returned


def measured(name: str, samples: int, sweep: list[float], epochs: int) -> dict[str, Any]:
    """One architecture: shares of the samples, seconds, and passes of a sample and ε."""
    torch.manual_seed(0)
    model = trained(ARCHITECTURES[name](), *images("train", name), epochs)
    several, y = images("test", name)
    several, y = tuple(t[:samples] for t in several), y[:samples]
    x = several if len(several) > 1 else several[0]
    with torch.no_grad():
        forward = min(spent(lambda: model(*several))[0] for _ in range(9))
        clean = float((model(*several).argmax(1) == y).double().mean())
    attacked = tb.attack(model, x, y, sweep, steps=10, restarts=1)
    rows: dict[str, Any] = {"clean": clean, "attack": attacked.accuracy.tolist()}
    for domain in ("interval", "auto"):
        seconds, certificate = spent(lambda d=domain: tb.certify(model, x, y, sweep, domain=d))
        if bool((certificate.verified & ~attacked.correct).any()):
            raise SystemExit(f"{name}, {domain}: a sample is both verified and flipped")
        rows[domain] = certificate.verified_accuracy.tolist()
        rows[f"{domain}: seconds"] = seconds
        rows[f"{domain}: passes"] = seconds / forward / len(sweep)
    return rows


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilon", default="0,1e-4,1e-3,3e-3,1e-2")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sweep = [float(e) for e in args.epsilon.split(",")]
    machine = f"CPU, {platform.machine()}, torch {torch.__version__}, {datetime.now(UTC).date()}"
    facts: dict[str, Any] = {"samples": args.samples, "epsilon": sweep, "machine": machine}
    print("| network | | " + " | ".join(f"{e:g}" for e in sweep) + " | seconds | passes |")
    print("| --- " * (len(sweep) + 4) + "|")
    for name in ARCHITECTURES:
        rows = facts[name] = measured(name, args.samples, sweep, args.epochs)
        for way in ("interval", "auto", "attack"):
            shares = " | ".join(f"{share:.2f}" for share in rows[way])
            cost = f"{rows[f'{way}: seconds']:.1f} | {rows[f'{way}: passes']:.0f}" if way != "attack" else "|"
            print(f"| {name} | {way} | {shares} | {cost} |", flush=True)
    args.out.write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
