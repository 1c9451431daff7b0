"""``thetabox demo``."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from thetabox import report
from thetabox.cli import options, values
from thetabox.cli.console import print_json, show
from thetabox.cli.jobs_bar import jobs_bar
from thetabox.processes import Tell, run_all

EPSILON = "0,1e-4,2e-4,5e-4,1e-3,2e-3,5e-3,1e-2"
ROBUST = "weight-attack+forward-noise"


@dataclass(frozen=True)
class DemoNetwork:
    """One network of the demo; ``steps`` of the attack, in ``restarts`` runs."""

    name: str
    task: str
    method: str
    steps: int
    restarts: int


# The longest first, so that two processes end at about the same time.
JOBS = (
    DemoNetwork("LSNN, weight attack + noise", "vowels", ROBUST, 10, 1),
    DemoNetwork("LSNN, standard", "vowels", "standard", 10, 1),
    DemoNetwork("CNN, weight attack + noise", "digits", ROBUST, 20, 2),
    DemoNetwork("CNN, standard", "digits", "standard", 20, 2),
)
SHOWN = (3, 2, 1, 0)
# Forward passes beyond plain intervals for each trial of a radius, of which a search takes some ten: less than the
# certificate's default, for the demo is to end soon.
RADIUS_EFFORT = 100


@dataclass(frozen=True)
class DemoSettings:
    """What all jobs share."""

    epsilon: list[float]
    samples: int
    seed: int
    device: str
    epochs: int | None
    folder: Path


@click.command("demo", cls=options.Command)
@click.option("--epsilon", type=values.Numbers(), default=EPSILON, show_default=True, metavar="E[,E…]")
@click.option("--samples", type=click.IntRange(min=1), default=200, show_default=True, help="Test samples a data set.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True, metavar="auto|cpu|cuda")
@click.option("--processes", type=click.IntRange(min=1), default=2, show_default=True, help="Networks at a time.")
@click.option("--epochs", type=click.IntRange(min=1), help="Shorten the training (for a quick look).")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, metavar="DIR")
def command(
    epsilon: list[float], samples: int, seed: int, device: str, processes: int, epochs: int | None, out: Path
) -> None:
    """A CNN learns handwritten digits and a recurrent spiking network spoken vowels, each in the standard way and
    against a weight attack with forward noise.
    """
    started = time.perf_counter()
    with report.output_folder(out) as folder:
        plan = DemoSettings(epsilon, samples, seed, device, epochs, folder)
        with jobs_bar([job.name for job in JOBS]) as event:
            results = run_all(_one, [(job, plan) for job in JOBS], processes, event)
        entries = [(JOBS[i].name, *results[i]) for i in SHOWN]
        page = report.write_comparison(folder, entries, title="Four networks and what is proven of them")
    print_json({"networks": {name: cert.to_json() for name, cert, _ in entries}, "report": str(page)})
    for table in report.comparison_tables(entries):
        show("", table)
    show("", f"{time.perf_counter() - started:.0f} s; report: {page}")


def _one(work: tuple[DemoNetwork, DemoSettings], tell: Tell) -> tuple[Any, Any]:
    """Train, certify and attack one network: (certificate, attack)."""
    import thetabox as tb
    from thetabox.models import sha256
    from thetabox.verify import Radii

    job, plan = work
    test = tb.data.load(job.task, "test").subset(plan.samples)
    model, path = _trained(job, plan, tell)
    certificate = tb.certify(
        model,
        test.x,
        test.y,
        plan.epsilon,
        device=plan.device,
        baseline=True,
        profile=True,
        progress=tell("certifying"),
        model_info={"source": path.name, "sha256": sha256(path)},
        data_info=test.info,
    )
    radius = tb.certified_radius(
        model,
        test.x,
        test.y,
        device=plan.device,
        options={"effort": RADIUS_EFFORT},
        details=True,
        progress=tell("radii"),
    )
    assert isinstance(radius, Radii)
    attack = tb.attack(
        model,
        test.x,
        test.y,
        plan.epsilon,
        steps=job.steps,
        restarts=job.restarts,
        seed=plan.seed,
        device=plan.device,
        progress=tell("attacking"),
    )
    tell("done")(1, 1)
    return replace(certificate, radius=radius.radius), attack


def _trained(job: DemoNetwork, plan: DemoSettings, tell: Tell) -> tuple[Any, Path]:
    """One network of the demo and its checkpoint.

    Raises:
        KeyboardInterrupt: the training was interrupted.
    """
    import thetabox as tb
    from thetabox.train import fit, recipe

    how = recipe(job.task)
    arguments = how.options(job.method) | ({} if plan.epochs is None else {"epochs": plan.epochs})
    told = tell("training")
    path = plan.folder / f"{job.task}-{'standard' if job.method == 'standard' else 'robust'}.safetensors"
    result = fit(
        how.model(plan.seed),
        tb.data.load(job.task, "train"),
        tb.data.load(job.task, "validation"),
        job.method,
        seed=plan.seed,
        device=plan.device,
        threads=1,
        progress=False,
        on_epoch=lambda record: told(record.epoch, arguments["epochs"]),
        out=path,
        info={"task": job.task},
        **arguments,
    )
    if result.interrupted:
        raise KeyboardInterrupt
    return result.model, path
