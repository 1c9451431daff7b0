"""``thetabox attack``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import thetabox as tb
from thetabox import report
from thetabox.cli import options
from thetabox.cli.console import ProgressLine, print_json, progress_bar, show
from thetabox.cli.executors import chosen_executor
from thetabox.cli.inputs import read_all
from thetabox.report.results import number, percent

COLUMNS = ("sample", "label", "predicted", "epsilon", "margin", "correct")


@click.command("attack", cls=options.Command)
@options.model_options
@options.data_options()
@options.epsilon_option()
@options.box_options
@options.machine_options
@options.worker_options
@options.out_option(required=False)
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--restarts", type=click.IntRange(min=1), default=2, show_default=True)
def command(
    epsilon: list[float], device: str, seed: int, out: Path | None, steps: int, restarts: int, **source: Any
) -> None:
    """What is left is an upper bound of the accuracy that could be proven. With --out: attack.json and attack.csv."""
    given = read_all(**source)

    def run() -> tb.measure.AttackResult:
        with progress_bar() as bar, chosen_executor(device) as executor:
            return tb.attack(
                given.model,
                given.data.x,
                given.data.y,
                epsilon,
                steps=steps,
                restarts=restarts,
                box=given.box,
                seed=seed,
                device=device,
                progress=ProgressLine(bar, "attack"),
                executor=executor,
            )

    facts = {"schema": "thetabox.attack/1", "model": given.model_info, "data": given.data_info}
    if out is None:
        result = run()
    else:
        with report.output_folder(out) as folder:
            result = run()
            files = {
                "attack.json": report.json_text(facts | result.to_json()),
                "attack.csv": report.csv_text(COLUMNS, _rows(result)),
            }
            report.write_files(folder, files)
    print_json(facts | result.to_json())
    table = report.plain_table("ε", "attacked accuracy", f"of {len(given.data)}")
    for e, accuracy, correct in zip(result.epsilon, result.accuracy, result.correct, strict=True):
        table.add_row(number(float(e)), percent(float(accuracy)), str(int(correct.sum())))
    show(f"clean accuracy {percent(result.clean_accuracy)}", table)


def _rows(result: tb.measure.AttackResult) -> Any:
    for e, epsilon in enumerate(result.epsilon.tolist()):
        for n, margin in enumerate(result.margin[e].tolist()):
            yield n, int(result.label[n]), int(result.predicted[n]), epsilon, margin, bool(result.correct[e, n])
