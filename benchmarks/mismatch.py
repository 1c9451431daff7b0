"""What batching saves when random mismatch is drawn: one call for many draws against a loop, in one run.

    python benchmarks/mismatch.py

Three ways to the same accuracies: a loop that copies the network for each draw, ``thetabox.mismatch`` one draw at a
time (``batch=1``), and as it chooses itself. One thread, processor time, in turns; the least of all rounds counts.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import thetabox as tb

LEVEL = 0.3
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "LSNN 12-32-9, T = 30, 64 samples, 100 draws": (lambda: tb.models.LSNN(12, 32, 9), (64, 30, 12), 100),
    "LSNN 12-64-9, T = 60, 100 samples, 100 draws": (lambda: tb.models.LSNN(12, 64, 9), (100, 60, 12), 100),
    "CNN for 8×8 images, 360 samples, 100 draws": (tb.models.ConvNet.small, (360, 1, 8, 8), 100),
    "CNN of the paper, 64 samples, 40 draws": (tb.models.ConvNet, (64, 1, 28, 28), 40),
}


def copying_loop(model: nn.Module, x: Tensor, y: Tensor, draws: int) -> Tensor:
    """Accuracy of each draw, the plain way."""
    accuracies = []
    for draw in range(draws):
        stream = torch.Generator().manual_seed(draw)
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for weight in twin.parameters():
                noise = torch.randn(weight.shape, generator=stream)
                weight.copy_(weight.double() + LEVEL * weight.double().abs() * noise)
            accuracies.append((twin(x).argmax(1) == y).double().mean())
    return torch.stack(accuracies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("| network | copying loop, ms a draw | one at a time | as chosen | faster than the copying loop | than one |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (build, shape, draws) in CASES.items():
        torch.manual_seed(0)
        model, x = build().eval(), torch.randn(shape)
        with torch.no_grad():
            y = model(x).argmax(1)
        ways: dict[str, Callable[[], Tensor]] = {
            "copying": lambda m=model, x=x, y=y, d=draws: copying_loop(m, x, y, d),
            "one": lambda m=model, x=x, y=y, d=draws: tb.mismatch(m, x, y, LEVEL, d, batch=1).accuracy[0],
            "chosen": lambda m=model, x=x, y=y, d=draws: tb.mismatch(m, x, y, LEVEL, d).accuracy[0],
        }
        least = dict.fromkeys(ways, float("inf"))
        accuracies = {}
        for _ in range(rounds):
            for way, run in ways.items():
                started = time.process_time()
                accuracies[way] = run()
                least[way] = min(least[way], time.process_time() - started)
        assert all(torch.equal(accuracies["copying"], accuracy) for accuracy in accuracies.values())
        numbers = " | ".join(f"{1000 * seconds / draws:.2f}" for seconds in least.values())
        gains = " | ".join(f"{least[way] / least['chosen']:.2f}" for way in ("copying", "one"))
        print(f"| {name} | {numbers} | {gains} |")


if __name__ == "__main__":
    main()
