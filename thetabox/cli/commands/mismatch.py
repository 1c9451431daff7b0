"""``thetabox mismatch``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import thetabox as tb
from thetabox import report
from thetabox.cli import options, values
from thetabox.cli.console import ProgressLine, print_json, progress_bar, show
from thetabox.cli.executors import chosen_executor
from thetabox.cli.inputs import read_all
from thetabox.report.results import number, percent


@click.command("mismatch", cls=options.Command)
@options.model_options
@options.data_options()
@click.option("--level", type=values.Numbers(), default="0.1,0.3", show_default=True, metavar="L[,L…]")
@click.option(
    "--draws", type=click.IntRange(min=1), default=100, show_default=True, help="Draws of the weights a level."
)
@options.box_options
@options.machine_options
@options.worker_options
@options.out_option(required=False)
def command(level: list[float], draws: int, device: str, seed: int, out: Path | None, **source: Any) -> None:
    """Every weight from N(θ, (level |θ|)²), many times. With --out: mismatch.json and mismatch.csv."""
    given = read_all(**source)

    def run() -> tb.measure.MismatchResult:
        with progress_bar() as bar, chosen_executor(device) as executor:
            return tb.mismatch(
                given.model,
                given.data.x,
                given.data.y,
                level,
                draws,
                seed=seed,
                box=given.box,
                device=device,
                progress=ProgressLine(bar, "mismatch"),
                executor=executor,
            )

    facts = {"schema": "thetabox.mismatch/1", "model": given.model_info, "data": given.data_info}
    if out is None:
        result = run()
    else:
        with report.output_folder(out) as folder:
            result = run()
            rows = (
                (float(at), draw, accuracy)
                for at, row in zip(result.level, result.accuracy.tolist(), strict=True)
                for draw, accuracy in enumerate(row)
            )
            files = {
                "mismatch.json": report.json_text(facts | result.to_json()),
                "mismatch.csv": report.csv_text(("level", "draw", "accuracy"), rows),
            }
            report.write_files(folder, files)
    print_json(facts | result.to_json())
    table = report.plain_table("level", "mean", "std", "worst draw")
    for at, mean, std, least in zip(result.level, result.mean, result.std, result.min, strict=True):
        table.add_row(number(float(at)), percent(float(mean)), percent(float(std)), percent(float(least)))
    show(f"clean accuracy {percent(result.clean_accuracy)}, {draws} draws", table)
