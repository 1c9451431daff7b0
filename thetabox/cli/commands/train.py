"""``thetabox train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from thetabox.cli import options, values
from thetabox.cli.console import print_json, show
from thetabox.data import load
from thetabox.errors import InputError
from thetabox.models import load as load_model
from thetabox.models import sha256
from thetabox.report import output_folder
from thetabox.report.results import percent
from thetabox.train import fit
from thetabox.train import recipe as recipe_of
from thetabox.train.methods import method as checked_method
from thetabox.user_code import is_place

METHOD = "See `thetabox methods`; join two with +. package.module:Class runs a method of your own."


@click.command("train", cls=options.Command)
@click.option("--task", "--data", "task", required=True, metavar="TASK_OR_NPZ", help="A task, or a .npz with x and y.")
@click.option("--method", default="standard", show_default=True, help=METHOD)
@click.option("--set", "settings", type=values.Setting(), multiple=True, help="Setting of the method; repeatable.")
@click.option("--model", "architecture", metavar="NAME", help="Another network than the task's own.")
@click.option("--model-set", type=values.Setting(), multiple=True, help="Constructor argument of it; repeatable.")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the data; the task's own by default.")
@click.option("--batch-size", type=click.IntRange(min=1))
@click.option("--lr", type=values.Range(), help="Rate of the optimiser.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the task's files (or set THETABOX_DATA).")
@click.option("--from", "start", type=click.Path(path_type=Path), metavar="FILE", help="Start from this checkpoint.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted training.")
@options.machine_options
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Checkpoint, .safetensors.")
def command(
    task: str,
    method: str,
    settings: tuple[tuple[str, str], ...],
    architecture: str | None,
    model_set: tuple[tuple[str, str], ...],
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    data_dir: Path | None,
    start: Path | None,
    resume: bool,
    device: str,
    threads: int | None,
    seed: int,
    out: Path,
) -> None:
    """The best epoch by validation accuracy is kept. Ctrl-C keeps the best so far, --resume goes on."""
    if out.is_dir():
        raise InputError(f"cannot write {out}: it is a folder; name a file")
    if architecture is not None and is_place(architecture):
        raise InputError("train writes networks of its own, lsnn, convnet, mlp, resnet32; train yours by tb.train.fit")
    chosen = values.once("--set", settings)
    checked_method(method, chosen)
    if start is not None and (architecture is not None or model_set):
        raise InputError("--from brings its own network; leave --model and --model-set out")
    model = None if start is None else load_model(start)
    train, validation = (load(task, split, data_dir) for split in ("train", "validation"))
    recipe = recipe_of(task, train.x.shape[1:], len(train.classes))
    arguments: dict[str, Any] = recipe.options(method, chosen)
    for name, value in {"epochs": epochs, "batch_size": batch_size, "lr": lr}.items():
        if value is not None:
            arguments[name] = value
    if start is None:  # what does not fit is refused before anything is written
        recipe = recipe.with_network(architecture, values.literals("--model-set", model_set))
    with output_folder(out.parent):
        result = fit(
            recipe.model(seed) if model is None else model,
            train,
            validation,
            method,
            seed=seed,
            device=device,
            threads=threads,
            out=out,
            info={"task": task} | ({} if start is None else {"from": sha256(start)}),
            resume=resume,
            **arguments,
        )
    if result.best_epoch == 0:
        raise KeyboardInterrupt("interrupted before the first epoch; nothing was written")
    best = percent(result.best_validation_accuracy)
    known = {"best_epoch": result.best_epoch, "seconds": result.seconds, "interrupted": result.interrupted}
    print_json({"file": str(out), "validation_accuracy": result.best_validation_accuracy, **known})
    show(f"{out}: validation accuracy {best} (epoch {result.best_epoch}, {result.seconds:.0f} s)")
    if result.interrupted:
        raise KeyboardInterrupt(f"interrupted; {out} holds the best epoch so far, and --resume goes on")
