"""``thetabox landscape``."""

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
from thetabox.json_text import finite, json_text
from thetabox.report.results import number


@click.command("landscape", cls=options.Command)
@options.model_options
@options.data_options()
@click.option("--zeta", type=values.Range(min=0, min_open=True), default=0.2, show_default=True, help="Error at α = 1.")
@click.option(
    "--reach", type=values.Range(min=0, min_open=True), default=2.0, show_default=True, help="α from −reach to it."
)
@click.option("--points", type=click.IntRange(min=3), default=51, show_default=True, help="Values of α.")
@click.option("--directions", type=click.IntRange(min=1), default=5, show_default=True)
@options.box_options
@options.machine_options
@options.worker_options
@options.out_option(required=False)
def command(
    zeta: float,
    reach: float,
    points: int,
    directions: int,
    device: str,
    seed: int,
    out: Path | None,
    **source: Any,
) -> None:
    """Cross entropy at weights θ + α ζ |θ| ξ, over α, for several random directions ξ.

    With --out: landscape.json, landscape.csv, landscape.png and landscape.pdf.
    """
    from thetabox.report.figures import picture_files  # here, for matplotlib takes a second
    from thetabox.report.measured_figures import landscape_figure

    given = read_all(**source)
    alpha = [reach * (2 * index / (points - 1) - 1) for index in range(points)]  # exactly 0 in the middle

    def run() -> tb.measure.LandscapeResult:
        with progress_bar() as bar, chosen_executor(device) as executor:
            return tb.measure.landscape(
                given.model,
                given.data.x,
                given.data.y,
                alpha=alpha,
                directions=directions,
                zeta=zeta,
                seed=seed,
                box=given.box,
                device=device,
                progress=ProgressLine(bar, "landscape"),
                executor=executor,
            )

    facts = {"schema": "thetabox.landscape/1", "model": given.model_info, "data": given.data_info}
    if out is None:
        result = run()
    else:
        with report.output_folder(out) as folder:
            result = run()
            rows = (
                (direction, at, loss)
                for direction, row in enumerate(result.loss.tolist())
                for at, loss in zip(result.alpha.tolist(), row, strict=True)
            )
            title = f"ζ = {number(zeta)}, flatness {number(result.flatness)}"
            figure = landscape_figure(result.alpha.numpy(), result.loss.numpy(), title)
            files: dict[str, bytes | str] = {
                "landscape.json": json_text(finite(facts | result.to_json())),
                "landscape.csv": report.csv_text(("direction", "alpha", "loss"), rows),
                **picture_files("landscape", figure),
            }
            report.write_files(folder, files)
    print_json(facts | result.to_json())
    table = report.plain_table("α", "mean loss", "largest")
    chosen = sorted({0, points // 4, points // 2, points - 1 - points // 4, points - 1})
    for index in chosen:
        losses = result.loss[:, index]
        table.add_row(number(float(result.alpha[index])), number(float(losses.mean())), number(float(losses.max())))
    show(f"flatness {number(result.flatness)}, {directions} directions", table)
