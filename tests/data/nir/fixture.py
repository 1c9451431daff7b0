"""What the scripts beside this file share: digits, a minute of training, and how a framework's run is stored.

Each fixture is a network as its framework wrote it (``NAME.nir``) and ``NAME.npz`` with

- ``x``: the inputs of 100 digits, sixteenths of one as whole numbers; the same in every step, or one row a step;
- ``y``: their labels; ``steps``; ``dynamics``: the preset that reads the file; ``framework`` with its version;
- ``spikes/NODE``: what every layer of neurons gave out in the framework's own run, ``[100, steps, …]``, as whole
  numbers, for there may be several spikes a step; ``mean/NODE`` of a leaky readout its mean over time.

The scripts run in environments of their own, each with the framework that it names; the tests need none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
SAMPLES, TRAINED = 100, 1200

Run = Callable[[torch.Tensor], dict[str, torch.Tensor]]
"""From x [batch, steps, inputs] to what every layer gives out, by the names that their nodes get in the file."""


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Sixteenths of pixels [n, 64], and labels."""
    held = load_digits()
    return held.data.astype(np.uint8), held.target.astype(np.int64)


def rate_coded(x: np.ndarray, steps: int, seed: int = 0) -> np.ndarray:
    """Spikes [n, steps, 64] of 16 sixteenths, each as likely as its pixel is bright."""
    drawn = np.random.default_rng(seed).random((len(x), steps, x.shape[1]))
    return (16 * (drawn < x[:, None] / 16)).astype(np.uint8)


def inputs(x: np.ndarray, steps: int) -> torch.Tensor:
    """Whole sixteenths as real numbers [n, steps, 64]."""
    values = torch.from_numpy(x.astype(np.float32) / 16)
    return values if values.dim() == 3 else values[:, None].expand(-1, steps, -1).contiguous()


def scaled(module: torch.nn.Module, factor: float) -> torch.nn.Module:
    """The layer with its weights times a factor, so that an untrained network spikes."""
    with torch.no_grad():
        module.weight.mul_(factor)
    return module


def train(
    run: Run,
    parameters: Iterable[torch.nn.Parameter],
    x: np.ndarray,
    y: np.ndarray,
    steps: int,
    epochs: int = 15,
    scale: float = 10.0,
) -> None:
    """Adam on the cross-entropy of mean spikes; prints the accuracy on digits that were not trained with."""
    held = [p for p in parameters if p.requires_grad]
    optimiser = torch.optim.Adam(held, 5e-3)
    labels = torch.from_numpy(y)
    for _ in range(epochs):
        for rows in torch.randperm(TRAINED).split(60):
            optimiser.zero_grad()
            out = list(run(inputs(x[rows.numpy()], steps)).values())[-1]
            torch.nn.functional.cross_entropy(scale * out.mean(1), labels[rows]).backward()
            optimiser.step()
    with torch.no_grad():
        out = list(run(inputs(x[TRAINED:], steps)).values())[-1]
    print("  accuracy", float((out.mean(1).argmax(1) == labels[TRAINED:]).float().mean()))


def store(
    name: str, dynamics: str, framework: str, graph: nir.NIRGraph, run: Run, x: np.ndarray, y: np.ndarray, steps: int
) -> None:
    """Write the file and the framework's own run on the last 100 digits."""
    # Packed in one of them alone: packing small tensors costs more than it saves.
    nir.write(HERE / f"{name}.nir", graph, compression="gzip" if name.endswith("_leaky") else None)
    x, y = x[-SAMPLES:], y[-SAMPLES:]
    with torch.no_grad():
        found = {node: out.detach().numpy() for node, out in run(inputs(x, steps)).items()}
    kept: dict[str, Any] = {}
    for node, out in found.items():
        assert out.shape[:2] == (SAMPLES, steps), (node, out.shape)
        whole = bool((out == np.rint(out)).all()) and out.min() >= 0 and out.max() < 256
        kept |= {f"spikes/{node}": out.astype(np.uint8)} if whole else {f"mean/{node}": out.mean(1)}
        print(f"  {name} {node}: {out.mean():.4f} a step, most {out.max():g}")
    np.savez_compressed(HERE / f"{name}.npz", x=x, y=y, steps=steps, dynamics=dynamics, framework=framework, **kept)
    print(f"  {(HERE / f'{name}.nir').stat().st_size} + {(HERE / f'{name}.npz').stat().st_size} bytes")
