"""A small Transformer on the digits, an image row a token: what is proven at each ε, and what that costs.

    python benchmarks/transformer.py --out FILE.json

Trained briefly, with post-norm or pre-norm encoder layers; plain intervals, ``linear`` (pre-activations from intervals)
and the attack of ``tb.attack`` on the same samples. No sample may be both verified and flipped: the script ends with an
error if one is. One thread, processor time.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thetabox as tb

SIDE = 8


class DigitEncoder(nn.Module):
    """Rows as tokens, encoder layers, their mean, a head."""

    def __init__(self, width: int, heads: int, layers: int, *, norm_first: bool, activation: str) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(SIDE, width), nn.Parameter(torch.randn(SIDE, width) * 0.1)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, 0.0, activation, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x) + self.position).mean(1))


def trained(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    return model.eval()


def rows_of(part: object) -> tuple[Tensor, Tensor]:
    """Images as ``[samples, rows, columns]``."""
    x = torch.as_tensor(part.x).float()  # type: ignore[attr-defined]  # a data set
    return x.reshape(len(x), SIDE, SIDE), torch.as_tensor(part.y).long()  # type: ignore[attr-defined]  # a data set


def seconds(run: object) -> float:
    started = time.process_time()
    run()  # type: ignore[operator]  # a function
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilon", default="0,1e-5,1e-4,3e-4,1e-3")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (rows_of(tb.data.load("digits", split)) for split in ("train", "test"))
    x, y = test[0][: args.samples], test[1][: args.samples]
    sweep = [float(e) for e in args.epsilon.split(",")]
    facts: dict[str, object] = {
        "samples": len(x),
        "epsilon": sweep,
        "machine": f"CPU, {platform.machine()}, torch {torch.__version__}, {datetime.now(UTC).date()}",
    }
    for layers, norm_first, activation in ((1, False, "relu"), (2, False, "relu"), (1, True, "gelu")):
        torch.manual_seed(0)
        model = DigitEncoder(args.width, 2, layers, norm_first=norm_first, activation=activation)
        model = trained(model, *train, args.epochs)
        forward = min(seconds(lambda m=model: m(x)) for _ in range(5))
        rows: dict[str, object] = {}
        flipped = ~tb.attack(model, x, y, epsilon=sweep, steps=10, restarts=1).correct
        rows["attack"] = [round(float(v), 3) for v in (~flipped).double().mean(1)]
        for domain, options in (("interval", {}), ("linear", {"intermediate": "interval"})):
            started = time.process_time()
            cert = tb.certify(model, x, y, sweep, domain=domain, options=options)
            if bool((cert.verified & flipped).any()):
                raise SystemExit(f"{domain}: a sample is both verified and flipped")
            rows[domain] = [round(float(v), 3) for v in cert.verified_accuracy]
            rows[f"{domain}: forward passes a sample and ε"] = round(
                (time.process_time() - started) / forward / len(sweep), 1
            )
        facts[f"{layers} layers, {'pre' if norm_first else 'post'}-norm, {activation}"] = rows
        print(json.dumps(rows, indent=1))
    args.out.write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
