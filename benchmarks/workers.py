"""Workers: the same certificate by one process, two, and a Dask cluster, and what a core proves in an hour.

    python benchmarks/workers.py times [--networks cnn,lsnn] [--samples 1000] [--effort 50]
    python benchmarks/workers.py rates [--samples 100]

``times`` certifies samples at ten ε without an executor, with processes of this machine, with one of them killed in the
middle, and with the workers of a Dask scheduler (processes on this machine too), and says whether the bytes are the
same. ``rates`` certifies with one thread and says how many pairs of sample and ε that is in an hour of one core. The
networks: the small CNN on digits and the LSNN of 128 units on vowels, each after a few epochs of the recipe's weight
attack; samples are those of the training set, over and over where they do not suffice.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.train import fit, recipe
from thetabox.workers import LocalProcesses, on_cluster

EPSILON = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1]
NETWORKS = {"cnn": ("digits", 10), "lsnn": ("vowels", 10)}
DOMAINS = {"cnn": ("interval", "linear", "auto"), "lsnn": ("interval", "histories", "auto")}
HOUR = 3600.0


def network(name: str, samples: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A trained network, and so many samples."""
    task, epochs = NETWORKS[name]
    train, validation = (tb.data.load(task, split) for split in ("train", "validation"))
    chosen = recipe(task)
    model = chosen.model(0)
    options = {**chosen.options("weight-attack"), "epochs": epochs}
    fit(model, train, validation, "weight-attack", seed=0, threads=1, progress=False, **options)
    places = torch.arange(samples) % len(train)
    return model, train.x[places], train.y[places]


@contextmanager
def cluster(workers: int) -> Iterator[Executor]:
    """A scheduler and so many workers, as processes."""
    with tempfile.TemporaryDirectory() as folder:
        started: list[subprocess.Popen[str]] = []

        def start(kind: str, *args: str, said: str) -> str:
            command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *args]
            started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder))
            lines: Any = started[-1].stderr
            return next(match[1] for line in lines if (match := re.search(said, line)))

        try:
            address = start("scheduler", "--host", "127.0.0.1", "--port", "0", said=r"Scheduler at:\s*(tcp://\S+)")
            for _ in range(workers):
                start("worker", address, "--nthreads", "1", "--no-dashboard", said="(Registered to)")
            with on_cluster(address) as executor:
                yield executor
        finally:
            for process in reversed(started):
                process.terminate()
                process.communicate()


def certified(
    model: nn.Module, x: Tensor, y: Tensor, executor: Executor | None, effort: float, **how: Any
) -> tuple[float, str]:
    """Seconds of ``tb.certify``, and a hash of what it says."""
    started = time.perf_counter()
    certificate = tb.certify(model, x, y, EPSILON, executor=executor, options={"effort": effort}, **how)
    seconds = time.perf_counter() - started
    return seconds, hashlib.sha256(
        certificate.margin.numpy().tobytes() + repr(certificate.options).encode()
    ).hexdigest()[:12]


def killer(executor: LocalProcesses) -> Callable[[int, int], None]:
    """Progress that kills one worker at a third of the work."""
    killed: list[int] = []

    def progress(done: int, total: int) -> None:
        if not killed and 3 * done > total and (running := executor.processes()):
            os.kill(running[0], 9)
            killed.append(running[0])

    return progress


def times(names: list[str], samples: int, effort: float, workers: int) -> None:
    """The table of one certificate, by whatever does the work."""
    print(f"{samples} samples, {len(EPSILON)} ε, effort {effort:g}; {machine()}")
    print("| network | by | seconds | of one process | bytes |\n| --- | --- | --- | --- | --- |")
    for name in names:
        data = network(name, samples)
        alone = same = None
        for way in (
            "one process",
            f"{workers} processes",
            f"{workers} processes, one killed",
            f"Dask, {workers} workers",
        ):
            where: Any = nullcontext()
            if "processes" in way:
                where = LocalProcesses(workers)
            elif "Dask" in way:
                where = cluster(workers)
            with where as executor:
                how = {"progress": killer(executor)} if "killed" in way else {}
                seconds, digest = certified(*data, executor, effort, **how)
            alone, same = alone or seconds, same or digest
            equal = "the same" if digest == same else f"OTHERS: {digest}"
            print(f"| {name} | {way} | {seconds:.1f} | {seconds / alone:.2f} | {equal} |", flush=True)


def rates(names: list[str], samples: int) -> None:
    """What a core proves in an hour, for each domain."""
    print(f"{samples} samples, {len(EPSILON)} ε; {machine()}")
    print("| network | domain | pairs an hour of one core | hours of one core for a million samples at ten ε |")
    print("| --- | --- | --- | --- |")
    for name in names:
        model, x, y = network(name, samples)
        for domain in DOMAINS[name]:
            started = time.process_time()
            tb.certify(model, x, y, EPSILON, domain=domain)
            pairs = samples * len(EPSILON) / (time.process_time() - started) * HOUR
            print(f"| {name} | {domain} | {pairs:.3g} | {1e7 / pairs:.2g} |", flush=True)


def machine() -> str:
    """Where this was measured, and when."""
    kind = platform.processor() or platform.machine()
    return f"{kind}, {os.cpu_count()} cores, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["times", "rates"])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--effort", type=float, default=50.0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.networks.split(",")
    if args.what == "times":
        times(names, args.samples, args.effort, args.workers)
    else:
        rates(names, args.samples)


if __name__ == "__main__":
    main()
